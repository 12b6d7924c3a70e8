"""A server with OpenAI's interface on 127.0.0.1, that fails on purpose, and LLMs that need no weights."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import soundfile

from re_llm.core.records import Utterance, write_records
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt

Messages = list[dict[str, Any]]


def said(text: str) -> tuple[str, str]:
    """(answer, finish_reason) to a transcript, as a very small LLM would give it: every seventh one is cut."""
    number = sum(map(ord, text))
    return f"And so {text.lower()} again", "length" if number % 7 == 0 else "stop"


@dataclass
class Echo:
    """The LLM of `said`, in this process; remembers what it was asked."""

    name: str = "echo"
    decoding: dict[str, Any] = field(default_factory=lambda: {"backend": "server", "dtype": None, "tokens": "joined"})
    asked: list[str] = field(default_factory=list)

    def answer(self, rows: Sequence[tuple[Prompt, str]], *, on_batch: Any = None, **_: object) -> list[Completion]:
        self.asked += [text for _, text in rows]
        if on_batch:
            on_batch(len(rows))
        return [Completion(said(text)[0], 5, said(text)[1]) for _, text in rows]


def write_manifest(path: Path, rows: int, **changes: object) -> Path:
    """Utterances with different texts; every ninth one has none, so that something is dropped."""
    base = {"corpus": "toy", "split": "train", "emotion": "sad", "valence": 0.25, **changes}
    texts = [" " if i % 9 == 4 else f"Line {i} of {rows}" for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, (Utterance(key=f"u{i}", audio=f"wav/{i}.wav", text=t, **base) for i, t in enumerate(texts)))
    return path


@dataclass
class Fault:
    """What a request gets instead of an answer. `status` None: the connection is dropped."""

    status: int | None = None
    body: bytes | dict[str, Any] = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


class ChatServerWorld(ThreadingHTTPServer):
    """Answers `/v1/chat/completions` as `reply` does, unless `fault` has something else in mind.

    Attributes:
        asked: bodies of the requests, in order of their arrival; `headers`, `times` and `peers` beside them.
        finished: transcripts in the order in which their answers were sent.
        model: name of the model in the answers, or None.
        most: requests that were under way at once, at most.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, reply: Callable[[Messages, int], tuple[str, str]]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.fault: Callable[[int, str], Fault | None] = lambda number, text: None
        self.delay: Callable[[str], float] = lambda text: 0.0
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.peers: set[str] = set()
        self.finished: list[str] = []
        self.model: str | None = None
        self.busy = self.most = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def texts(self) -> list[str]:
        """Transcripts in the order of the requests."""
        return [transcript(body["messages"]) for body in self.asked]


def transcript(messages: Messages) -> str:
    """What stands behind the instruction in the user's turn; of a recording, its seconds."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content.partition("style: ")[2]
    data = next(part["input_audio"]["data"] for part in content if part["type"] == "input_audio")
    info = soundfile.info(io.BytesIO(base64.b64decode(data)))
    return f"speech of {info.duration:g} s"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServerWorld

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "echo"}, {"id": "other"}]})

    def do_POST(self) -> None:
        world = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = transcript(body["messages"])
        with world.lock:
            number = len(world.asked)
            world.asked.append(body)
            world.headers.append(dict(self.headers))
            world.times.append(time.monotonic())
            world.peers.add(self.client_address[0])
            world.busy += 1
            world.most = max(world.most, world.busy)
        try:
            self._answer(body, text, world.fault(number, text))
        finally:
            with world.lock:
                world.busy -= 1

    def _answer(self, body: dict[str, Any], text: str, fault: Fault | None) -> None:
        if fault is None:
            time.sleep(self.server.delay(text))
            content, reason = self.server.reply(body["messages"], body["max_tokens"])
            choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
            model = {"model": self.server.model} if self.server.model else {}
            self._send(200, {"choices": [choice], "usage": {"completion_tokens": 5}, **model})
            with self.server.lock:
                self.server.finished.append(text)
            return
        time.sleep(fault.seconds)
        if fault.status is None:
            # Linger 0: the client gets a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self._send(fault.status, fault.body, fault.headers)

    def _send(self, status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)
        except OSError:  # the client has given up, as it should after its time is over
            self.close_connection = True


def error(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


@contextmanager
def serving(
    reply: Callable[[Messages, int], tuple[str, str]] = lambda messages, _: said(transcript(messages)),
) -> Iterator[ChatServerWorld]:
    with ChatServerWorld(reply) as world:
        thread = threading.Thread(target=world.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield world
        finally:
            world.shutdown()
            thread.join()
