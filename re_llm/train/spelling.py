"""How a CTC loss spells a transcript.

Tokenizers have one token for a word behind a space and another, or several, for the same word at the beginning of a
text, and one more with a capital. Of the words of a recording one stands there, so those tokens are met too seldom to
be learnt: "Kids are talking" is read out as "K ids", or without its first word.

They also have a token of its own for every word that is not rare in text, and speech says most of them a few times at
best. The first tokens of a tokenizer are the bytes and what was merged first: the pieces of all others.
"""

from __future__ import annotations

import json
import re
import string
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
        units: spells with the tokenizer's tokens below this id alone (see `first_tokens`); None = with all.
    """

    def __init__(self, tokenizer: Any, *, as_written: bool = False, units: int | None = None):
        self._tokenizer, self._as_written = tokenizer, as_written
        self._units = None if units is None else first_tokens(tokenizer, units)
        self._word = lru_cache(2**14)(self._first_word)

    def ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a transcript."""
        text = text if self._as_written else self.running(text)
        if self._units is not None:
            return tuple(self._units.encode(text, add_special_tokens=False).ids)
        return tuple(self._ids(text))

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


def first_tokens(tokenizer: Any, units: int) -> Tokenizer:
    """A tokenizer of byte-pair encoding (Sennrich et al. 2016) without its merges to tokens from the id `units` on.

    Every token is one of its own, so the text that they say is the same. Special tokens are plain text to it.

    Raises:
        RellmError: the tokenizer does not merge pairs, as WordPiece and unigram do not, or letters lie beyond.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = {} if backend is None else json.loads(backend.to_str())
    model = found.get("model") or {}
    if model.get("type") != "BPE":
        kind = model.get("type") or type(tokenizer).__name__
        raise RellmError(
            f"adapter.units: the LLM's tokenizer does not merge pairs ({kind})",
            allowed="a tokenizer of byte-pair encoding (BPE)",
            todo="Leave adapter.units and intermediate_ctc out",
        )
    letters = max(model["vocab"].get(letter, 0) for letter in string.ascii_letters)
    if letters >= units:
        raise RellmError(f"adapter.units is {units}", allowed=f"more than {letters}, a letter of the LLM's tokenizer")
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < units}
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    model["merges"] = [[a, b] for a, b in pairs if {a, b, a + b} <= model["vocab"].keys()]
    model["ignore_merges"] = False
    found["added_tokens"], found["post_processor"] = [], None
    pieces = Tokenizer.from_str(json.dumps(found))
    pieces.no_padding()
    pieces.no_truncation()
    return pieces
