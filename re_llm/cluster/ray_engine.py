"""`--engine ray`: batches on the machines of a Ray cluster, through Ray Data.

Every batch is one task of `map_batches`. Work without a model runs as tasks on every free CPU; work with one runs in a
pool of actors, each of which loads the weights once: one actor per GPU, or, without any GPU, one per machine. When a
machine is lost, Ray gives its batches to another one; those that Ray gives up, or keeps for an actor that cannot be
placed any more, are submitted again here. Results carry the number of their batch, so that each arrives exactly once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from re_llm.cluster.work import Home, Work
from re_llm.core.errors import RellmError

# Read when Ray is imported: no usage statistics leave the machine.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError, RayTaskError, UserCodeException

A = TypeVar("A")
B = TypeVar("B")

# Batches of one execution of Ray Data. Without a model a new execution is cheap, and a reader that needs few rows (the
# option `limit`) reads little too far; with a model, each execution loads the weights again.
WINDOW, MODEL_WINDOW = 256, 1024
IN_FLIGHT = 2  # batches at a worker: it works on one while the next is sent
SLACK = 8  # results that may wait for an earlier one, beside two for every batch in flight
LOST_ROUNDS = 3  # executions without any result before the run stops
TIMEOUT = 5.0  # s to reach the head
START = 'Start it with "ray start --head --disable-usage-stats" on one machine, and "ray start --address" on the others'


@contextlib.contextmanager
def connected(address: str) -> Iterator[RayCluster]:
    """A running cluster; an existing connection of this process is used, and stays open.

    Raises:
        RellmError: none can be reached.
    """
    if ray.is_initialized():
        yield RayCluster()
        return
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints messages about its machines
        _init(address)
        try:
            yield RayCluster()
        finally:
            ray.shutdown()


def _init(address: str) -> None:
    named = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if named and named != "auto":
        _reach(named)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # of many types, some of them Exception itself
        reason = " ".join(str(error).split()) or type(error).__name__
        where = "here" if address == "auto" else f"at {address}"
        raise RellmError(f"no Ray cluster can be used {where}: {reason}", todo=START) from error


def _reach(address: str) -> None:
    """Raises a RellmError when nothing listens there: Ray itself waits for more than a minute."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise RellmError(f"{address!r} is not an address of a Ray cluster", allowed="auto, or HOST:PORT of its head")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT).close()
    except OSError as error:
        raise RellmError(f"no Ray cluster answers at {address}: {error.strerror or error}", todo=START) from error


class RayCluster:
    """The machines of the cluster that this process is connected to."""

    def map(self, work: Work[A, B], batches: Iterable[A]) -> Iterator[B]:
        """See `re_llm.cluster.work.Cluster`."""
        waiting = iter(batches)
        size = WINDOW if work.device is None else MODEL_WINDOW
        while window := list(itertools.islice(waiting, size)):
            yield from _results(work, window)


def _results(work: Work[A, B], batches: list[A]) -> Iterator[B]:
    """Results in order; batches of a lost machine are computed again."""
    ready: dict[int, B] = {}
    due = 0  # number of the result that comes next
    missing = dict(enumerate(batches))
    without_result = 0  # executions in a row
    while missing:
        before, waiting = len(missing), 0
        crew = _crew(work, len(missing))
        try:
            with contextlib.closing(_execute(work, dict(missing), crew)) as execution:
                for number, result in execution:
                    if missing.pop(number, None) is None:
                        continue  # it had arrived before its machine was lost
                    ready[number] = result
                    waiting += 1
                    while due in ready:
                        yield ready.pop(due)
                        due, waiting = due + 1, 0
                    # Ray keeps a batch for its lost actor until that can be started again, perhaps at the end of all
                    # work; the results that arrive meanwhile would fill the memory.
                    if waiting > SLACK + 2 * IN_FLIGHT * crew.size:
                        break
        except (UserCodeException, RayTaskError):
            raise  # a bug of ours, which would occur again
        except RayError as error:
            without_result = 0 if len(missing) < before else without_result + 1
            if without_result >= LOST_ROUNDS:
                reason = " ".join(str(error).split())[:500]
                raise RellmError(
                    f"the Ray cluster gives no results any more: {reason}",
                    todo="Look at `ray status`, then run the same command again: finished rows are kept",
                ) from error
    assert due == len(batches) and not ready, (due, len(batches), list(ready))


