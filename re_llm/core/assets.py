"""What ships with the package, where a component of a given name lies, and what it holds."""

from __future__ import annotations

import json
import os
from pathlib import Path

from re_llm.core import parts
from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash, files_hash, hash_of
from re_llm.core.part_list import PARTS

PACKAGE = parts.PACKAGE
SOURCE_TREE = PACKAGE.parent  # of an editable installation

# What ships with the package beside the miniature, by name; licences: the README of each folder.
NON_COMMERCIAL = "small/assets/nc"
SHIPPED = {
    "small:re-llm": f"{NON_COMMERCIAL}/re-llm",
    "small:emotion": f"{NON_COMMERCIAL}/emotion",
    "small:re-llm-open": "small/assets/open/re-llm",
    "small:emotion-open": "small/assets/open/emotion",
}
SMALL_MODEL, OPEN_MODEL, MINI_MODEL = "small:re-llm", "small:re-llm-open", "mini:re-llm"

# Files of a model's folder that tell about the model and are no part of it.
_ABOUT = {
    "provenance.json", "recipe.resolved.yaml", "report.json", "log.jsonl", "dropped.jsonl", "README.md", parts.ABOUT,
}  # fmt: skip


def resolve_component(name: str, relative_to: Path | None = None) -> str:
    """Folder or hub id of a component. `mini:NAME` ships with the package, `small:NAME` too, or is fetched once.

    Raises:
        RellmError: `mini:NAME` is not shipped, `small:NAME` not here.
    """
    if name in SHIPPED:
        return str(PACKAGE / SHIPPED[name])
    if name.startswith(parts.PREFIX):
        return str(parts.resolve_part(name))
    if not name.startswith("mini:"):
        local = (relative_to / name) if relative_to is not None and not os.path.isabs(name) else Path(name)
        return str(local) if local.exists() else name
    folder = mini_assets() / name.removeprefix("mini:")
    if not folder.is_dir():
        shipped = sorted(p.name for p in mini_assets().glob("*") if p.is_dir()) if mini_assets().is_dir() else []
        raise RellmError(
            f"the miniature has no component {name!r}",
            allowed=", ".join(f"mini:{n}" for n in shipped) or "none is installed",
            todo="Run `re-llm mini build`, or set RE_LLM_MINI to the folder of a build",
        )
    return str(folder)


def default_model(commercial: bool = False) -> str:
    """The model that is used when none is named: RE_LLM_MODEL, else the small one if its parts are here.

    Args:
        commercial: of the small ones, that which may be used commercially.
    """
    named = os.environ.get("RE_LLM_MODEL")
    return named or (MINI_MODEL if missing_parts() else OPEN_MODEL if commercial else SMALL_MODEL)


def refuse_non_commercial(name: str) -> None:
    """A model that may not be used commercially: it lies in the folder of those, or names a component that does.

    Raises:
        RellmError: it is one. Nothing is said of models from elsewhere, whose licences are not known here.
    """
    folder, kept = Path(resolve_component(name)), (PACKAGE / NON_COMMERCIAL).resolve()
    named = (resolve_component(part, folder) for part in named_components(folder).values())
    if any(part.resolve().is_relative_to(kept) for part in (folder, *map(Path, named))):
        raise RellmError(
            f"{name} is under CC BY-NC-SA 4.0: not for commercial use", allowed=f"{OPEN_MODEL}, {MINI_MODEL}"
        )


def missing_parts() -> list[str]:
    """Parts that the small model needs and that are not here."""
    return [name for name in ("whisper", "llm") if parts.find_part(name) is None]


def hint_at_small() -> str | None:
    """One line about what is missing for the small model; None when nothing is, or another one was named."""
    if os.environ.get("RE_LLM_MODEL") or not missing_parts():
        return None
    size = sum(part.download for part in PARTS.values() if not part.building)
    return (
        f"Using the miniature, which has heard synthetic voices only. For people, fetch {SMALL_MODEL}'s parts "
        f"({size / 1e6:.0f} MB): re-llm parts get small"
    )


def mini_assets() -> Path:
    """Folder of the miniature's trained parts: shipped with the package, or the build named by RE_LLM_MINI."""
    return Path(os.environ.get("RE_LLM_MINI") or PACKAGE / "mini" / "assets")


def component_hash(name: str, relative_to: Path | None = None) -> str | None:
    """Hash of the content of a model: every file of its folder, and of the folders that its `config.json` names.

    Of a hub id, the commit that is in the hub's cache; None when none is, or the name is no model at all.
    """
    folder = Path(resolve_component(name, relative_to))
    if folder.is_file():
        return file_hash(folder)
    if not folder.is_dir():
        return _cached_commit(name)
    held = {path.name: path for path in folder.iterdir() if path.name not in _ABOUT and path.name[0] != "."}
    content = files_hash({name: path for name, path in held.items() if path.is_file()})
    named = {role: component_hash(part, folder) for role, part in named_components(folder).items()}
    return hash_of([content, *(f"{role} {found}" for role, found in sorted(named.items()))])


def named_components(folder: Path) -> dict[str, str]:
    """The models that a checkpoint names instead of holding them."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        named = config["components"] if config.get("model_type") == "re_llm" else {}
        parts = {str(role): str(name) for role, name in named.items() if name is not None}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}
    return {role: name for role, name in parts.items() if (folder / name).resolve() != folder.resolve()}


def _cached_commit(name: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no name of a repository
        return None
    return f"hub {Path(found).parent.name}" if isinstance(found, str) else None
