"""`re-llm serve --engine ray`: the same application in several processes of a Ray cluster, by Ray Serve.

Every replica loads the model and answers as a server of its own does. The command's process listens, with a server's
limits, and Ray Serve gives each request to the replica that has fewer. It starts another one while more requests are
under way than the replicas decode at once, and replaces one that has died.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from re_llm.apps.serve import run as server
from re_llm.apps.serve.options import ServeOptions
from re_llm.cluster.engines import Where
from re_llm.core.errors import Failed, MissingExtra, RellmError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from starlette.types import ASGIApp

    from re_llm.apps.serve.front import Ask

# Ray Serve's defaults react after half a minute, to means of half a minute.
SCALING = {"upscale_delay_s": 5.0, "downscale_delay_s": 300.0, "look_back_period_s": 20.0}


@dataclass(frozen=True)
class Copies:
    """How many replicas answer: at least, and at most when many requests wait."""

    least: int = 1
    most: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise RellmError(
                f"{self.least} to {self.most} replicas", allowed="--replicas from 1 on, --max-replicas not below it"
            )


def require() -> None:
    """Raises MissingExtra when Ray Serve, or what a server needs anyway, is not there, or protobuf too new for it."""
    server.require()
    for package in ("ray.serve", "aiohttp_cors", "watchfiles"):  # Ray Serve is imported without its packages, too
        with MissingExtra.unless("ray[serve]", "serve-ray", "re-llm serve --engine ray"):
            __import__(package)
    if int(version("protobuf").partition(".")[0]) >= 7:
        raise MissingExtra("protobuf<7", "serve-ray", "re-llm serve --engine ray")


def application(
    build: Callable[[], FastAPI],
    options: ServeOptions,
    copies: Copies,
    needs: dict[str, int],
    folder: Path | None = None,
) -> Application:
    """The deployment of an app.

    Args:
        build: makes the app in each replica.
        needs: resources of each, in Ray's names.
        folder: that every machine has to see, or None.
    """
    from ray import serve

    from re_llm.apps.serve.replica import Replica
    from re_llm.cluster.work import Home

    make = serve.deployment(
        name=Replica.__name__,
        max_ongoing_requests=options.rows + options.queue_size,
        max_queued_requests=options.queue_size,
        autoscaling_config={
            "min_replicas": copies.least,
            "max_replicas": copies.most,
            "target_ongoing_requests": options.rows,
            **SCALING,
        },
        ray_actor_options=needs,
        max_constructor_retry_count=1,  # what cannot be loaded is told at once
        graceful_shutdown_timeout_s=server.SHUTDOWN_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
    )
    bound: Application = make(Replica).bind(build, Home(), folder)
    return bound


@contextmanager
def deployed(application: Application, name: str) -> Iterator[Ask]:
    """The replicas of an application on the cluster that this process is connected to; they end with the block.

    What a killed command has left under the same name is replaced; other applications of the cluster are left alone.

    Raises:
        RellmError: the replicas cannot start.
    """
    from ray import serve

    serve.start(proxy_location="Disabled")
    try:
        if name in serve.status().applications:
            serve.delete(name)
        try:
            replicas = serve.run(application, name=name, route_prefix=None)
        except RuntimeError as error:
            raise Failed(f"the replicas cannot start: {_reason(str(error))}", todo="Look at: serve status") from error
        ask = replicas.options(stream=True).answer
        try:
            yield cast("Ask", ask.remote)
        finally:
            ask.shutdown()  # else its thread tells the cluster how many ask, and joins it again once it is left
    finally:
        serve.delete(name)
        if not serve.status().applications:
            serve.shutdown()


def _reason(message: str) -> str:
    """What Ray Serve says of a failed start, without the tracebacks: the error of ours in it, if there is one."""
    ours = [line.partition("Error: ")[2] for line in message.splitlines() if "re_llm" in line and "Error: " in line]
    return ours[-1] if ours else " ".join(message.split())[-500:]


def _needs(copies: Copies, device: str) -> dict[str, int]:
    """Resources of a replica on this cluster, in Ray's names: a GPU, or an equal part of the CPUs.

    Raises:
        RellmError: there is no room for the least number of them.
    """
    from re_llm.cluster.ray_engine import resources

    cpus, gpus = resources()
    if gpus and device != "cpu":
        kind, room, needs = "GPU", gpus, {"num_cpus": 1, "num_gpus": 1}
    else:
        shares = range(1, max(cpus, default=0) + 1)
        share = max((each for each in shares if sum(count // each for count in cpus) >= copies.most), default=1)
        kind, room, needs = "CPU", sum(cpus), {"num_cpus": share}
    if room < copies.least:
        raise RellmError(
            f"{copies.least} replicas need a {kind} each, and the Ray cluster has {room}",
            todo="Ask for fewer with --replicas, or add machines to the cluster",
        )
    return needs


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM leaves the block as an exception, so that what it opened is closed."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(
    model: str,
    options: ServeOptions,
    where: Where,
    copies: Copies,
    *,
    host: str,
    port: int,
    device: str,
    dtype: str,
    quantize: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serves until interrupted; running requests are finished, then the replicas end.

    Args:
        model: the same folder on every machine, or a name that each of them resolves.
        names: host names it answers to beside its address.

    Raises:
        RellmError: the address cannot be used, the cluster cannot be reached, or the replicas cannot start.
    """
    require()
    folder = Path(model).absolute() if Path(model).exists() else None
    build = partial(server.make_app, str(folder or model), options, None, device=device, dtype=dtype, quantize=quantize)
    with server.listen(host, port) as listener, where.connect(), _ended_by_sigterm():
        from re_llm.apps.serve.connections import CrossOrigin, HostCheck, hosts_of
        from re_llm.apps.serve.front import Front

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        deployment = application(build, options, copies, _needs(copies, device), folder)
        with deployed(deployment, f"re-llm {socket.gethostname()} {host} {port}") as ask:
            front: ASGIApp = Front(ask, options)
            app = CrossOrigin(front, options.cors_origins) if options.cors_origins else front
            server.answer(HostCheck(app, hosts_of(host, names)), listener, lifespan="off")
