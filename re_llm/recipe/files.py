"""Reads recipes: YAML files, or the names of shipped ones, with options of the command line put in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from re_llm.core.assets import PACKAGE, SOURCE_TREE
from re_llm.core.errors import RellmError
from re_llm.recipe.config import Recipe
from re_llm.recipe.emotion import EmotionRecipe
from re_llm.recipe.options import first_error, refusal

MAX_RECIPE_BYTES = 2**20


def _line_of(node: yaml.Node | None, location: tuple[Any, ...]) -> int | None:
    """Line of the deepest part of `location` that the YAML tree holds."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _parse_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """(tree with line numbers, value) of YAML text.

    Raises:
        RellmError: it is not YAML, or nested too deeply; names the line if it is known.
    """
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RellmError(f"{source}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    except RecursionError:
        raise RellmError(f"{source}: not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # of scalars such as `!!int x`
        raise RellmError(f"{source}: not valid YAML: {error}") from None


def parse_recipe(text: str, source: str = "recipe", overrides: dict[str, Any] | None = None) -> Recipe:
    """Recipe from YAML text; `overrides` maps dotted keys to values (`{"stages.emotion.lr": 1e-4}`).

    Raises:
        RellmError: not YAML, an unknown key, a wrong value, a contradiction, or a recipe of an emotion encoder; names
            file and line.
    """
    found = parse_any(text, source, overrides)
    if isinstance(found, EmotionRecipe):
        raise RellmError(
            f"{source} trains an emotion encoder", allowed="a recipe of a RE-LLM", todo=f"re-llm train {source} --help"
        )
    return found


def parse_any(text: str, source: str = "recipe", overrides: dict[str, Any] | None = None) -> Recipe | EmotionRecipe:
    """As `parse_recipe`; one with `kind: emotion` trains an emotion encoder (re_llm.recipe.emotion)."""
    tree, data = _parse_yaml(text, source)
    if not isinstance(data, dict):
        raise RellmError(f"{source}: a recipe is a mapping of options", todo="Start from one of the shipped recipes")
    for dotted, value in (overrides or {}).items():
        place = data
        *parents, last = dotted.split(".")
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RellmError(f"--set {dotted}: {part!r} is not a group of options")
        place[last] = value
    model: type[Recipe] | type[EmotionRecipe] = EmotionRecipe if data.get("kind") == "emotion" else Recipe
    try:
        return model.model_validate(data)
    except ValidationError as error:
        number = _line_of(tree, first_error(error)["loc"])
        raise refusal(error, f"{source}:{number}" if number else source, model) from None


def find_recipe(name: str | os.PathLike[str]) -> Path:
    """Path of a recipe file; a name that is no file is looked up among the recipes shipped with the package.

    Raises:
        RellmError: neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    folders = (PACKAGE / "recipes", SOURCE_TREE / "recipes")
    for folder in folders:
        for candidate in (folder / path.name, folder / f"{path.name}.yaml"):
            if candidate.is_file():
                return candidate
    shipped = sorted(p.name for f in folders for p in f.glob("*.yaml"))
    raise RellmError(f"no such recipe: {path}", allowed="a YAML file, or " + ", ".join(dict.fromkeys(shipped)))


def load_recipe(name: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> Recipe:
    """Reads and checks a recipe file.

    Raises:
        RellmError: see `parse_recipe`; also when the file is missing or too large.
    """
    return parse_recipe(*_read(name), overrides)


def load_any(name: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> Recipe | EmotionRecipe:
    """As `load_recipe`, also for the recipe of an emotion encoder."""
    return parse_any(*_read(name), overrides)


def _read(name: str | os.PathLike[str]) -> tuple[str, str]:
    """Text and path of a recipe."""
    path = find_recipe(name)
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise RellmError(f"{path}: a recipe is at most {MAX_RECIPE_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except UnicodeDecodeError:
        raise RellmError(f"{path}: not a text file in UTF-8") from None


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """`--set key=value` options; values are read as YAML.

    Raises:
        RellmError: an item has no `=`, or its value is not YAML.
    """
    result: dict[str, Any] = {}
    for item in items:
        key, found, value = item.partition("=")
        if not found or not key:
            raise RellmError(f"--set {item!r} is not of the form key=value", allowed="e.g. stages.finetune.lr=1e-4")
        result[key.strip()] = _parse_yaml(value, f"--set {key.strip()}")[1]
    return result
