"""Whether a tokenizer that was read is one: of a folder without the file transformers makes an empty one."""

from __future__ import annotations

import os
from typing import Any

from re_llm.core.errors import RellmError


def require_words(tokenizer: Any, folder: str | os.PathLike[str]) -> Any:
    """The tokenizer, when it knows more than its special tokens.

    Raises:
        RellmError: it does not: its vocabulary was not in the folder. Every text would come out empty.
    """
    special = {str(token) for token in tokenizer.get_added_vocab()} | set(tokenizer.all_special_tokens)
    if all(token in special for token in tokenizer.get_vocab()):
        raise RellmError(
            f"the tokenizer in {os.fspath(folder)} knows no words: its tokenizer.json is missing",
            todo="Copy or download the whole folder again",
        )
    return tokenizer
