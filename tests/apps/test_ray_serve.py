"""The command over a Ray cluster of this machine: one of two replicas is killed under load, and the answers go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from typer.testing import CliRunner

from re_llm.apps.serve import ray_serve
from re_llm.core.errors import RellmError

try:
    ray_serve.require()
except RellmError as error:
    pytest.skip(str(error), allow_module_level=True)

from fastapi import FastAPI
from ray_world import Machines, machines

from re_llm.apps.serve.options import ServeOptions
from re_llm.cli import app as command_line
from re_llm.cluster import ray_engine
from re_llm.core.errors import MissingExtra

CLIENTS, PATIENCE = 4, 240.0
QUESTION = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8}


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def replicas(application: str) -> dict[int, psutil.Process]:
    """Processes of the replicas of one application on this test's cluster, by their ids."""
    found = {}
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if f"ray::ServeReplica:{application}" in " ".join(each.cmdline()):
                found[each.pid] = each
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    with machines(cpus=2) as made:
        yield made


@dataclass
class Server:
    """The command, and what it writes."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def open(self, **fields: Any) -> HTTPResponse:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps({**QUESTION, **fields}).encode(),
            {"Content-Type": "application/json"},
        )
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def ask(self) -> str:
        """The answer, or the code of the error."""
        try:
            with self.open() as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            return str(json.load(error)["error"]["code"])

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=PATIENCE) as response:
                return bool(response.status == 200)
        except (urllib.error.HTTPError, ConnectionError):
            return False
        except urllib.error.URLError:
            return False


def command(cluster: Machines, model: Path, port: int, log: IO[bytes], *more: str) -> subprocess.Popen[bytes]:
    words = ["serve", "--engine", "ray", "--ray-address", cluster.address, "--model", str(model), "--device", "cpu"]
    arguments = [sys.executable, "-m", "re_llm", *words, "--port", str(port), *more]
    return subprocess.Popen(arguments, stdout=log, stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def server(cluster: Machines, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log, port = tmp_path_factory.mktemp("server") / "log", free_port()
    with log.open("wb") as file:
        made = Server(port, command(cluster, tiny_checkpoint, port, file, "--replicas", "2"), log)
        try:
            wait_for(lambda: made.ready)
            yield made
        finally:
            made.process.kill()
            made.process.wait()


@pytest.mark.slow
def test_one_of_two_replicas_is_killed_under_load(server: Server) -> None:
    expected = server.ask()
    wait_for(lambda: len(replicas("re-llm")) == 2)
    before = replicas("re-llm")
    answers: list[str] = []
    end = threading.Event()

    def client() -> None:
        while not end.is_set():
            answers.append(server.ask())

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) >= 3 * CLIENTS)
        next(iter(before.values())).kill()
        at = len(answers)
        wait_for(lambda: len(answers) >= at + 6 * CLIENTS)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert answers == [expected] * len(answers)  # those that it was answering, too: the other one was asked again
    wait_for(lambda: len(replicas("re-llm")) == 2)  # Ray starts another one
    assert set(replicas("re-llm")) != set(before)


@pytest.mark.slow
def test_replicas_follow_the_load(server: Server, cluster: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application beside the first one, which it leaves alone."""
    monkeypatch.setattr(
        ray_serve, "SCALING", {"upscale_delay_s": 0.5, "look_back_period_s": 1.0, "metrics_interval_s": 0.5}
    )

    def build() -> FastAPI:
        app = FastAPI()

        @app.get("/healthz")
        async def healthz() -> int:
            return os.getpid()

        @app.get("/slow")
        async def slow() -> None:
            await asyncio.sleep(60.0)

        return app

    options, needs = ServeOptions(rows=1, queue_size=4), {"num_cpus": 0}
    with ray_serve.deployed(ray_serve.application(build, options, ray_serve.Copies(1, 2), needs), "other") as ask:
        assert len(replicas("other")) == 1

        async def load() -> None:
            scope = {"type": "http", "method": "GET", "path": "/slow", "query_string": b"", "headers": []}
            requests = [ask(scope, b"") for _ in range(3)]
            waiting = [asyncio.ensure_future(anext(aiter(request))) for request in requests]
            try:
                await asyncio.to_thread(wait_for, lambda: len(replicas("other")) == 2)
            finally:
                for request, task in zip(requests, waiting, strict=True):
                    request.cancel()
                    task.cancel()

        asyncio.run(load())
    wait_for(lambda: not replicas("other"))
    assert server.ready


