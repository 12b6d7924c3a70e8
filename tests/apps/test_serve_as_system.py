"""`re-llm serve` evaluated as any speech LLM behind a server is: `respond --server` and the engine say the same."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

import uvicorn
from fastapi import FastAPI

from re_llm.apps.serve.app import build
from re_llm.apps.serve.connections import hosts_of
from re_llm.apps.serve.options import ServeOptions
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.inference import engine
from re_llm.inference.reply import ReplyOptions
from re_llm.inference.respond import respond_manifest
from re_llm.inference.served import ServedSystem
from re_llm.llm.server import ChatServer
from re_llm.llm.server_options import ServerOptions


@contextmanager
def running(app: FastAPI) -> Iterator[int]:
    """The application on a port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, ws="none", log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def test_a_server_of_this_package_is_such_a_system(tiny_checkpoint: Path, tmp_path: Path, recording) -> None:
    loaded = engine.load(tiny_checkpoint, device="cpu")
    rows = []
    for i in range(3):
        recording(f"{i}.wav", 0.6 + i / 5, seed=i)
        rows.append(Utterance(key=f"u{i}", corpus="toy", split="test", audio=f"{i}.wav", emotion="sad"))
    write_records(tmp_path / "m.jsonl", rows)
    options = ReplyOptions("tiny", recognize="recognize", max_new_tokens=8, recognize_tokens=8)
    with running(build(loaded, ServeOptions(name="tiny"), hosts_of("127.0.0.1"))) as port:
        server = ChatServer(ServerOptions(f"http://127.0.0.1:{port}/v1", "tiny", concurrency=2))
        out = tmp_path / "served.jsonl"
        report = respond_manifest(ServedSystem.of(server, out), tmp_path / "m.jsonl", out, options, progress=False)
    assert (report.rows, report.dropped) == (3, 0)
    respond_manifest(loaded, tmp_path / "m.jsonl", tmp_path / "direct.jsonl", options, progress=False)
    served, direct = (
        {r.key: r for r in read_records(tmp_path / name, ReplyRecord)} for name in ("served.jsonl", "direct.jsonl")
    )
    assert {key: row.response for key, row in served.items()} == {key: row.response for key, row in direct.items()}
    assert {key: row.answer for key, row in served.items()} == {key: row.answer for key, row in direct.items()}
