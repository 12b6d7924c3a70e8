"""Requests a second, and seconds to the first piece and to the end, of `re-llm serve` at 1, 8 and 16 clients.

The server is a process of its own, the clients are threads of this one; each asks again as soon as it has its answer.
The numbers of clients take turns, so that other work on the machine meets all of them. The processor time that a
request takes in the server hardly depends on it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
from _common import head

from re_llm.inference.engine import SHIPPED_MODEL, shipped_recordings

CLIENTS = (1, 8, 16)
SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))  # of each number of clients, in all rounds
ROUNDS = 4
START_SECONDS = 120
_CONTENT = re.compile(rb'"delta": ?{[^}]*"content": ?"[^"]')  # the first piece that is not empty


@dataclass
class Found:
    """Of one number of clients: wall time, processor time of the server, seconds to first piece and end of answers."""

    wall: float = 0.0
    processor: float = 0.0
    times: list[tuple[float, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.times) / self.wall

    @property
    def cost(self) -> float:
        return self.processor / len(self.times)

    def spread(self, which: int) -> tuple[float, float]:
        """Median and 99th percentile."""
        values = [each[which] for each in self.times]
        return percentile(values, 0.5), percentile(values, 0.99)


def bodies() -> list[str]:
    """A streamed question for each of the shipped recordings."""
    found = []
    for path in sorted(shipped_recordings().glob("*.flac")):
        data = base64.b64encode(path.read_bytes()).decode()
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "flac"}}
        found.append(json.dumps({"stream": True, "messages": [{"role": "user", "content": [part]}]}))
    return found


def ask(connection: http.client.HTTPConnection, body: str) -> tuple[float, float]:
    """Seconds to the first piece and to the end of one answer."""
    started, first = time.monotonic(), None
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {response.read()[:200]!r}")
    begun = b""
    while piece := response.read1():  # as it comes; reading lines takes the clients a fifth of a core
        if first is None and _CONTENT.search(begun := begun + piece):
            first = time.monotonic() - started
    assert first is not None, "the answer is empty"
    return first, time.monotonic() - started


def processor_seconds(server: psutil.Process) -> float:
    """Of a server and of the processes it has started."""
    times = [each.cpu_times() for each in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def load(
    port: int,
    clients: int,
    seconds: float,
    server: psutil.Process,
    found: Found,
    questions: Sequence[str] | None = None,
) -> None:
    """Adds what the requests take that are begun in `seconds`; `questions` in place of `bodies()`."""
    questions = bodies() if questions is None else questions
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.monotonic() < end:
            found.times.append(ask(connection, questions[number % len(questions)]))
            number += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started, before = time.monotonic(), processor_seconds(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.wall += time.monotonic() - started
    found.processor += processor_seconds(server) - before


def percentile(values: Sequence[float], fraction: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(fraction * len(ordered)), len(ordered) - 1)]


def wait_for(port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not start")


def show(found: dict[int, Found]) -> None:
    """A table, and how one client compares with the most."""
    print(f"{SECONDS:g} s each, load {os.getloadavg()[0]:.1f} at the end\n")
    print("| clients | requests/s | first piece p50, p99 | whole answer p50, p99 | processor time a request |")
    print("|---|---|---|---|---|")
    for clients, each in found.items():
        spans = [f"{middle:.2f} s, {late:.2f} s" for middle, late in map(each.spread, (0, 1))]
        print(f"| {clients} | {each.rate:.1f} | {' | '.join(spans)} | {each.cost * 1000:.0f} ms |")
    one, most = found[min(found)], found[max(found)]
    print(
        f"\n{max(found)} clients get {most.rate / one.rate:.1f} times the answers of one, wait "
        f"{most.spread(0)[0] / one.spread(0)[0]:.1f} times as long for the first piece (p50), and an answer takes "
        f"1/{one.cost / most.cost:.1f} of the processor time"
    )


def main() -> None:
    head("The server under load")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "re_llm",
        "serve",
        "--port",
        str(port),
        "--queue-size",
        "32",
        "--model",
        SHIPPED_MODEL,
    ]
    command += sys.argv[1:]  # another --model, for instance
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            process = psutil.Process(server.pid)
            load(port, 4, 3.0, process, Found())  # warm
            found = {clients: Found() for clients in CLIENTS}
            for _ in range(ROUNDS):
                for clients in CLIENTS:
                    load(port, clients, SECONDS / ROUNDS, process, found[clients])
            show(found)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
