"""Truncation of long replies: the first 64 tokens, as the original scorer sees them, or the whole reply.

A bi-encoder truncates to its window unless told otherwise, and scores a whole reply window by window. Other scorers see
the whole reply unless told otherwise; for `64` they get about as many words as 64 tokens hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import Empathy, EmpathyScorer

AT_64, WHOLE, BOTH = "64", "none", "both"
TRUNCATIONS = (AT_64, WHOLE, BOTH)
TOKENS = 64  # of the authors' recipe, special tokens included
WORDS_OF_A_TOKEN = 0.75  # of RoBERTa, about


def truncate(text: str, tokens: int = TOKENS) -> str:
    """The first words of a text, about as many as `tokens` hold; spacing is kept."""
    words = int(tokens * WORDS_OF_A_TOKEN)
    head = re.match(rf"\s*(?:\S+\s+){{{words - 1}}}\S+(?=\s+\S)", text)
    return head.group() if head else text


@runtime_checkable
class WindowedScorer(EmpathyScorer, Protocol):
    """A scorer whose `score` sees a window of each text, and that can go beyond it."""

    def score_whole(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]: ...

    def exceeds(self, responses: Sequence[str]) -> list[bool]: ...


def choose_truncations(scorer: EmpathyScorer, wanted: str | None) -> tuple[str, ...]:
    """The truncations to score with, the one that gives the value of a score first; None for the scorer's own.

    Raises:
        RellmError: an unknown truncation, or one that the scorer cannot do.
    """
    own, other = (WHOLE, AT_64) if scorer.window is None else (AT_64, WHOLE)
    if wanted is not None and wanted not in TRUNCATIONS:
        raise RellmError(f"unknown truncation: {wanted!r}", allowed=", ".join(TRUNCATIONS))
    if wanted in (WHOLE, BOTH) and own == AT_64 and not isinstance(scorer, WindowedScorer):
        raise RellmError(f"the scorer {scorer.name} sees {scorer.window} tokens only", allowed=f"truncation {AT_64}")
    return (own, other) if wanted == BOTH else (wanted or own,)


def exceeds(scorer: EmpathyScorer, responses: Sequence[str]) -> list[bool]:
    """Which replies are longer than 64 tokens, by the scorer's own tokenizer where it has one."""
    if isinstance(scorer, WindowedScorer):
        return scorer.exceeds(responses)
    return [truncate(text) != text for text in responses]


def score_truncated(
    scorer: EmpathyScorer, seekers: Sequence[str], responses: Sequence[str], truncation: str
) -> list[Empathy]:
    """Levels under one truncation (`64` or `none`), in the order of the responses."""
    if truncation == WHOLE and isinstance(scorer, WindowedScorer):
        return scorer.score_whole(seekers, responses)
    if truncation == AT_64 and scorer.window is None:
        seekers, responses = [truncate(text) for text in seekers], [truncate(text) for text in responses]
    return scorer.score(seekers, responses)


def window_of(scorer: EmpathyScorer, truncation: str) -> int | None:
    """Tokens seen of each reply, None for all: `window` in the scores."""
    return None if truncation == WHOLE else scorer.window or TOKENS
