"""Scores as one table: systems by corpora by metrics, spread over seeds, tests on paired items.

The names of the systems of Table I live here; systems of any other name stand after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.page import Value
from re_llm.core.records import DIMENSIONS, Score
from re_llm.evaluate.empathy.epitome import MECHANISMS
from re_llm.evaluate.significance import (
    SpeakerInterval,
    UaDifference,
    WilcoxonResult,
    enough_resamples,
    holm,
    speaker_interval,
    ua_difference,
    wilcoxon,
)

SYSTEMS = {
    "text": "Text + LLM",
    "cascade": "Whisper + LLM",
    "text-label": "Text + LLM + emotion label",
    "blsp-emo": "BLSP-Emo w/o fine-tuning",
    "blsp-emo-ft": "BLSP-Emo fine-tuned",
    "re-llm": "RE-LLM",
    "re-llm-no-dim": "RE-LLM w/o dimensional task",
    "re-llm-no-encoder": "RE-LLM w/o emotion encoder",
}
DEFAULT_BASELINE = "blsp-emo-ft"
METRIC_TITLES = {
    "ER": "ER",
    "EX": "Ex",
    "IP": "IP",
    "UA": "UA",
    "WA": "WA",
    "F1": "macro-F1",
    "WF1": "weighted F1",
    "UNPARSABLE": "unparsable",
    "HEAD_UA": "UA of the head",
    "HEAD_WA": "WA of the head",
    "HEAD_F1": "macro-F1 of the head",
    "HEAD_WF1": "weighted F1 of the head",
    **{f"{kind}_{name.upper()}": f"{kind} {name}" for name in DIMENSIONS for kind in ("CCC", "RMSE")},
    "WER": "word error rate",
    "CHOICE": "right choices",
    "ROUGE_L": "ROUGE-L",
    "JUDGE_QUALITY": "judged quality",
    "JUDGE_EMPATHY": "judged empathy",
    "JUDGE_PAIRWISE": "judged wins",
}
CORPORA = {"iemocap": "IEMOCAP", "esd": "ESD", "msp_podcast": "MSP-Podcast"}
TABLE_I = ("ER", "EX", "UA")
NO_CORPUS = "replies"
GROUP_KEY = "*"

# RE-LLM paper, Table I: ER and Ex as mean over items, UA. For orientation only.
PAPER = {
    "text": ((1.782, 1.609, 1.704), (0.607, 0.504, 0.397), None),
    "cascade": ((1.723, 1.681, 1.628), (0.602, 0.592, 0.420), None),
    "text-label": ((1.820, 1.730, 1.740), (0.885, 1.136, 0.577), None),
    "blsp-emo": ((1.780, 1.740, 1.775), (0.791, 0.820, 0.467), (0.712, 0.960, 0.574)),
    "blsp-emo-ft": ((1.771, 1.730, 1.576), (0.780, 1.098, 0.521), (0.728, 0.968, 0.664)),
    "re-llm": ((1.805, 1.847, 1.852), (0.822, 1.206, 0.639), (0.766, 0.983, 0.643)),
    "re-llm-no-dim": ((1.856, 1.851, 1.889), (0.763, 1.029, 0.739), (0.745, 0.989, 0.664)),
    "re-llm-no-encoder": ((1.808, 1.730, 1.546), (0.808, 1.114, 0.546), (0.729, 0.968, 0.661)),
}


def system_title(system: str) -> str:
    """Title of a system in the tables; its own name for one that is not of Table I."""
    return SYSTEMS.get(system, system)


def corpus_title(corpus: str) -> str:
    return CORPORA.get(corpus, corpus)


def in_table_order(names: Iterable[str], known: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda n: (known.index(n) if n in known else len(known), n))


@dataclass(frozen=True)
class Cell:
    """One metric of one system on one corpus.

    Attributes:
        mean, std: over all items (of all seeds); std is None for UA.
        seeds: mean of every seed; seed_spread: their standard deviation, None with one seed.
        interval: 95 % bootstrap interval (UA with one seed), None else.
    """

    mean: float
    std: float | None
    items: int
    seeds: tuple[float, ...]
    interval: tuple[float, float] | None = None

    @property
    def seed_spread(self) -> float | None:
        return stdev(self.seeds) if len(self.seeds) > 1 else None


def show_cell(cell: Cell, *, best: bool = False, test: str = "") -> Value:
    """A cell of the report: mean and standard deviation; beneath them the spread over seeds or the interval."""
    text = f"{cell.mean:.3f}" + (f" ({cell.std:.2f})" if cell.std is not None else "")
    notes = [test] if test else []
    if cell.seed_spread is not None:
        notes.insert(0, f"± {cell.seed_spread:.3f}")
    elif cell.interval:
        notes.insert(0, f"[{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]")
    return Value(text, "; ".join(notes), best)


@dataclass(frozen=True)
class Gain:
    """A system against the baseline on one corpus and metric, paired by item.

    `holm_p` holds for all gains together; None where there are too few pairs to decide anything. `by_speaker`: interval
    over speakers; None where they are not known for every item, or there is one alone.
    """

    system: str
    corpus: str
    metric: str
    baseline: str
    test: WilcoxonResult | UaDifference
    holm_p: float | None
    by_speaker: SpeakerInterval | None = None


Item = tuple[str, int | None]  # key, seed
_Tested = tuple[WilcoxonResult | UaDifference, SpeakerInterval | None]


@dataclass
class ScoreTable:
    """All scores.

    Attributes:
        items: by (system, corpus, metric), value of every (key, seed).
        details: by (system, corpus, metric), the further fields of every (key, seed), for metrics beside empathy.
        rationales: by (system, corpus, metric), the passages of the reply that carry the level, of every (key, seed).
        speakers: by (corpus, key), where the replies tell.
        groups: rows with key `*`, by (system, corpus, seed, metric).
        common: by (corpus, metric), how many items all systems have, and how many there are; where some were left out.
    """

    items: dict[tuple[str, str, str], dict[Item, float]] = field(default_factory=dict)
    details: dict[tuple[str, str, str], dict[Item, dict[str, Any]]] = field(default_factory=dict)
    rationales: dict[tuple[str, str, str], dict[Item, list[tuple[int, int]]]] = field(default_factory=dict)
    speakers: dict[tuple[str, str], str] = field(default_factory=dict)
    groups: dict[tuple[str, str, int | None, str], Score] = field(default_factory=dict)
    common: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        names = {key[0] for key in self.items} | {key[0] for key in self.groups}
        return in_table_order(names, list(SYSTEMS))

    @property
    def corpora(self) -> list[str]:
        names = {key[1] for key in self.items} | {key[1] for key in self.groups}
        return in_table_order(names, list(CORPORA))

    @property
    def groups_present(self) -> list[tuple[str, str]]:
        """Every (corpus, system) that has scores, in the order of the tables."""
        present = {(corpus, system) for system, corpus, *_ in (*self.items, *self.groups)}
        return [(c, s) for c in self.corpora for s in self.systems if (c, s) in present]

    def extras(self, system: str, corpus: str, metric: str) -> list[dict[str, Any]]:
        """The further fields of the group rows of one cell, by seed."""
        return [row.model_extra or {} for row in self.groups_of(system, corpus, metric)]

    def seeds(self) -> list[int]:
        """Seeds that the scores were made with, where they are known."""
        found = {seed for values in self.items.values() for _, seed in values}
        return sorted(seed for seed in found if seed is not None)

    def groups_of(self, system: str, corpus: str, metric: str) -> list[Score]:
        """The group rows of one cell, by seed."""
        rows = [row for (s, c, _, m), row in self.groups.items() if (s, c, m) == (system, corpus, metric)]
        return sorted(rows, key=lambda row: (row.seed is not None, row.seed or 0))

    def cell(self, system: str, corpus: str, metric: str) -> Cell | None:
        """The numbers of one cell of a table; None where there are none."""
        if metric in MECHANISMS:
            values = self.items.get((system, corpus, metric))
            if not values:
                return None
            by_seed: dict[int | None, list[float]] = {}
            for (_, seed), value in values.items():
                by_seed.setdefault(seed, []).append(value)
            every = list(values.values())
            spread = stdev(every) if len(every) > 1 else 0.0
            return Cell(fmean(every), spread, len(every), tuple(fmean(v) for v in by_seed.values()))
        rows = [row for row in self.groups_of(system, corpus, metric) if row.value is not None]
        if not rows:
            return None
        seeds = tuple(row.value for row in rows if row.value is not None)
        extra = rows[0].model_extra or {}
        interval = tuple(extra["interval"]) if len(rows) == 1 and "interval" in extra else None
        items = sum((row.model_extra or {}).get("count", 0) for row in rows)
        return Cell(fmean(seeds), None, items, seeds, interval)

    def best(self, corpus: str, metric: str) -> set[str]:
        """The systems with the highest mean, several when they tie to three decimals; none when all of them do."""
        cells = {system: self.cell(system, corpus, metric) for system in self.systems}
        means = {system: round(cell.mean, 3) for system, cell in cells.items() if cell}
        highest = {system for system, mean in means.items() if mean == max(means.values())}
        return highest if len(highest) < len(means) else set()

    def means(self, system: str, corpus: str, metric: str) -> dict[str, float]:
        """Score of every item, the seeds of an item averaged."""
        by_key: dict[str, list[float]] = {}
        for (key, _), value in self.items.get((system, corpus, metric), {}).items():
            by_key.setdefault(key, []).append(value)
        return {key: fmean(values) for key, values in by_key.items()}

    def _test(self, system: str, baseline: str, corpus: str, metric: str, resamples: int) -> _Tested | None:
        """None where one of the two was not scored."""
        ours, theirs = (self.means(name, corpus, "SER" if metric == "UA" else metric) for name in (system, baseline))
        if not ours or not theirs:
            return None
        keys = sorted(ours)
        first, second = [ours[key] for key in keys], [theirs[key] for key in keys]
        emotions = [self.references(system, corpus)[key] for key in keys] if metric == "UA" else None
        known = [self.speakers[corpus, key] for key in keys if (corpus, key) in self.speakers]
        over_speakers = None
        if len(known) == len(keys):
            over_speakers = speaker_interval([a - b for a, b in zip(first, second, strict=True)], known, emotions)
        if emotions is None:
            return wilcoxon(first, second), over_speakers
        return ua_difference(emotions, first, second, resamples=resamples), over_speakers

    def references(self, system: str, corpus: str) -> dict[str, str]:
        """Reference emotion of every item whose recognition was scored."""
        return {key: each["reference"] for (key, _), each in self.details.get((system, corpus, "SER"), {}).items()}

    def gains(self, baseline: str, metrics: Sequence[str] = ("ER", "EX", "UA")) -> list[Gain]:
        """Every system against the baseline, on every corpus and metric that both have; p-values Holm-corrected."""
        wanted = [(s, c, m) for c in self.corpora for m in metrics for s in self.systems if s != baseline]
        resamples = enough_resamples(len(wanted))
        tests = [(s, c, m, self._test(s, baseline, c, m, resamples)) for s, c, m in wanted]
        found = [(s, c, m, test) for s, c, m, test in tests if test]
        corrected = iter(holm([test.p for *_, (test, _) in found if test.decides]))
        return [
            Gain(s, c, m, baseline, test, next(corrected) if test.decides else None, over_speakers)
            for s, c, m, (test, over_speakers) in found
        ]


def choose_baseline(table: ScoreTable, baseline: str | None) -> str | None:
    """The named baseline; without a name the fine-tuned BLSP-Emo if it was scored, else none.

    Raises:
        RellmError: the named system has no scores.
    """
    if baseline is None:
        return DEFAULT_BASELINE if DEFAULT_BASELINE in table.systems else None
    if baseline not in table.systems:
        raise RellmError(f"the baseline {baseline!r} has no scores", allowed=", ".join(table.systems))
    return baseline
