"""Two readings of a long reply: the 64 tokens that the original scorer sees, and the whole of it.

Bi-encoders read their window by nature and the whole reply window by window; other scorers read the whole reply by
nature, and of a cut text about as many words as 64 tokens hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import Empathy, EmpathyScorer

CUT, WHOLE, BOTH = "64", "whole", "both"
READINGS = (CUT, WHOLE, BOTH)
CUT_TOKENS = 64  # of the authors' recipe, end marks included
SCORER_WORDS = 48  # that 64 tokens hold: a RoBERTa token is about 0.75 words
_WORD = re.compile(r"\S+")


def cut_words(text: str, words: int = SCORER_WORDS) -> str:
    """The first words of a text, spacing kept."""
    for number, match in enumerate(_WORD.finditer(text)):
        if number == words:
            return text[: match.start()].rstrip()
    return text


@runtime_checkable
class WindowedScorer(EmpathyScorer, Protocol):
    """A scorer whose `score` sees a window of each text, and that can read on."""

    def score_whole(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]: ...

    def is_cut(self, responses: Sequence[str]) -> list[bool]: ...


def native_reading(scorer: EmpathyScorer) -> str:
    """The reading of the scorer's own `score`."""
    return WHOLE if scorer.window is None else CUT


def choose_readings(scorer: EmpathyScorer, wanted: str | None) -> tuple[str, ...]:
    """The readings to make, the one that gives the value of a score first; without a wish the scorer's own.

    Raises:
        RellmError: no such reading, or the scorer cannot read on.
    """
    own = native_reading(scorer)
    if wanted is not None and wanted not in READINGS:
        raise RellmError(f"no such reading: {wanted!r}", allowed=", ".join(READINGS))
    if wanted in (WHOLE, BOTH) and own == CUT and not isinstance(scorer, WindowedScorer):
        raise RellmError(f"the scorer {scorer.name} sees {scorer.window} tokens only", allowed=f"reading {CUT}")
    if wanted == BOTH:
        return own, WHOLE if own == CUT else CUT
    return (wanted or own,)


def is_cut(scorer: EmpathyScorer, responses: Sequence[str]) -> list[bool]:
    """Which replies the cut shortens, by the scorer's own tokens where it has them."""
    if isinstance(scorer, WindowedScorer):
        return scorer.is_cut(responses)
    return [cut_words(text) != text for text in responses]


def score_reading(
    scorer: EmpathyScorer, seekers: Sequence[str], responses: Sequence[str], reading: str
) -> list[Empathy]:
    """Levels by one reading (`64` or `whole`), in the order of the responses."""
    if reading == native_reading(scorer):
        return scorer.score(seekers, responses)
    if reading == CUT:
        return scorer.score([cut_words(text) for text in seekers], [cut_words(text) for text in responses])
    assert isinstance(scorer, WindowedScorer), scorer.name
    return scorer.score_whole(seekers, responses)


def window_of(scorer: EmpathyScorer, reading: str) -> int | None:
    """Tokens seen of each reply, None for all: what stands as `window` in the scores."""
    return None if reading == WHOLE else scorer.window or CUT_TOKENS
