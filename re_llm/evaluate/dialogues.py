"""Does the last reply of a dialogue know how the first turn was said?

Read from the replies alone, so of any system: of the dialogues whose first turn has another emotion than the last one,
how many replies name that of the first, and how many would if they were exchanged among dialogues with the same last
emotion. A system that forgets names it as often as chance does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from re_llm.core.dialogues import first_emotion
from re_llm.core.records import ReplyRecord
from re_llm.evaluate.audits import named_emotion

RESAMPLES = 2000
MIN_DIALOGUES = 6


@dataclass(frozen=True)
class Memory:
    """What the replies of one system in one corpus say of first turns.

    Attributes:
        dialogues: replies with a history. differing: of them, those whose first and last emotions are known and differ.
        named: fraction of those that name an emotion; named_last, named_first: fractions that name that of the last
            and of the first turn.
        chance: named_first when replies are exchanged among dialogues of the same last emotion.
        p: one-sided, of as many first emotions named by such an exchange; None with fewer than six dialogues.
    """

    dialogues: int
    differing: int
    named: float | None = None
    named_last: float | None = None
    named_first: float | None = None
    chance: float | None = None
    p: float | None = None


def memory(replies: Sequence[ReplyRecord], *, resamples: int = RESAMPLES, seed: int = 0) -> Memory | None:
    """Of the replies of one group; None when none of them has a history."""
    spoken = [reply for reply in replies if reply.history]
    known = [(first_emotion(reply.history or []), reply.emotion, named_emotion(reply.response)) for reply in spoken]
    rows = [(first, last, named) for first, last, named in known if first and last and first != last]
    if not rows:
        return Memory(len(spoken), 0) if spoken else None
    firsts = np.array([first for first, _, _ in rows])
    named = np.array([name or "" for _, _, name in rows])
    strata = defaultdict(list)
    for i, (_, last, _) in enumerate(rows):
        strata[last].append(i)
    hits = int((firsts == named).sum())
    drawn = _exchanged(firsts, named, [np.array(each) for each in strata.values()], resamples, seed)
    enough = len(rows) >= MIN_DIALOGUES
    return Memory(
        len(spoken),
        len(rows),
        float((named != "").mean()),
        sum(last == name for _, last, name in rows) / len(rows),
        hits / len(rows),
        float(drawn.mean()) / len(rows),
        float((1 + (drawn >= hits).sum()) / (1 + resamples)) if enough else None,
    )


def _exchanged(
    firsts: np.ndarray, named: np.ndarray, strata: Sequence[np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """How many replies name the first emotion of a dialogue that they are given to at random, within the strata."""
    generator = np.random.default_rng(seed)
    hits = np.zeros(resamples, dtype=int)
    for each in strata:
        orders = generator.permuted(np.tile(each, (resamples, 1)), axis=1)
        hits += (firsts[each][None] == named[orders]).sum(1)
    return hits
