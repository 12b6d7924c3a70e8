"""What an output says about how it was made: versions, seed, revision, machine, input hashes. No torch."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from re_llm.core.assets import SOURCE_TREE
from re_llm.core.files import file_hash, write_json, write_text

RESOLVED = "recipe.resolved.yaml"
PACKAGES = ("re-llm", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "scikit-learn", "soundfile")


@functools.cache
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
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and system; no names of hosts or users."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (named := re.search(r"^model name\s*:\s*(.*)$", cpuinfo.read_text(), re.MULTILINE)):
        model = named[1]
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
    folder: Path, *, seed: int | None = None, inputs: Iterable[Path] = (), settings: Mapping[str, Any] | None = None
) -> None:
    """Writes `provenance.json` and, when there are settings, `recipe.resolved.yaml` into an output folder."""
    if settings is not None:
        write_resolved(folder, settings)
    write_json(folder / "provenance.json", provenance(seed=seed, inputs=inputs))


def write_resolved(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes `recipe.resolved.yaml`: every setting of what the folder holds, defaults included."""
    write_text(folder / RESOLVED, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
