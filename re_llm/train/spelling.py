"""How a CTC loss spells a transcript.

Tokenizers have one token for a word behind a space and another, or several, for the same word at the beginning of a
text, and one more with a capital. Of the words of a recording one stands there, so those tokens are met too seldom to
be learnt: "Kids are talking" is read out as "K ids", or without its first word.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_FIRST_WORDS = re.compile(r"(?:^|(?<=[.!?] ))\w[\w'\u2019-]*")


class Speller:
    """Token ids of transcripts as they would stand inside a text: a space in front, no capital that a sentence makes.

    A first word keeps its capital if the tokenizer spells it shorter with it, as it does names, if another capital
    follows, and if it is the English "I".
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._word = lru_cache(2**14)(self._first_word)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a transcript."""
        return tuple(self._ids(self.running(text)))

    def running(self, text: str) -> str:
        """The transcript inside a text."""
        return " " + _FIRST_WORDS.sub(lambda word: self._word(word[0]), text.strip())

    def _first_word(self, word: str) -> str:
        lower = word.lower()
        if re.split("['\u2019]", word)[0] == "I" or word[1:] != lower[1:]:
            return word
        return lower if len(self._ids(" " + lower)) <= len(self._ids(" " + word)) else word

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return found
