"""A Ray cluster of two machines on this one, and a way to lose the second of them in the middle of some work.

Workers of the cluster import this module too, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORE_BYTES = 80 * 2**20
DELAY = 0.4  # s that a batch takes at least, so that there is a middle in which a machine can be lost
PATIENCE = 90.0  # s that the first machine waits for the second one to do something
# A dead machine is noticed after a second or two instead of half a minute.
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # as every other process of a busy machine
    "RAY_ADDRESS": "",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
}


@dataclass(frozen=True)
class Told:
    """Work that also tells on which machine it was done, and by which process.

    Attributes:
        machine: the one that will be lost; the others wait until it has done a batch.
        mark: file that says so.
    """

    work: Any
    machine: str
    mark: Path

    @property
    def device(self) -> str | None:
        return self.work.device

    @property
    def folder(self) -> Path | None:
        return self.work.folder

    def start(self) -> Callable[[Any], tuple[Any, str, int]]:
        import ray

        function, node = self.work.start(), ray.get_runtime_context().get_node_id()

        def slowly(batch: Any) -> tuple[Any, str, int]:
            done = function(batch), node, os.getpid()
            time.sleep(DELAY)
            if node == self.machine:
                self.mark.touch()
            end = time.monotonic() + PATIENCE
            while not self.mark.exists() and time.monotonic() < end:
                time.sleep(0.05)
            return done

        return slowly


@dataclass
class Watched:
    """A cluster whose second machine is killed as soon as it has done something, and before all is done.

    Attributes:
        batches: how many were sent.
        workers: (machine, process) of every result that came back.
        lost_at: number of results that had come back when the machine was lost.
    """

    cluster: Any
    lose: Callable[[], None]
    machine: str
    mark: Path
    batches: int = 0
    workers: list[tuple[str, int]] = field(default_factory=list)
    lost_at: int | None = None

    def map(self, work: Any, batches: Iterable[Any]) -> Iterator[Any]:
        for result, machine, process in self.cluster.map(Told(work, self.machine, self.mark), self._counted(batches)):
            self.workers.append((machine, process))
            if machine == self.machine and self.lost_at is None:
                self.lost_at = len(self.workers)
                self.lose()
            yield result

    def _counted(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            self.batches += 1
            yield batch

    def check(self) -> None:
        """It was lost in the middle of the work, and the other one went on."""
        machines = [machine for machine, _ in self.workers]
        assert self.lost_at is not None and self.lost_at < self.batches, (self.lost_at, self.batches)
        assert len(machines) == self.batches
        assert any(machine != self.machine for machine in machines[self.lost_at :])


class Machines:
    """A raylet that stays; `watched` puts up a second one, and what it gives kills it, with all of its processes."""

    def __init__(self, cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**self._size(), "num_cpus": cpus, "include_dashboard": False, "_system_config": QUICK},
        )

    @staticmethod
    def _size() -> dict[str, Any]:
        return {"num_cpus": 1, "object_store_memory": STORE_BYTES}

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def watched(self, mark: Path) -> Watched:
        """This process's connection to two machines, the second of which does not live long after its first `mark`."""
        from re_llm.cluster.ray_engine import RayCluster

        node = self.cluster.add_node(**self._size())
        return Watched(RayCluster(), lambda: self.cluster.remove_node(node, allow_graceful=False), node.node_id, mark)

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


@contextmanager
def machines(cpus: int = 1) -> Iterator[Machines]:
    """A cluster of one machine that this process is connected to; all of its processes end with the block."""
    import ray

    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        found = Machines(cpus)
        try:
            ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
            yield found
        finally:
            found.close()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
