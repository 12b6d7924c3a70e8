"""Gold levels of the miniature's replies beside those of a scorer.

Replies of the miniature world carry their levels of emotional reaction, interpretation and exploration by EPITOME's
definitions (`answers.Part`), so a scorer can be judged on them, and a system without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from re_llm.core.records import ReplyRecord
from re_llm.mini.grammar import emotion_of, gold_levels

MECHANISMS = ("ER", "IP", "EX")
# Transcripts and replies to levels by mechanism: of a scorer of re_llm.evaluate.empathy.
Scores = Callable[[Sequence[str], Sequence[str]], Sequence[Mapping[str, int]]]


@dataclass(frozen=True)
class Agreement:
    """Gold levels and a scorer's of the same replies.

    Attributes:
        gold, scorer: mean levels. accuracy: fraction with the same level.
        kappa: Cohen's with quadratic weights; None where one side has one level only.
        gold_right_tone: mean gold level when a reply in another tone than the reference counts as 0.
    """

    gold: float
    scorer: float
    accuracy: float
    kappa: float | None
    gold_right_tone: float | None


@dataclass(frozen=True)
class GoldLevels:
    """Of one set of replies.

    Attributes:
        replies: those that are replies of the world; others: those that are none, and are left out.
        mechanisms: by ER, IP, EX.
    """

    replies: int
    others: int
    mechanisms: dict[str, Agreement]


def small_scores(seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, int]]:
    """Levels by the small scorer."""
    from re_llm.evaluate.empathy.loading import load_scorer

    return [{m: each[m].level for m in MECHANISMS} for each in load_scorer("small").score(seekers, responses)]


def compare_levels(replies: Iterable[ReplyRecord], scores: Scores = small_scores) -> GoldLevels:
    """Gold levels of replies beside a scorer's."""
    every = list(replies)
    known = [(reply, gold) for reply in every if (gold := gold_levels(reply.response)) is not None]
    if not known:
        return GoldLevels(0, len(every), {})
    scored = scores([reply.text or "" for reply, _ in known], [reply.response for reply, _ in known])
    right = [emotion_of(reply.response) == reply.emotion for reply, _ in known if reply.emotion]
    found = {}
    for mechanism in MECHANISMS:
        written = [levels[mechanism.lower()] for _, levels in known]
        given = [levels[mechanism] for levels in scored]
        toned = [level for level, (reply, _) in zip(written, known, strict=True) if reply.emotion]
        found[mechanism] = Agreement(
            fmean(written), fmean(given), fmean(a == b for a, b in zip(written, given, strict=True)),
            _kappa(written, given),
            fmean(level * fits for level, fits in zip(toned, right, strict=True)) if toned else None,
        )  # fmt: skip
    return GoldLevels(len(known), len(every) - len(known), found)


def _kappa(gold: Sequence[int], given: Sequence[int]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    if len(set(gold)) < 2 or len(set(given)) < 2:
        return None
    return float(cohen_kappa_score(gold, given, weights="quadratic", labels=[0, 1, 2]))