@pytest.mark.slow
def test_the_command_finishes_what_runs_and_takes_its_replicas_along(server: Server) -> None:
    with server.open(stream=True, max_tokens=200) as response:
        events = [response.readline()]
        server.process.send_signal(signal.SIGTERM)
        events += response.readlines()
    assert events[-2] == b"data: [DONE]\n"
    assert server.process.wait(PATIENCE) == 128 + signal.SIGTERM, server.log.read_text()
    wait_for(lambda: not replicas("re-llm"))
    with pytest.raises(urllib.error.URLError):
        server.ask()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_named(cluster: Machines, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = command(cluster, tmp_path / "model", free_port(), file)
        assert process.wait(PATIENCE) == 1, log.read_text()
    assert "the replicas cannot start" in log.read_text()
    wait_for(lambda: not replicas("re-llm"))


@pytest.mark.parametrize(("least", "most"), [(0, 1), (3, 2)])
def test_replicas_that_cannot_be(least: int, most: int) -> None:
    with pytest.raises(RellmError, match=f"{least} to {most} replicas"):
        ray_serve.Copies(least, most)


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "copies", "needs"),
    [
        ([8], 0, "auto", (1, 1), {"num_cpus": 8}),
        ([8], 0, "auto", (1, 2), {"num_cpus": 4}),
        ([3, 3], 0, "auto", (1, 3), {"num_cpus": 1}),  # two of 2 CPUs would leave no machine for the third
        ([2], 0, "auto", (2, 8), {"num_cpus": 1}),
        ([8, 8], 2, "auto", (2, 2), {"num_cpus": 1, "num_gpus": 1}),
        ([8], 2, "cpu", (4, 4), {"num_cpus": 2}),
    ],
)
def test_what_a_replica_takes(
    cpus: list[int], gpus: int, device: str, copies: tuple[int, int], needs: dict[str, int], monkeypatch: Any
) -> None:
    monkeypatch.setattr(ray_engine, "resources", lambda: (cpus, gpus))
    assert ray_serve._needs(ray_serve.Copies(*copies), device) == needs


@pytest.mark.parametrize(("cpus", "gpus", "kind"), [([1, 1], 0, "CPU"), ([8], 2, "GPU"), ([], 0, "CPU")])
def test_more_replicas_than_the_cluster_has_room_for(cpus: list[int], gpus: int, kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(ray_engine, "resources", lambda: (cpus, gpus))
    with pytest.raises(RellmError, match=f"3 replicas need a {kind} each"):
        ray_serve._needs(ray_serve.Copies(3, 3), "auto")


@pytest.mark.parametrize("package", ["ray.serve", "aiohttp_cors"])
def test_without_ray_serve_the_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = CliRunner().invoke(command_line, ["serve", "--engine", "ray"])
    assert isinstance(found.exception, MissingExtra) or 'pip install "re-llm[serve-ray]"' in found.output


def test_a_protobuf_that_ray_serve_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_serve, "version", lambda package: "7.36.2")
    with pytest.raises(MissingExtra, match=r"protobuf<7.*serve-ray"):
        ray_serve.require()


@pytest.mark.parametrize("option", [["--replicas", "2"], ["--max-replicas", "2"]])
def test_replicas_need_a_cluster(option: list[str]) -> None:
    found = CliRunner().invoke(command_line, ["serve", *option])
    assert found.exit_code == 2
    assert "--engine ray" in found.output
