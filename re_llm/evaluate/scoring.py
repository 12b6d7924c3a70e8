"""`re-llm score`: replies of any system in, scores out; scoring again needs no generating again.

A reply needs `key`, `system`, `text` and `response`. Recognition is scored where a reference `emotion` and an answer
(`recognized`, or the raw `answer`) exist. Rows with key `*` are the group: one system on one corpus with one seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from re_llm.emotions import PROMPT_EMOTIONS, SPELLINGS, canonical, parse_answer
from re_llm.errors import RellmError
from re_llm.evaluate.epitome import MECHANISMS, Empathy, EmpathyScorer, Level, load_scorer
from re_llm.evaluate.ser import SerResult, label_order, score_recognition
from re_llm.progress import progress_bar
from re_llm.records import Reply, Score, read_numbered, write_records

METRICS = ("ER", "EX", "IP", "SER")
CHUNK = 512
# A reply without a word shows no empathy, whatever a model makes of an empty string.
_SILENT = Level(0, (1.0, 0.0, 0.0))

Group = tuple[str, str | None, int | None]


@dataclass
class ScoreReport:
    """What `score_file` did.

    Attributes:
        groups: one entry per system, corpus and seed, with the means of its metrics.
        without_text: replies without the text they answer; their empathy was scored from the response alone.
        empty: replies without a word, level 0. unparsable: answers that name no emotion, counted as wrong.
    """

    out: Path
    replies: int = 0
    metrics: tuple[str, ...] = ()
    scorer: str = ""
    groups: list[dict[str, object]] = field(default_factory=list)
    without_text: int = 0
    empty: int = 0
    unparsable: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Replies per second."""
        return self.replies / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        """For a person."""
        lines = [f"{self.replies} replies scored in {self.out} ({self.rate:.0f} replies/s, scorer {self.scorer})"]
        for group in self.groups:
            name = " ".join(str(group[part]) for part in ("system", "corpus", "seed") if group.get(part) is not None)
            values = ", ".join(f"{metric} {group[metric]:.3f}" for metric in (*MECHANISMS, "UA") if metric in group)
            lines.append(f"  {name}: {group['replies']} replies, {values}")
        for count, what in (
            (self.unparsable, "answers name no emotion; they count as wrong"),
            (self.empty, "replies are empty; their levels are 0"),
            (self.without_text, "replies lack the text they answer; scored from the response alone"),
        ):
            if count:
                lines.append(f"  {count} {what}")
        return "\n".join(lines)


@dataclass
class _Row:
    """A reply with the reference emotion and the named one in canonical spelling. `answered`: it was asked at all."""

    reply: Reply
    emotion: str | None
    named: str | None
    answered: bool

    @property
    def group(self) -> Group:
        return self.reply.system, self.reply.corpus, self.reply.seed


