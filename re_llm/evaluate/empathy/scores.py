"""The empathy part of `re-llm score`: replies judged by one reading or both, and the rows that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from re_llm.core.progress import progress_bar
from re_llm.core.records import ReplyRecord, Score
from re_llm.evaluate.empathy.epitome import Empathy, EmpathyScorer, Level
from re_llm.evaluate.empathy.truncation import is_cut, score_reading, window_of

CHUNK = 512
# A reply without a word shows no empathy, whatever a model makes of an empty string.
_SILENT = Level(0, (1.0, 0.0, 0.0))

Group = tuple[str, str | None, int | None]


@dataclass
class Judgement:
    """What a scorer makes of some replies, in their order.

    Attributes:
        readings: `64`, `whole`, or both; the first gives the value of a score.
        levels: by reading, one entry per reply. cut: which replies are longer than the cut.
    """

    scorer: EmpathyScorer
    readings: tuple[str, ...]
    levels: dict[str, list[Empathy]] = field(default_factory=dict)
    cut: list[bool] = field(default_factory=list)


def judge(replies: Sequence[ReplyRecord], scorer: EmpathyScorer, readings: tuple[str, ...], show: bool) -> Judgement:
    """Scores the replies by every reading; replies without a word have level 0."""
    found = Judgement(scorer, readings, {reading: [] for reading in readings})
    silent: Empathy = dict.fromkeys(scorer.mechanisms, _SILENT)
    with progress_bar("score", len(replies), unit="replies", show=show) as advance:
        for start in range(0, len(replies), CHUNK):
            chunk = replies[start : start + CHUNK]
            seekers = [reply.text or reply.transcript or "" for reply in chunk]
            responses = [reply.response for reply in chunk]
            found.cut += is_cut(scorer, responses)
            for reading in readings:
                scored = score_reading(scorer, seekers, responses, reading)
                found.levels[reading] += [
                    each if said.strip() else silent for said, each in zip(responses, scored, strict=True)
                ]
            advance(len(chunk))
    return found


def make_score(group: Group, metric: str, value: float, key: str, more: dict[str, Any]) -> Score:
    """A row of one reply, or of the group with key `*`."""
    system, corpus, seed = group
    return Score(key=key, system=system, metric=metric, value=value, corpus=corpus, seed=seed, **more)


def empathy_rows(group: Group, keys: Sequence[str], members: Sequence[int], metric: str, by: Judgement) -> list[Score]:
    """The rows of one metric: one per reply of the group, then the group's own.

    Args:
        keys: of the replies. members: their places in the judgement.
    """
    first = by.readings[0]
    out = [make_score(group, metric, by.levels[first][i][metric].level, key, _details(by, i, metric))
           for key, i in zip(keys, members, strict=True)]  # fmt: skip
    summaries = {reading: _summary([by.levels[reading][i][metric] for i in members]) for reading in by.readings}
    more: dict[str, Any] = {
        "std": summaries[first]["std"],
        "count": len(members),
        "expected": summaries[first]["expected"],
        "scorer": by.scorer.name,
        "window": window_of(by.scorer, first),
        "reading": first,
        "cut": round(fmean(by.cut[i] for i in members), 4),
    }
    if len(by.readings) > 1:
        more["readings"] = summaries
    return [*out, make_score(group, metric, summaries[first]["mean"], "*", more)]


def _details(by: Judgement, i: int, metric: str) -> dict[str, Any]:
    got = by.levels[by.readings[0]][i][metric]
    more: dict[str, Any] = {
        "expected": round(got.expected, 4),
        "probabilities": [round(p, 4) for p in got.probabilities],
        "rationale": [list(span) for span in got.rationale] or None,
        "reading": by.readings[0],
        "cut": by.cut[i] or None,
    }
    if len(by.readings) > 1:
        more["levels"] = {reading: by.levels[reading][i][metric].level for reading in by.readings}
    return more


def _summary(levels: Sequence[Level]) -> dict[str, float]:
    values = [each.level for each in levels]
    spread = stdev(values) if len(values) > 1 else 0.0
    expected = fmean(each.expected for each in levels)
    return {"mean": fmean(values), "std": round(spread, 6), "expected": round(expected, 4)}
