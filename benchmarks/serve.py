"""Requests a second, and seconds to the first piece and to the end, of `re-llm serve` at 1, 8 and 16 clients.

The server is a process of its own, the clients are threads of this one; each asks again as soon as it has its answer.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from _common import COMMAND, head

from re_llm.inference.engine import SHIPPED_MODEL, shipped_recordings

CLIENTS = (1, 8, 16)
SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
START_SECONDS = 120


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
    while line := response.readline():
        if first is None and b'"delta": {"content":' in line:
            first = time.monotonic() - started
    assert first is not None, "the answer is empty"
    return first, time.monotonic() - started


def load(port: int, clients: int, seconds: float) -> tuple[float, list[tuple[float, float]]]:
    """Wall time, and what `ask` gave for every request that was begun in `seconds`."""
    questions, times = bodies(), []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.monotonic() < end:
            times.append(ask(connection, questions[number % len(questions)]))
            number += clients
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started, times


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


def main() -> None:
    head("The server under load")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [COMMAND, "serve", "--port", str(port), "--queue-size", "32", "--model", SHIPPED_MODEL]
    command += sys.argv[1:]  # another --model, for instance
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(port)
            load(port, 4, 3.0)  # warm
            print(f"{SECONDS:g} s each\n\n| clients | requests/s | first piece p50, p99 | whole answer p50, p99 |")
            print("|---|---|---|---|")
            for clients in CLIENTS:
                wall, times = load(port, clients, SECONDS)
                first, whole = ([each[i] for each in times] for i in (0, 1))
                spans = [f"{percentile(each, 0.5):.2f} s, {percentile(each, 0.99):.2f} s" for each in (first, whole)]
                print(f"| {clients} | {len(times) / wall:.1f} | {' | '.join(spans)} |", flush=True)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
