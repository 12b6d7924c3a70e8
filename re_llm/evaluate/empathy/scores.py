"""The empathy part of `re-llm score`: levels of replies under one truncation or both, as rows of scores.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from re_llm.core.progress import progress_bar
from re_llm.core.records import ReplyRecord, Score
from re_llm.evaluate.empathy.epitome import Empathy, EmpathyScorer, Level
from re_llm.evaluate.empathy.truncation import exceeds, score_truncated, window_of

CHUNK = 512
# An empty reply shows no empathy, whatever a model makes of an empty string.
_EMPTY = Level(0, (1.0, 0.0, 0.0))

Group = tuple[str, str | None, int | None]


@dataclass
class Judgement:
    """What a scorer makes of some replies, in their order.

    Attributes:
        truncations: `64`, `none`, or both; the first gives the value of a score.
        levels: by truncation, one entry per reply. over_64: which replies are longer than 64 tokens.
    """

    scorer: EmpathyScorer
    truncations: tuple[str, ...]
    levels: dict[str, list[Empathy]] = field(default_factory=dict)
    over_64: list[bool] = field(default_factory=list)

    def row(self, i: int, metric: str) -> dict[str, Any]:
        """What stands in the score of reply `i`."""
        first, *others = self.truncations
        got = self.levels[first][i][metric]
        return {
            "value": got.level,
            "expected": round(got.expected, 4),
            "probabilities": [round(p, 4) for p in got.probabilities],
            "rationale": [list(span) for span in got.rationale] or None,
            "truncation": first,
            "over_64": self.over_64[i] or None,
            "levels": {t: self.levels[t][i][metric].level for t in self.truncations} if others else None,
        }

    def group_row(self, members: Sequence[int], metric: str) -> dict[str, Any]:
        """What stands in the score of a group of replies: the mean over them."""
        first, *others = self.truncations
        each = {t: _summary([self.levels[t][i][metric] for i in members]) for t in self.truncations}
        return {
            "value": each[first]["mean"],
            "std": each[first]["std"],
            "count": len(members),
            "expected": each[first]["expected"],
            "scorer": self.scorer.name,
            "window": window_of(self.scorer, first),
            "truncation": first,
            "over_64": round(fmean(self.over_64[i] for i in members), 4),
            "truncations": each if others else None,
        }


def judge(replies: Sequence[ReplyRecord], scorer: EmpathyScorer, truncations: tuple[str, ...], show: bool) -> Judgement:
    """Scores the replies under every truncation; empty replies have level 0."""
    found = Judgement(scorer, truncations, {truncation: [] for truncation in truncations})
    empty: Empathy = dict.fromkeys(scorer.mechanisms, _EMPTY)
    with progress_bar("score", len(replies), unit="replies", show=show) as advance:
        for start in range(0, len(replies), CHUNK):
            chunk = replies[start : start + CHUNK]
            seekers = [reply.text or reply.transcript or "" for reply in chunk]
            responses = [reply.response for reply in chunk]
            found.over_64 += exceeds(scorer, responses)
            for truncation, levels in found.levels.items():
                scored = score_truncated(scorer, seekers, responses, truncation)
                levels += [got if text.strip() else empty for text, got in zip(responses, scored, strict=True)]
            advance(len(chunk))
    return found


def make_score(group: Group, metric: str, key: str, fields: dict[str, Any]) -> Score:
    """A row of one reply, or of the group with key `*`."""
    system, corpus, seed = group
    return Score(key=key, system=system, metric=metric, corpus=corpus, seed=seed, **fields)


def _summary(levels: Sequence[Level]) -> dict[str, float]:
    values = [each.level for each in levels]
    spread = stdev(values) if len(values) > 1 else 0.0
    expected = fmean(each.expected for each in levels)
    return {"mean": fmean(values), "std": round(spread, 6), "expected": round(expected, 4)}
