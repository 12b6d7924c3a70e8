"""Connections that send nothing, half a request or another host's name do not stop the server."""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world

pytest.importorskip("fastapi")

import uvicorn
from fastapi.testclient import TestClient

from re_llm.apps.serve import connections, requests, worker
from re_llm.apps.serve.app import build
from re_llm.apps.serve.connections import Connection, hosts_of
from re_llm.apps.serve.options import ServeOptions
from re_llm.audio.waveform import wav_bytes
from re_llm.inference import conversation, engine

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
SECONDS = 0.7


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def port(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short limits, on a port of this machine."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", SECONDS)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 150)
    monkeypatch.setattr(requests, "PAUSE_SECONDS", SECONDS)
    app = build(loaded, ServeOptions(name="tiny"), hosts_of("127.0.0.1"))
    config = uvicorn.Config(app, http=Connection, ws="none", log_level="critical", timeout_keep_alive=30)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def status(port: int, path: str = "/healthz", host: str | None = None) -> int:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    asked.request("GET", path, headers={"Host": host} if host else {})
    found = asked.getresponse().status
    asked.close()
    return found


def closed(connection: socket.socket) -> bool:
    """Whether the server closes it within its limits (what it writes before is read)."""
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"POST "
        + CHAT.encode()
        + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he",
    ],
)
def test_a_hundred_connections_that_wait_lock_nobody_out(port: int, sent: bytes) -> None:
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    for each in waiting:
        each.sendall(sent)
    assert status(port) == 200
    assert all(closed(each) for each in waiting)
    assert status(port) == 200


def test_more_connections_than_the_most_are_closed_at_once(port: int) -> None:
    waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    assert sum(closed(each) for each in waiting[150:]) == 50
    time.sleep(SECONDS)
    assert status(port) == 200
    for each in waiting:
        each.close()


def test_another_host_is_refused(port: int) -> None:
    for host in ("127.0.0.1", f"localhost:{port}", "[::1]:80", "LOCALHOST"):
        assert status(port, host=host) == 200
    for host in ("evil.example", f"localhost.evil.example:{port}", "192.168.0.7", ""):
        assert status(port, host=host or " ") == 421


def test_the_names_of_a_host() -> None:
    known = connections.HostCheck._known
    everywhere = hosts_of("0.0.0.0", ["Voice.Example"])
    assert known("192.168.0.7:8000", everywhere) and known("[fe80::1]", everywhere)
    assert known("voice.example", everywhere) and not known("evil.example", everywhere)
    assert known("10.0.0.5", hosts_of("10.0.0.5")) and not known("10.0.0.6", hosts_of("10.0.0.5"))


def test_megabytes_of_text_are_refused_before_they_are_tokenised(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "row", None)  # nothing may be laid out
    body = {"messages": [{"role": "user", "content": "word " * 2_000_000}]}
    with TestClient(build(loaded, ServeOptions(name="tiny"))) as client:
        response = client.post(CHAT, json=body)
    assert response.status_code == 400
    assert "10000000 bytes of text" in response.json()["error"]["message"]


def test_bodies_share_a_bounded_memory(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "LARGEST_AT_ONCE", 0.5)
    with TestClient(build(loaded, ServeOptions(name="tiny", max_body_mb=0.2))) as client:
        for _ in range(2):  # the memory is free again
            response = client.post(CHAT, content=b"x" * 150_000, headers=JSON)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
        assert client.post(CHAT, content=b"x" * 90_000, headers=JSON).json()["error"]["code"] == "invalid_json"


def test_a_request_given_up_is_not_worked_on(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = loaded.encode

    def encode(*args: object, **options: object) -> object:
        time.sleep(1.0)
        return slow(*args, **options)

    monkeypatch.setattr(loaded, "encode", encode)
    monkeypatch.setattr(worker, "lay_out", None)  # the row may not be laid out after the time is over
    data = base64.b64encode(wav_bytes(tiny_world.wave(1.0, 2))).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    with TestClient(build(loaded, ServeOptions(name="tiny", timeout_seconds=0.3))) as client:
        assert client.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]}).status_code == 504
        deadline = time.monotonic() + 20
        while "re_llm_cancelled_total 1" not in client.get("/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The body with bytes changed, cut, doubled, or values of JSON put in the place of others."""
    kind = rng.randrange(5)
    at, to = sorted(rng.randrange(len(data)) for _ in range(2))
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + data[to:]
    if kind == 2:
        return data[:to] + data[at:]
    value = json.loads(data)
    place = value
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        if not keys:
            break
        key = rng.choice(list(keys))
        if isinstance(place[key], dict | list) and rng.random() < 0.8:
            place = place[key]
            continue
        odd = [None, True, -1, 0, 10**400, 1e308, "", "\x00", "ÿ" * 99, [], {}, [[]], {"type": "text"}, "NaN", 0.5]
        place[key] = rng.choice(odd)
        break
    return json.dumps(value).encode()


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.campaign)])
def test_mutated_requests_leave_it_answering(loaded: engine.Engine, count: int) -> None:
    rng = random.Random(0)
    whole = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": [{"type": "text", "text": "hear"}]},
        ],
        "stream": False,
        "stream_options": {"include_usage": True},
        "max_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 1,
    }
    statuses = set()
    options = ServeOptions(name="tiny", max_new_tokens=2)
    with TestClient(build(loaded, options), raise_server_exceptions=False) as client:
        for _ in range(count):
            statuses.add(client.post(CHAT, content=mutated(json.dumps(whole).encode(), rng), headers=JSON).status_code)
        assert client.post(CHAT, json=whole).status_code == 200
    assert statuses <= {200, 400, 404, 413}
