"""The folder of a bi-encoder scorer, and how the authors' files become one.

    scorer.json (kind, window, tokenizer)  tokenizer files  ER/ IP/ EX/ (config.json, model.safetensors, metrics.json)

Mechanisms can be added one by one; they share the tokenizer and the window.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from re_llm.core.errors import RellmError
from re_llm.core.files import existing, write_json
from re_llm.evaluate.empathy.biencoder import WINDOW, convert_checkpoint
from re_llm.evaluate.empathy.biencoder_start import read_tokenizer
from re_llm.evaluate.empathy.epitome import MECHANISMS

SCORER_FILE = "scorer.json"


def _settings(tokenizer: PreTrainedTokenizerFast, window: int) -> dict[str, Any]:
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()), ensure_ascii=False)
    digest = hashlib.sha256(vocabulary.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return {"kind": "biencoder", "window": window, "tokenizer": digest}


def check_folder(folder: Path, tokenizer: PreTrainedTokenizerFast, window: int) -> None:
    """Raises a RellmError for a folder whose mechanisms have another tokenizer or window."""
    if not (folder / SCORER_FILE).is_file():
        return
    stored = _read(folder / SCORER_FILE)
    for name, now in _settings(tokenizer, window).items():
        if stored.get(name) != now:
            raise RellmError(
                f"{folder} holds a scorer with another {name}",
                todo=f"Give an empty folder, or the same settings (--tokenizer {folder}, --window)",
            )


def write_shared(folder: Path, tokenizer: PreTrainedTokenizerFast, window: int) -> None:
    """Writes tokenizer and settings, which the mechanisms of a folder have in common."""
    tokenizer.save_pretrained(folder)
    write_json(folder / SCORER_FILE, _settings(tokenizer, window))


def stored_window(folder: Path) -> int:
    """Window of the bi-encoders of a folder in tokens; the published one where the folder has no settings.

    Raises:
        RellmError: scorer.json is broken.
    """
    path = folder / SCORER_FILE
    if not path.is_file():
        return WINDOW
    window = _read(path).get("window")
    if not isinstance(window, int) or window < 1:
        raise RellmError(f"{path}: window {window!r} is no number of tokens")
    return window


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RellmError(f"{path} is not JSON: {error}") from None
    if not isinstance(stored, dict):
        raise RellmError(f"{path} does not describe a scorer")
    return stored


@dataclass
class Converted:
    """What `convert_files` wrote."""

    out: Path
    mechanisms: list[str]


def convert_files(files: Mapping[str, Path], out: Path, *, tokenizer: str = "roberta-base") -> Converted:
    """Makes a scorer of the authors' state dicts (.pth, of RoBERTa-base); read with `weights_only=True`.

    Args:
        files: by mechanism.
        tokenizer: folder or hub id.

    Raises:
        RellmError: no file, or one that is no such state dict; the tokenizer cannot be read or is not theirs.
    """
    if not files:
        raise RellmError("no file is named", allowed="--er, --ip, --ex", todo="Give one of the authors' .pth files")
    paths = {mechanism: existing(path) for mechanism, path in files.items()}
    own = read_tokenizer(tokenizer)
    check_folder(out, own, WINDOW)
    for mechanism, path in paths.items():
        convert_checkpoint(path, out / mechanism, vocabulary=len(own))
    write_shared(out, own, WINDOW)
    return Converted(out, [mechanism for mechanism in MECHANISMS if (out / mechanism).is_dir()])