@dataclass(frozen=True)
class _Crew:
    """Number of workers of an execution, and the resources of each, in Ray's names."""

    size: int
    needs: dict[str, int]


def _execute(work: Work[A, B], batches: dict[int, A], crew: _Crew) -> Generator[tuple[int, B], None, None]:
    """One execution of Ray Data over numbered batches: (number, result), as they arrive."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # In Ray's own order, results that wait for a lost actor fill the object store, and all workers stop.
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"number": number, "batch": pickle.dumps(batch)} for number, batch in batches.items()]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    done = data.map_batches(batch_size=1, batch_format="pyarrow", zero_copy_batch=True, **_map_arguments(work, crew))
    for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for number, result in zip(table["number"], table["result"], strict=True):
            outcome = pickle.loads(result.as_py())
            if isinstance(outcome, RellmError):
                raise outcome
            yield number.as_py(), outcome


def resources() -> tuple[list[int], int]:
    """CPUs of each machine of the cluster that has some, and GPUs of all of them."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(each["CPU"]) for each in machines if each.get("CPU", 0) >= 1]
    return cpus, sum(int(each.get("GPU", 0)) for each in machines)


def _crew(work: Work[Any, Any], batches: int) -> _Crew:
    """Workers on the machines of the cluster.

    Raises:
        RellmError: none of them has a CPU to work with.
    """
    cpus, gpus = resources()
    if not cpus:
        raise RellmError("the Ray cluster has no CPU to work with", todo="Start its machines without --num-cpus 0")
    if work.device is None:
        return _Crew(sum(cpus), {"num_cpus": 1})
    if gpus and work.device != "cpu":
        return _Crew(min(gpus, batches), {"num_cpus": 1, "num_gpus": 1})
    # Equal parts, as large as the smallest machine: a model uses all cores of its part.
    return _Crew(min(sum(count // min(cpus) for count in cpus), batches), {"num_cpus": min(cpus)})


def _map_arguments(work: Work[Any, Any], crew: _Crew) -> dict[str, Any]:
    """Arguments of `map_batches`: tasks, or a pool of actors with a model each."""
    home = Home()
    if work.device is None:
        return {"fn": _as_task, "fn_args": (pickle.dumps(work), home), **crew.needs}
    # All actors start at once; a pool that lost one continues with the others.
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=crew.size, initial_size=crew.size, max_tasks_in_flight_per_actor=IN_FLIGHT
    )
    return {"fn": _Worker, "fn_constructor_args": (work, home), "compute": pool, **crew.needs}


class _Worker:
    """A process of the cluster for one kind of work; a failed start is raised with its first batch."""

    def __init__(self, work: Work[Any, Any], home: Home):
        self.failure: Exception | None = None
        self.function: Callable[[Any], Any] | None = None
        try:
            home.enter(work.folder)
            self.function = work.start()
        except Exception as error:  # Ray would start a failing actor again and again
            self.failure = error

    def __call__(self, table: pa.Table) -> pa.Table:
        outcomes = [pickle.dumps(self._outcome(each.as_py())) for each in table["batch"]]
        return pa.table({"number": table["number"], "result": pa.array(outcomes, pa.large_binary())})

    def _outcome(self, batch: bytes) -> Any:
        """The result of a batch, or the error of a user's mistake."""
        try:
            if self.failure is not None:
                raise self.failure
            assert self.function is not None
            return self.function(pickle.loads(batch))
        except RellmError as error:
            return error


@functools.lru_cache(maxsize=1)
def _worker(work: bytes, home: Home) -> _Worker:
    """The worker of this process, shared by all tasks of one kind."""
    return _Worker(pickle.loads(work), home)


def _as_task(table: pa.Table, work: bytes, home: Home) -> pa.Table:
    return _worker(work, home)(table)
