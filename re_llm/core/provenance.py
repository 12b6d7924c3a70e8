"""What an output says about how it was made: versions, seed, revision, machine, input hashes. No torch.

A folder holds `provenance.json`; a file that grows row by row (`NAME.jsonl`) has `NAME.provenance.json` beside it.
There, `settings` decide what is in the rows, so a run that has others does not go on with the file; `runs` tell how
it was made, one entry for each start.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from re_llm.core.assets import SOURCE_TREE
from re_llm.core.errors import RellmError
from re_llm.core.records import disk_error

MAX_SIDECAR_BYTES = 16 * 2**20  # a side file is a few kilobytes
SMALL_BYTES = 2**20  # files of a checkpoint up to this size are hashed, larger ones known by name and size
PACKAGES = ("re-llm", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "scikit-learn", "soundfile")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def git_revision() -> str | None:
    """Revision of the source tree this package is run from, with `+` when it has changes; None for an installed one."""
    root = SOURCE_TREE
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and system; no names of hosts or users."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = named[0] if named else model
    return {"processor": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def provenance(*, seed: int | None = None, inputs: Iterable[Path] = ()) -> dict[str, Any]:
    """Everything a reader needs to make a number again."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "revision": git_revision(),
        "versions": versions(),
        "machine": machine(),
        "inputs": {path.name: file_hash(path) for path in inputs},
    }


def write_provenance(
    folder: Path, *, seed: int | None = None, inputs: Iterable[Path] = (), settings: dict[str, Any] | None = None
) -> Path:
    """Writes `provenance.json` and, when there are settings, `recipe.resolved.yaml` into an output folder."""
    path = folder / "provenance.json"
    path.write_text(json.dumps(provenance(seed=seed, inputs=inputs), indent=2) + "\n", encoding="utf-8")
    if settings is not None:
        resolved = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (folder / "recipe.resolved.yaml").write_text(resolved, encoding="utf-8")
    return path


def fingerprint(folder: Path) -> str:
    """What tells a checkpoint from another one of the same name: its small files, and the sizes of the large ones.

    Every training writes its own figures and date into the small files, so gigabytes need not be read.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}\n{size}\n".encode())
            digest.update(path.read_bytes() if size <= SMALL_BYTES else b"")
    return digest.hexdigest()


def sidecar_path(out: Path) -> Path:
    """`NAME.provenance.json` of `NAME.jsonl`."""
    return out.with_suffix(".provenance.json")


def read_sidecar(out: Path) -> dict[str, Any] | None:
    """What stands beside `out`, or None.

    Raises:
        RellmError: it is not what a run writes.
    """
    path = sidecar_path(out)
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError("too large")
        sidecar = json.loads(path.read_bytes())
        if not (isinstance(sidecar["settings"], dict) and isinstance(sidecar["runs"], list)):
            raise TypeError("settings and runs have other types")
    except (ValueError, KeyError, TypeError) as error:
        raise RellmError(
            f"{path} does not tell how {out.name} was made: {error}", todo="Move both away, or give another --out"
        ) from None
    return dict(sidecar)


def write_sidecar(out: Path, sidecar: Mapping[str, Any]) -> None:
    """Replaces the side file at once: a reader sees the old one or the new one.

    Raises:
        RellmError: the disk is full, or the folder cannot be written.
    """
    path = sidecar_path(out)
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def check_same(
    out: Path, sidecar: Mapping[str, Any] | None, settings: Mapping[str, Any], options: Mapping[str, str]
) -> None:
    """Whether rows made with these settings may be added to the rows that `out` holds.

    Args:
        side: what `read_side` gave.
        settings: plain values, as they are after a way through JSON.
        options: what a setting is called in a message: an option of the command line, or a whole sentence's end.

    Raises:
        RellmError: they may not; names the first setting that differs.
    """
    todo = "Give the options that the file was begun with, or another --out"
    if sidecar is None:
        raise RellmError(
            f"{out} holds rows, but {sidecar_path(out).name}, which tells how they were made, is missing",
            todo="Move the file away, or give another --out",
        )
    for name, value in settings.items():
        begun = sidecar["settings"].get(name)
        if begun != value:
            called = options.get(name, name)
            if " " in called:
                raise RellmError(f"{out} was begun {called}", todo=todo)
            raise RellmError(f"{out} was begun with {called} {begun}, and this run has {value}", todo=todo)


def begin_sidecar(
    out: Path, settings: Mapping[str, Any], sidecar: Mapping[str, Any] | None, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes that a run begins; returns what is in the side file now.

    Args:
        side: what earlier runs wrote there, when this run goes on with their rows.
        run: what is to be said about this start, e.g. device and batch size.
    """
    entry = {name: value for name, value in provenance().items() if name not in ("seed", "inputs")} | dict(run)
    made = {"settings": dict(settings), "complete": False, "runs": [*(sidecar["runs"] if sidecar else []), entry]}
    write_sidecar(out, made)
    return made
