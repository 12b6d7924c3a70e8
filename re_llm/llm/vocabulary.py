"""Refuses a tokenizer without a vocabulary: transformers makes an empty one when its file is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def require_words(tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer, when it has more than special tokens.

    Raises:
        RellmError: it has not: its vocabulary was not in the folder, and every text would be empty.
    """
    special = {str(token) for token in tokenizer.get_added_vocab()} | set(tokenizer.all_special_tokens)
    if all(token in special for token in tokenizer.get_vocab()):
        raise RellmError(
            f"the tokenizer in {os.fspath(folder)} knows no words: its tokenizer.json is missing",
            todo="Copy or download the whole folder again",
        )
    return tokenizer
