"""What ships with the package, and where a component of a given name lies."""

from __future__ import annotations

import os
from pathlib import Path

from re_llm.core import parts
from re_llm.core.errors import RellmError

PACKAGE = Path(__file__).parent.parent
SOURCE_TREE = PACKAGE.parent  # of an editable installation


def resolve_component(name: str, relative_to: Path | None = None) -> str:
    """Folder or hub id of a component. `mini:NAME` ships with the package, `small:NAME` is fetched once.

    Raises:
        RellmError: `mini:NAME` is not shipped, `small:NAME` not here.
    """
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


def mini_assets() -> Path:
    """Folder of the miniature's trained parts: shipped with the package, or the build named by RE_LLM_MINI."""
    return Path(os.environ.get("RE_LLM_MINI") or PACKAGE / "mini" / "assets")
