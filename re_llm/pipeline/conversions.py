"""Parts in the formats of the original systems, converted into the folder of a run; known again by their content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from re_llm.core import files
from re_llm.core.assets import component_hash
from re_llm.core.errors import RellmError
from re_llm.core.product import REMEMBERED_BYTES
from re_llm.pipeline.open_parts import kind_of_folder
from re_llm.recipe.config import Recipe

FOLDER = "converted"  # of a run
VERSION = 1  # rises when the same source begins to give another folder
FOREIGN = ("blsp-emo", "qwen")


def convert_all(folders: Mapping[str, Path], target: Path, say: Callable[[str], None]) -> dict[str, str]:
    """Converts what is in a format of the original systems, unless that has been done.

    Args:
        folders: of the parts, by their names in the recipe.

    Returns:
        name in the recipe -> converted folder.

    Raises:
        RellmError: a part cannot be converted, or a conversion was changed after it was written.
    """
    converted = {}
    for name, folder in folders.items():
        if kind_of_folder(folder) in FOREIGN:
            out = target / "-".join(part for part in Path(name).parts[-2:] if part not in ("/", ".", ".."))
            with files.lock(out, wait=True):
                _convert(name, folder, out, say)
            converted[name] = str(out)
    return converted


def _convert(name: str, folder: Path, out: Path, say: Callable[[str], None]) -> None:
    about = out.with_name(f"{out.name}.source.json")
    before = _read(about)  # none: never converted, or killed meanwhile
    files.remember_hashes(before.get("hashes") or {})
    made_from = {"version": VERSION, "source": component_hash(str(folder))}
    there = component_hash(str(out)) if out.is_dir() else None
    if there is not None and before and before.get("content") != there:
        raise RellmError(
            f"{out} was changed after it was written", todo="Move it away, then run the same command again"
        )
    if there is not None and before.get("made_from") == made_from:
        return
    from re_llm.model.convert.run import convert

    say(f"converting {name}")
    about.unlink(missing_ok=True)  # first: a run that is killed from here on converts again
    shutil.rmtree(out, ignore_errors=True)  # of another model under the same name
    say(convert(folder, out).summary())
    content = component_hash(str(out))
    hashes = files.known_hashes(at_least=REMEMBERED_BYTES)
    files.write_json(about, {"made_from": made_from, "content": content, "hashes": hashes})


def _read(about: Path) -> dict[str, dict[str, str]]:
    try:
        return dict(json.loads(about.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def with_converted(recipe: Recipe, converted: Mapping[str, str]) -> Recipe:
    """The recipe with the converted folders in place of what they were made of."""
    if not converted:
        return recipe
    data = recipe.model_dump(exclude_unset=True)
    data["components"] = {role: converted.get(name, name) for role, name in data["components"].items()}
    for stage in data["stages"].values():
        if stage.get("start") in converted:
            stage["start"] = converted[stage["start"]]
    for system in data.get("systems", {}).values():
        if system.get("stage") in converted:
            system["stage"] = converted[system["stage"]]
    return Recipe.model_validate(data)
