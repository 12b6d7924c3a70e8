"""Finding a model: a folder, or a repository of the hub. No torch here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.parts import PREFIX, resolve_part

# What a repository is downloaded for; never its pickles or code.
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def locate(
    name: str | os.PathLike[str], base: Path | None = None, *, also: Sequence[str] = (), **download: Any
) -> Path:
    """The folder that a name means: a folder (relative to `base` when given), a part (`small:NAME`), else a repository
    of the hub.

    Args:
        also: patterns of further files that a repository is downloaded for.
        download: `revision`, `token`, `cache_dir`, `local_files_only` for the hub.

    Raises:
        RellmError: there is no such folder and no such repository, or the part is not here.
    """
    text = os.fspath(name)
    if text.startswith(PREFIX):
        return resolve_part(text)
    folder = (base or Path()) / Path(text).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RellmError(f"{folder} is a file", allowed="the folder of a model")
    if text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise RellmError(f"there is no folder {folder}", todo="Check the path, or give a hub id such as owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    given = {key: value for key, value in download.items() if value is not None}
    try:
        return Path(snapshot_download(text, allow_patterns=[*_FILES, *also], **given))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RellmError(f"there is no folder {folder}, and {text} cannot be had from the hub: {error}") from error
