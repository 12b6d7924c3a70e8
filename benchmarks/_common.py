"""What the benchmarks share: the machine, medians, children of their own, one way to print."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from re_llm.cli.common import prepare_environment
from re_llm.core.assets import mini_assets, missing_parts
from re_llm.core.provenance import git_revision, machine, versions

prepare_environment()  # as the command line does, before torch is imported

T = TypeVar("T")
COMMAND = str(Path(sys.executable).with_name("re-llm"))


@dataclass(frozen=True)
class Child:
    """A finished child process: seconds of wall time, peak resident memory in bytes."""

    seconds: float
    peak: int
    stdout: str


def head(title: str) -> None:
    """Title, date, machine, versions and load: without them a number means little."""
    kind, found = machine(), versions()
    print(f"## {title}")
    made = datetime.now(UTC).isoformat(timespec="minutes")
    print(f"{made}, revision {git_revision() or 'installed ' + found['re-llm']}")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{kind['processor']}, {kind['cores']} cores, {kind['system']}{load}")
    print(f"Python {platform.python_version()}, torch {found['torch']}, transformers {found['transformers']}\n")


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of them, evenly spread."""
    import numpy as np

    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).astype(int))]


def need_parts(of: str) -> None:
    """Ends a benchmark of a component, in success, where that is one of `small` and its parts are not here."""
    if of.startswith("small:") and (missing := missing_parts()):
        print(f"needs {' and '.join(missing)}: re-llm parts get small")
        raise SystemExit(0)


def shipped() -> list[str]:
    """The recordings that ship with the miniature."""
    return sorted(map(str, mini_assets().joinpath("recordings").glob("*.flac")))


def child(arguments: Sequence[str]) -> Child:
    """Runs a command to its end and measures it.

    Raises:
        RuntimeError: it failed; with what it wrote to standard error.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        begun = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed: {err.read()[-2000:]}")
        # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
        return Child(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), out.read())


def peak_memory() -> float:
    """Peak of this process in MB; on Linux `ru_maxrss` would begin with that of the process that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def spent(work: Callable[[], object]) -> float:
    """Seconds of the processor that a call takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def timed(work: Callable[[], object], repeats: int, *, warm: bool = True) -> list[float]:
    """Seconds of each of `repeats` calls, after one that is not counted (`warm`)."""
    if warm:
        work()
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return seconds


def row(name: str, seconds: Sequence[float], *, unit: str = "s", scale: float = 1.0) -> float:
    """Prints median, least and greatest of some measurements; returns the median."""
    values = sorted(scale * value for value in seconds)
    middle = statistics.median(values)
    print(f"{name:44} median {middle:8.3f} {unit:6} ({values[0]:.3f} to {values[-1]:.3f}, n = {len(values)})")
    return middle
