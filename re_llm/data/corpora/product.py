"""What decides a manifest: the files of the corpus, the reader and its options."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from re_llm.audio.source import locate
from re_llm.core.assets import component_hash
from re_llm.core.files import file_hash, hash_of, stamp
from re_llm.core.product import Product, Standing, State, read_sidecar

STAGE = "prepare 1"  # the number rises when the same corpus begins to give another manifest
_NAMES = {
    "corpus": "the corpus (its files, their sizes or dates)",
    "reader": "the reader",
    "estimator": "the estimator of --pseudo-vad",
    "name": "the corpus",
    "protocol": "--protocol",
    "pseudo_vad": "--pseudo-vad",
}
# What stands beside a manifest that was written into the folder of its corpus.
_OURS = (".jsonl", ".provenance.json", ".html")


def manifest_product(
    out: Path,
    name: str,
    root: Path,
    *,
    protocol: str | None = None,
    seed: int = 0,
    hash: bool = True,
    options: Mapping[str, Any] | None = None,
    pseudo_vad: str | None = None,
) -> Product:
    """The manifest, and everything that decides it; arguments as for `prepare`.

    Args:
        pseudo_vad: name of the estimator's model.
    """
    options = {key: str(value) for key, value in (options or {}).items()}
    read = {option: file_hash(Path(value)) for option, value in options.items() if Path(value).is_file()}
    return Product(
        out,
        STAGE,
        inputs={
            "corpus": _listing(root, out),
            "reader": file_hash(Path(name)) if name.endswith(".py") else None,
            "estimator": component_hash(pseudo_vad) if pseudo_vad else None,
            **read,
        },
        settings={
            "name": Path(name).name if name.endswith(".py") else name,
            "protocol": protocol,
            "seed": seed,
            "hash": hash,
            "pseudo_vad": pseudo_vad,
            "options": {key: _movable(value, out) for key, value in options.items() if key not in read},
        },
        names={**_NAMES, **{option: f"the file of the option {option}" for option in read}},
    )


def manifest_standing(product: Product, root: Path, *, strict: bool = False) -> Standing:
    """As `Product.standing`; recordings that lie outside of the corpus' folder are compared too.

    Args:
        strict: a manifest with problems counts as unfinished, so that the first of them is reported again.
    """
    found = product.standing()
    if found.state is not State.SAME:
        return found
    sidecar = read_sidecar(product.out) or {}
    problems = [problem["file"] for problem in sidecar.get("report", {}).get("problems", [])]
    if sidecar.get("recordings") != recordings_stamp(product.out, root, problems):
        return Standing(State.DIFFERENT, ("a recording has changed",))
    return Standing(State.UNFINISHED) if strict and problems else found


def recordings_stamp(manifest: Path, root: Path, problems: Iterable[str]) -> str:
    """Changes when a recording of the manifest does, or a file that could not be used."""
    with manifest.open(encoding="utf-8") as lines:
        names = filter(None, (json.loads(line)["audio"] for line in lines))
        paths = {locate(name, manifest.parent).path for name in names}
    paths |= {(root.parent if root.is_file() else root) / name for name in problems}
    return hash_of(stamp(path) if path.is_file() else "missing" for path in sorted(paths))


def _movable(value: str, out: Path) -> str:
    """An option's value; the path of a folder as seen from the manifest, since both may be moved."""
    return os.path.relpath(value, out.parent) if os.path.isabs(value) or os.path.isdir(value) else value


def _listing(root: Path, out: Path) -> str:
    """The content of a file; of a folder, which files there are, and a stamp of each: they are too many to be read."""
    if root.is_file():
        return file_hash(root)
    files = sorted(path for path in root.rglob("*") if path.is_file() and not _is_ours(path, out))
    return hash_of(f"{path.relative_to(root)} {stamp(path)}" for path in files)


def _is_ours(path: Path, out: Path) -> bool:
    beside = os.path.abspath(path.parent) == os.path.abspath(out.parent)
    return beside and (path.name.startswith(".") or path.name.endswith(_OURS))
