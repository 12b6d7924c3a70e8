"""How a CTC loss spells a transcript.

Tokenizers have one token for a word behind a space and another, or several, for the same word at the beginning of a
text, and one more with a capital. Of the words of a recording one stands there, so those tokens are met too seldom to
be learnt: "Kids are talking" is read out as "K ids", or without its first word.

They also have a token of its own for every word that is not rare in text: tens of thousands of classes, of which some
dozen hours of speech say most less than 20 times. The first merges of the tokenizer make the common words and leave
the others in pieces that are met often.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from re_llm.core.errors import RellmError

_FIRST_WORDS = re.compile(r"(?:^|(?<=[.!?] ))\w[\w'\u2019-]*")


class Speller:
    """Token ids of transcripts as they would stand inside a text: a space in front, no capital that a sentence makes.

    A first word keeps its capital if the tokenizer spells it shorter with it, as it does names, if another capital
    follows, and if it is the English "I".

    Args:
        tokenizer: of the LLM.
        as_written: takes the text as it is instead.
        merges: spells with so many of the tokenizer's first merges (byte-pair encoding, Sennrich et al. 2016); every
            token is one of its own, so the text that they say is the same. None = all.

    Raises:
        RellmError: merges are given, and the tokenizer has none.
    """

    def __init__(self, tokenizer: Any, as_written: bool = False, merges: int | None = None):
        self._tokenizer = tokenizer
        self._as_written = as_written
        self._pieces = None if merges is None else first_merges(tokenizer, merges)
        self._word = lru_cache(2**14)(self._first_word)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a transcript."""
        text = text if self._as_written else self.running(text)
        return tuple(
            self._ids(text) if self._pieces is None else self._pieces.encode(text, add_special_tokens=False).ids
        )

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


def first_merges(tokenizer: Any, merges: int) -> Tokenizer:
    """The tokenizer with its first merges alone; special tokens are plain text to it.

    Raises:
        RellmError: it does not merge pairs, as WordPiece and unigram tokenizers do not.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = {} if backend is None else json.loads(backend.to_str())
    model = found.get("model") or {}
    if model.get("type") != "BPE":
        raise RellmError(
            f"ctc_merges: the LLM's tokenizer does not merge pairs ({model.get('type') or type(tokenizer).__name__})",
            allowed="a tokenizer of byte-pair encoding (BPE)",
            todo="Leave ctc_merges out",
        )
    model["merges"] = model["merges"][:merges]
    model["ignore_merges"] = False  # else a word that is in the vocabulary is taken whole
    found["added_tokens"] = []
    pieces = Tokenizer.from_str(json.dumps(found))
    pieces.no_padding()
    pieces.no_truncation()
    return pieces
