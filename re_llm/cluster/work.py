"""Execution of the batches of a stage: in this process, or on a cluster of machines (`--engine ray`).

A stage describes its work as a `Work`: plain data that can be sent to another machine, whose `start` returns the
function of one batch. Both engines call the same function on the same batches and return the results in order, so both
write the same files. `engines` chooses; only `ray_engine` needs Ray, and it is imported only with `--engine ray`.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from re_llm.core.errors import RellmError
from re_llm.core.version import __version__

ROWS = 64  # rows sent to a worker at once; each takes milliseconds
AHEAD = 16  # rows a thread may be ahead

A_in = TypeVar("A_in", contravariant=True)
B_out = TypeVar("B_out", covariant=True)
A = TypeVar("A")
B = TypeVar("B")


class Work(Protocol[A_in, B_out]):
    """Work on a batch, as plain data that is sent to every worker.

    Attributes:
        device: of the model that `start` loads (`auto`, `cpu`, `cuda`, ...); None without a model.
        folder: path that every machine of a cluster must see, or None.
    """

    @property
    def device(self) -> str | None: ...

    @property
    def folder(self) -> Path | None: ...

    def start(self) -> Callable[[A_in], B_out]:
        """Loads what is needed once, and returns the function of a batch.

        Raises:
            RellmError: it cannot be loaded here.
        """
        ...


@dataclass(frozen=True)
class Home:
    """Where the command was given: its version of re-llm, and its working folder."""

    version: str = __version__
    folder: str = field(default_factory=os.getcwd)

    def enter(self, needed: Path | None) -> None:
        """Makes relative paths of this process those of the command.

        Args:
            needed: path that this machine must see, or None.

        Raises:
            RellmError: it does not, or has another version of re-llm.
        """
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        here = f"the machine {socket.gethostname()}"
        if self.version != __version__:
            raise RellmError(
                f"{here} has re-llm {__version__}, the command's machine has {self.version}",
                todo="Install the same version on every machine of the cluster",
            )
        if needed is not None and not needed.exists():
            raise RellmError(
                f"{here} does not see {needed.absolute()}",
                todo="Mount it at the same path on every machine of the cluster",
            )


class Cluster(Protocol):
    """Several machines."""

    def map(self, work: Work[A, B], batches: Iterable[A]) -> Iterator[B]:
        """Results of all batches, in the order of the batches.

        Raises:
            RellmError: as the function raised it for one of the batches, or the cluster is lost.
        """
        ...


def run_batches(work: Work[A, B], batches: Iterable[A], cluster: Cluster | None = None) -> Iterator[B]:
    """Results of all batches, in order: by the cluster, or one after the other in this process."""
    return map(work.start(), batches) if cluster is None else cluster.map(work, batches)


def run_rows(
    work: Work[list[A], list[B]], rows: Iterable[A], *, cluster: Cluster | None = None, workers: int = 1
) -> Iterator[B]:
    """As `run_batches`, for work whose rows are independent: in this process by `workers` threads."""
    if cluster is not None:
        return itertools.chain.from_iterable(cluster.map(work, batched(rows, ROWS)))
    function = work.start()
    return ordered_map(lambda row: function([row])[0], rows, workers)


def batched(items: Iterable[A], size: int) -> Iterator[list[A]]:
    """Lists of `size` items, the last one shorter."""
    waiting = iter(items)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


def ordered_map(function: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """`map` over threads, in order, with a bounded number of results waiting.

    Reading, hashing, decoding and resampling all release the interpreter lock.
    """
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
