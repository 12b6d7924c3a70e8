"""Worker processes that end with the process that started them, and processes that a launcher has started."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from typing import Any

from re_llm.core.errors import RellmError


def launched() -> int:
    """How many processes a launcher (torchrun, `accelerate launch`) has started together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one of them that prints."""
    return os.environ.get("RANK", "0") == "0"


def refuse_several(what: str) -> None:
    """Raises a RellmError where a launcher has started several processes, each of which would do the same."""
    if launched() > 1:
        raise RellmError(
            f"{what} runs in one process, and {launched()} were started", todo="Start it without a launcher"
        )


@contextmanager
def process_pool(workers: int, begin: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes. Leaving it with an error or a signal ends them at once; else their work is awaited.

    Args:
        begin: called in each of them before any work.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=(begin,))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()
        raise
    pool.shutdown()


@contextmanager
def mapped(
    workers: int, begin: Callable[[], None] | None = None, *, chunk: int
) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map` in this process, or in several, which take `chunk` items at a time; results come in order.

    Args:
        begin: called once in each process that works.
    """
    if workers <= 1:
        if begin is not None:
            begin()
        yield map
        return
    with process_pool(workers, begin) as pool:
        yield partial(pool.map, chunksize=chunk)


def _begin(begin: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin()


def _end_with_parent() -> None:
    """Waits for the end of the parent, which may have been killed and tells nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
