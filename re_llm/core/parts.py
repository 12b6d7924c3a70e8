"""The real parts of the small system, by name: where they come from, under which licence, and where they lie here.

`small:NAME` is such a part. Nothing is fetched here: `re-llm parts get NAME` does that (`re_llm/parts`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.part_list import PARTS, Part

PREFIX = "small:"
ABOUT = "part.json"  # in a part's folder: where it is from, and the hashes of its files
LORA_FILE = "adapter_model.safetensors"
PACKAGE = Path(__file__).parents[1]


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
    """The folder of a part, when it is here; `name` without its prefix.

    A part that was made with another LoRA than the package has now is not: checkpoints are trained over the new one.
    """
    return next((folder for folder in _folders(name) if not outdated(name, folder)), None)


def _folders(name: str) -> list[Path]:
    homes = [home for home in (given_folder(), parts_home()) if home is not None]
    return [home / name for home in homes if (home / name).is_dir()]


def outdated(name: str, folder: Path) -> bool:
    """Whether the folder of a part was made with another LoRA than the package has now.

    A folder that says nothing of where it is from is its owner's own, and taken as it is.
    """
    part = PARTS.get(name)
    if part is None or part.lora is None:
        return False
    try:
        about = dict(json.loads((folder / ABOUT).read_bytes()))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError):
        return True
    return bool(about.get("lora") != lora_hash(part.lora))


def lora_hash(folder: str) -> str:
    """SHA-256 of the LoRA in a folder of the package."""
    return file_hash(PACKAGE / folder / LORA_FILE)


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
        old = _folders(part.name)
        what = "was made with another LoRA than this version's" if old else "is not here"
        raise RellmError(f"{PREFIX}{part.name} ({part.what}) {what}", todo=how_to_get(part))
    return folder


def how_to_get(part: Part) -> str:
    """What to do for a part that is not here."""
    if part.base:
        return f"Make it, of {PREFIX}{part.base}, with: re-llm parts get {part.base} {part.name}"
    return f"Fetch it, {part.download / 1e6:.0f} MB, with: re-llm parts get {part.name}"
