"""The real parts of the small system, by name: where they come from, under which licence, and where they lie here.

`small:NAME` is such a part. Nothing is fetched here: `re-llm parts get NAME` does that (`re_llm/parts`).
"""

from __future__ import annotations

import os
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.part_list import PARTS, Part

PREFIX = "small:"


def cache_home() -> Path:
    """Folder for what can be fetched or made again: RE_LLM_CACHE, else the user's cache."""
    named = os.environ.get("RE_LLM_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "re-llm"


def parts_home() -> Path:
    """Folder of the fetched parts, one folder each."""
    return cache_home() / "parts"


def given_folder() -> Path | None:
    """Folder that the user names by RE_LLM_SMALL: finished parts, or the wheels that they are made of.

    Raises:
        RellmError: there is no such folder.
    """
    named = os.environ.get("RE_LLM_SMALL")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise RellmError(f"RE_LLM_SMALL names no folder: {folder}", todo="Correct it, or unset it")
    return folder


def find_part(name: str) -> Path | None:
    """The folder of a part, when it is here; `name` without its prefix."""
    homes = [home for home in (given_folder(), parts_home()) if home is not None]
    return next((home / name for home in homes if (home / name).is_dir()), None)


def resolve_part(name: str) -> Path:
    """The folder of `small:NAME`.

    Raises:
        RellmError: there is no such part, or it is not here; says which command fetches it.
    """
    part = PARTS.get(name.removeprefix(PREFIX))
    if part is None:
        raise RellmError(f"there is no part {name!r}", allowed=", ".join(PREFIX + each for each in PARTS))
    folder = find_part(part.name)
    if folder is None:
        raise RellmError(f"{PREFIX}{part.name} ({part.what}) is not here", todo=how_to_get(part))
    return folder


def how_to_get(part: Part) -> str:
    """What to do for a part that is not here."""
    if part.base:
        return f"Make it, of {PREFIX}{part.base}, with: re-llm parts get {part.base} {part.name}"
    return f"Fetch it, {part.download / 1e6:.0f} MB, with: re-llm parts get {part.name}"
