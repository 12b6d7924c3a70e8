"""`--engine gpus`: batches on the GPUs of this machine, a process each; nothing beside Python is needed."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar, cast

from re_llm.cluster.work import Home, Work
from re_llm.core.errors import Failed, RellmError

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

A = TypeVar("A")
B = TypeVar("B")
IN_FLIGHT = 2  # batches of a process: it works on one while the next is sent


def visible_gpus() -> list[str]:
    """`cuda:0`, `cuda:1`, ...

    Raises:
        RellmError: there is none.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise RellmError("--engine gpus: no GPU is visible", todo="Leave --engine out")
    return [f"cuda:{number}" for number in range(count)]


class DeviceProcesses:
    """A process for each device, which loads the model once.

    Args:
        devices: of the processes, in torch's names.
    """

    def __init__(self, devices: Sequence[str]):
        self.devices = list(devices)

    def map(self, work: Work[A, B], batches: Iterable[A]) -> Iterator[B]:
        """See `re_llm.cluster.work.Cluster`. Work without a model is done in this process."""
        if work.device is None:
            yield from map(work.start(), batches)
            return
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        devices = context.Queue()
        for device in self.devices:
            devices.put(device)
        pool = ProcessPoolExecutor(len(self.devices), context, initializer=_begin, initargs=(work, devices, Home()))
        try:
            yield from _ordered(pool, batches, IN_FLIGHT * len(self.devices))
        except BrokenProcessPool as error:
            raise Failed("a process of --engine gpus was ended", todo="Run the same command again") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ordered(pool: ProcessPoolExecutor, batches: Iterable[A], most: int) -> Iterator[Any]:
    waiting: deque[Future[object]] = deque()
    rest = iter(batches)
    while True:
        waiting.extend(pool.submit(_do, batch) for batch in itertools.islice(rest, most - len(waiting)))
        if not waiting:
            return
        yield waiting.popleft().result()


@dataclasses.dataclass
class _Process:
    """What a process of the pool knows."""

    begin: Callable[[], Callable[[object], object]] | None = None
    function: Callable[[object], object] | None = None


_here = _Process()


def _begin(work: Work[Any, Any], devices: Queue[str], home: Home) -> None:
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    device = devices.get()

    def begin() -> Callable[[object], object]:
        home.enter(work.folder)
        return cast(Work[object, object], dataclasses.replace(cast(Any, work), device=device)).start()

    _here.begin = begin


def _end_with_the_command() -> None:
    """A command that is killed leaves its processes waiting for batches, with a GPU each."""
    command = multiprocessing.parent_process()
    assert command is not None, "a process of a pool has a parent"
    command.join()
    os._exit(1)


def _do(batch: object) -> object:
    """The model is loaded with the first batch, so that an error of it comes back as such."""
    if _here.function is None:
        assert _here.begin is not None, "the pool has begun this process"
        _here.function = _here.begin()
    return _here.function(batch)
