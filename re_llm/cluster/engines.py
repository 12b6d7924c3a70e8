"""The choice of machines for the batches of a stage: `--engine local`, `gpus` or `ray`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from re_llm.cluster.device_processes import DeviceProcesses, visible_gpus
from re_llm.cluster.work import Cluster
from re_llm.core.errors import MissingExtra, RellmError

ENGINES = ("local", "gpus", "ray")


@dataclass(frozen=True)
class Where:
    """The machines that do the work.

    Args:
        engine: one of `ENGINES`; `gpus` are those of this machine.
        address: for `ray`: HOST:PORT of the cluster's head, or `auto` (the default): the address in `RAY_ADDRESS`, else
            the cluster that this machine belongs to.

    Raises:
        RellmError: there is no such engine, or Ray is not installed.
    """

    engine: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RellmError(f"unknown engine {self.engine!r}", allowed=", ".join(ENGINES))
        if self.engine != "ray" and self.address is not None:
            raise RellmError("--ray-address is for --engine ray", todo="Add --engine ray, or leave the address out")
        if self.engine == "ray" and not all(importlib.util.find_spec(name) for name in ("ray", "pyarrow")):
            raise MissingExtra("ray", "data", "--engine ray")

    @contextmanager
    def connect(self) -> Iterator[Cluster | None]:
        """The cluster, connected inside the context; None for the engine `local`.

        Raises:
            RellmError: it cannot be reached, or there is no GPU.
        """
        if self.engine == "local":
            yield None
            return
        if self.engine == "gpus":
            yield DeviceProcesses(visible_gpus())
            return
        from re_llm.cluster.ray_engine import connected

        with connected(self.address or "auto") as cluster:
            yield cluster


HERE = Where()
