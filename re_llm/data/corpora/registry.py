"""Which readers of corpora there are."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

from re_llm.core.errors import RellmError
from re_llm.data.corpora import custom
from re_llm.data.corpora.base import CorpusInfo, Reader


@functools.cache
def _modules() -> dict[str, ModuleType]:
    files = pkgutil.iter_modules([str(Path(__file__).parent)])
    modules = (importlib.import_module(f"{__package__}.{found.name}") for found in files)
    return {module.INFO.name: module for module in modules if hasattr(module, "INFO")}


def names() -> list[str]:
    """Names of all corpora that can be read."""
    return sorted(_modules())


def infos() -> list[CorpusInfo]:
    """Descriptions of all corpora, by name."""
    return [_modules()[name].INFO for name in names()]


def get(name: str) -> tuple[CorpusInfo, Reader]:
    """Description and reader of a corpus, or of a file with a reader (`bells.py`).

    Raises:
        RellmError: there is no such corpus; suggests the nearest. Or the file holds no reader.
    """
    if name.endswith(custom.SUFFIX):
        module = custom.load(Path(name))
        return module.INFO, module.read
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in _modules():
        near = difflib.get_close_matches(wanted, names(), n=1)
        todo = f"Did you mean {near[0]}?" if near else "Use `table` for any other csv, tsv or jsonl"
        raise RellmError(f"unknown corpus {name!r}", allowed=", ".join(names()), todo=todo)
    module = _modules()[wanted]
    return module.INFO, module.read