def _read(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    lines: dict[tuple[Group, str], int] = {}
    for number, reply in read_numbered(path, Reply):
        emotion = canonical(reply.emotion, where=f"{path}:{number}") if reply.emotion else None
        row = _Row(reply, emotion, None, reply.answer is not None or reply.recognized is not None)
        first = lines.setdefault((row.group, reply.key), number)
        if first != number:
            raise RellmError(
                f"{path}:{number}: key {reply.key!r} of system {reply.system!r} is in line {first} already",
                todo="Give every reply of a system its own key, or different seeds",
            )
        rows.append(row)
    if not rows:
        raise RellmError(f"{path} holds no replies")
    allowed = label_order({*PROMPT_EMOTIONS, *(row.emotion for row in rows if row.emotion)})
    for row in rows:
        row.named = named_emotion(row.reply, allowed)
    return rows


def named_emotion(reply: Reply, allowed: Sequence[str] = PROMPT_EMOTIONS) -> str | None:
    """The emotion that a reply's answer names, canonical; None when it names none of `allowed`.

    `recognized` counts as given, in whatever spelling; without it the raw `answer` is read.
    """
    if reply.recognized is not None:
        name = reply.recognized.strip().lower()
        return SPELLINGS.get(name, name)
    return parse_answer(reply.answer, allowed) if reply.answer else None


def choose_metrics(metrics: Sequence[str] | None, recognizable: bool) -> tuple[str, ...]:
    """The wanted metrics in canonical order; without a wish all that apply.

    Raises:
        RellmError: an unknown metric, or SER without anything to compare.
    """
    if not metrics:
        return METRICS if recognizable else METRICS[:-1]
    wanted = [metric.upper() for metric in metrics]
    for metric in wanted:
        if metric not in METRICS:
            raise RellmError(f"unknown metric {metric!r}", allowed=", ".join(METRICS))
    if "SER" in wanted and not recognizable:
        raise RellmError(
            "SER needs replies with a reference `emotion` and with `recognized` or `answer`; there is none",
            todo="Answer the recognition prompt as well (re-llm respond --recognize), or leave SER out",
        )
    return tuple(metric for metric in METRICS if metric in wanted)


def _empathy(rows: list[_Row], scorer: EmpathyScorer, show: bool) -> list[Empathy]:
    found: list[Empathy] = []
    with progress_bar("score", len(rows), unit="replies", show=show) as advance:
        for start in range(0, len(rows), CHUNK):
            chunk = [row.reply for row in rows[start : start + CHUNK]]
            scored = scorer.score(
                [reply.text or reply.transcript or "" for reply in chunk], [r.response for r in chunk]
            )
            silent: Empathy = dict.fromkeys(MECHANISMS, _SILENT)
            found += [each if r.response.strip() else silent for r, each in zip(chunk, scored, strict=True)]
            advance(len(chunk))
    return found


def _score(group: Group, metric: str, value: float, key: str, more: dict[str, Any]) -> Score:
    system, corpus, seed = group
    return Score(key=key, system=system, metric=metric, value=value, corpus=corpus, seed=seed, **more)


def _empathy_scores(
    group: Group, rows: list[_Row], levels: list[Empathy], metric: str, scorer: EmpathyScorer
) -> list[Score]:
    out = []
    for row, each in zip(rows, levels, strict=True):
        got = each[metric]
        more: dict[str, Any] = {
            "expected": round(got.expected, 4),
            "probabilities": [round(p, 4) for p in got.probabilities],
            "rationale": [list(span) for span in got.rationale] or None,
        }
        out.append(_score(group, metric, got.level, row.reply.key, more))
    values = [each[metric].level for each in levels]
    spread = stdev(values) if len(values) > 1 else 0.0
    expected = fmean(each[metric].expected for each in levels)
    more = {"std": round(spread, 6), "count": len(values), "expected": round(expected, 4)}
    more |= {"scorer": scorer.name, "window": scorer.window}
    return [*out, _score(group, metric, fmean(values), "*", more)]


def _recognition_scores(group: Group, rows: list[_Row], labels: Sequence[str]) -> tuple[list[Score], SerResult]:
    """A row that has a reference but was not asked is wrong as well, if the others of its group were."""
    known = [(row, row.emotion) for row in rows if row.emotion]
    result = score_recognition([emotion for _, emotion in known], [row.named for row, _ in known], labels=labels)
    out = [
        _score(group, "SER", float(row.named == emotion), row.reply.key, {"reference": emotion, "named": row.named})
        for row, emotion in known
    ]
    common: dict[str, Any] = {"count": result.count, "labels": list(result.labels)}
    details: dict[str, Any] = {
        "interval": [round(x, 6) for x in result.interval],
        "confusion": result.confusion.tolist(),
        "recalls": result.recalls(),
        "outside": result.outside,
    }
    out += [
        _score(group, "UA", result.ua, "*", {**common, **details}),
        _score(group, "WA", result.wa, "*", common),
        _score(group, "F1", result.macro_f1, "*", common),
        _score(group, "UNPARSABLE", result.unparsable_share, "*", {**common, "number": result.unparsable}),
    ]
    return out, result


def score_file(
    replies_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
    scorer: str | EmpathyScorer = "small",
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> ScoreReport:
    """Scores a `replies.jsonl` and writes `scores.jsonl`, whole or not at all.

    Args:
        metrics: of ER, EX, IP, SER; None for all that the replies allow.
        scorer: name or folder (`load_scorer`), or a scorer.
        labels: label set of recognition; None for the reference emotions of each corpus in the file.

    Raises:
        RellmError: the file, a line of it, a metric, or the scorer is wrong.
    """
    began = time.monotonic()
    rows = _read(Path(replies_path))
    wanted = choose_metrics(metrics, any(row.emotion and row.answered for row in rows))
    judge = load_scorer(scorer) if isinstance(scorer, str) else scorer
    asked = [metric for metric in wanted if metric in MECHANISMS]
    levels = _empathy(rows, judge, progress) if asked else [{}] * len(rows)
    report = ScoreReport(
        Path(out_path), len(rows), wanted, judge.name if asked else "none",
        without_text=sum(not (row.reply.text or row.reply.transcript) for row in rows),
        empty=sum(not row.reply.response.strip() for row in rows),
    )  # fmt: skip
    groups: dict[Group, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    names: dict[str | None, set[str]] = {}
    for row in rows:
        names.setdefault(row.reply.corpus, set()).update([row.emotion] if row.emotion else [])
    scores: list[Score] = []
    for group, members in groups.items():
        own = [rows[i] for i in members]
        entry: dict[str, object] = {"system": group[0], "corpus": group[1], "seed": group[2], "replies": len(own)}
        for metric in asked:
            scores += _empathy_scores(group, own, [levels[i] for i in members], metric, judge)
            entry[metric] = scores[-1].value
        if "SER" in wanted and any(row.emotion and row.answered for row in own):
            found, result = _recognition_scores(group, own, labels or label_order(names[group[1]]))
            scores += found
            entry["UA"] = result.ua
            report.unparsable += result.unparsable
        report.groups.append(entry)
    write_records(report.out, scores)
    report.seconds = time.monotonic() - began
    return report
