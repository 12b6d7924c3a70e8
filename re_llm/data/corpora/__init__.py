"""Corpora: one file each, found by their constant `INFO`; `prepare` writes the manifest of one of them.

A new corpus is one new file: copy the nearest reader, change `INFO` and `read` (docs/corpora.md).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from re_llm.cluster.work import Cluster
from re_llm.core.errors import RellmError
from re_llm.data.corpora import own
from re_llm.data.corpora.base import CorpusInfo, Filters, Reader, Scan
from re_llm.data.corpora.recordings import VadEstimator
from re_llm.data.corpora.run import PrepareReport
from re_llm.data.corpora.run import run as _run
from re_llm.data.manifest import Problem

__all__ = [
    "CorpusInfo",
    "Filters",
    "PrepareReport",
    "Problem",
    "Scan",
    "VadEstimator",
    "get",
    "infos",
    "names",
    "prepare",
]


@functools.cache
def _modules() -> dict[str, ModuleType]:
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {module.INFO.name: module for module in modules if hasattr(module, "INFO")}


def names() -> list[str]:
    """Names of all corpora that can be read."""
    return sorted(_modules())


def infos() -> list[CorpusInfo]:
    """Descriptions of all corpora, by name: what `re-llm prepare --list` shows."""
    return [_modules()[name].INFO for name in names()]


def get(name: str) -> tuple[CorpusInfo, Reader]:
    """Description and reader of a corpus, or of a file with a reader (`bells.py`).

    Raises:
        RellmError: there is no such corpus; names the nearest. Or the file holds no reader.
    """
    if name.endswith(own.SUFFIX):
        module = own.load(Path(name))
        return module.INFO, module.read
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in _modules():
        near = difflib.get_close_matches(wanted, names(), n=1)
        todo = f"Did you mean {near[0]}?" if near else "Use `table` for a csv, tsv or jsonl of your own"
        raise RellmError(f"unknown corpus {name!r}", allowed=", ".join(names()), todo=todo)
    module = _modules()[wanted]
    return module.INFO, module.read


def prepare(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    protocol: str | None = None,
    seed: int = 0,
    hash: bool = True,
    workers: int = 1,
    strict: bool = False,
    options: Mapping[str, Any] | None = None,
    pseudo_vad: VadEstimator | None = None,
    cluster: Cluster | None = None,
) -> PrepareReport:
    """Reads a corpus and writes its manifest; `OUT_STEM.problems.jsonl` beside it lists what could not be used.

    Args:
        name: one of `names()`, or the path of a reader (`bells.py`).
        root: folder of the corpus (for `table`, `emobox` and the like also a file).
        out: the manifest; audio paths in it are relative to its folder.
        protocol: named selection and split of the corpus; None takes everything that it holds.
        seed: for protocols that sample or shuffle.
        hash: whether every recording is hashed (needed for the search for duplicates and leakage).
        workers: threads that read headers and hash; without effect on a cluster.
        strict: the first problem is an error.
        options: settings of the reader (`INFO.options`), and of every reader: `min_words`, `min_seconds`,
            `max_seconds` and `limit`.
        pseudo_vad: estimates valence, arousal and dominance where the corpus has none.
        cluster: machines that read the recordings (re_llm.cluster.work.Where); None does it in this process.

    Raises:
        RellmError: unknown corpus, protocol or option; a root that is not this corpus; not one utterance found.
    """
    info, reader = get(name)
    return _run(
        info,
        reader,
        Path(root),
        Path(out),
        protocol=protocol,
        seed=seed,
        hashed=hash,
        workers=workers,
        strict=strict,
        options=options or {},
        pseudo_vad=pseudo_vad,
        cluster=cluster,
    )
