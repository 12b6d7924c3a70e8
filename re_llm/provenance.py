"""What an output folder says about how it was made: versions, seed, revision, machine, input hashes. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

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
    root = Path(__file__).parent.parent
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
