"""One checkpoint behind `vllm serve` (with this package's plugin) and behind `re-llm serve`, at 1, 8 and 16 clients.

Both servers take the same requests and answer greedily with the same words. They run one after the other. vLLM is in an
environment of its own: `make test-vllm` makes `.venv-vllm`; RE_LLM_VLLM names another one. `--eager` runs vLLM without
torch.compile; everything behind it goes to both servers (`--dtype`, for instance).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from _common import head
from serve import CLIENTS, ROUNDS, SECONDS, Found, bodies, load, show

from re_llm.core.assets import mini_assets
from re_llm.inference.reply import DEFAULT_PROMPT
from re_llm.llm.prompts import get_prompt

ENVIRONMENT = Path(os.environ.get("RE_LLM_VLLM", ".venv-vllm"))
START_SECONDS = 600  # vLLM compiles first
FOLDER = str(mini_assets() / "re-llm")


def asked() -> list[str]:
    """The questions of `serve.py` with everything said that the servers' defaults could differ in."""
    found = []
    for body in map(json.loads, bodies()):
        system = {"role": "system", "content": get_prompt(DEFAULT_PROMPT).system}
        found.append(json.dumps({**body, "messages": [system, *body["messages"]], "temperature": 0, "max_tokens": 60}))
    return found


def words(port: int, body: str) -> str:
    """The reply to one question, not streamed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    plain = json.dumps({**json.loads(body), "stream": False})
    connection.request("POST", "/v1/chat/completions", plain, {"Content-Type": "application/json"})
    said = json.load(connection.getresponse())["choices"][0]["message"]["content"]
    return re.sub(r"\s+", " ", said).strip()


def wait_for(port: int, path: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{server.args!r} did not start")


def measured(command: list[str], port: int, path: str) -> tuple[dict[int, Found], list[str]]:
    """What `serve.py` measures of one server, and its replies."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    with subprocess.Popen(command, **quiet) as server:
        try:
            wait_for(port, path, server)
            questions, process = asked(), psutil.Process(server.pid)
            said = [words(port, question) for question in questions]
            load(port, 4, 3.0, process, Found(), questions)  # warm
            found = {clients: Found() for clients in CLIENTS}
            for _ in range(ROUNDS):
                for clients in CLIENTS:
                    load(port, clients, SECONDS / ROUNDS, process, found[clients], questions)
            return found, said
        finally:
            server.terminate()


def main() -> None:
    head("vLLM with the plugin, and this package's own server")
    vllm = ENVIRONMENT / "bin" / "vllm"
    if not vllm.exists():
        print(f"needs {vllm}: make test-vllm")
        return
    options = sys.argv[1:]
    eager = [option for option in options if option == "--eager"]
    others = [option for option in options if option != "--eager"] or ["--dtype", "float32"]
    replies: dict[str, list[str]] = {}
    for name in ("re-llm serve", "vllm serve"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        if name == "vllm serve":
            command = [str(vllm), "serve", FOLDER, "--port", str(port), *(["--enforce-eager"] if eager else [])]
        else:
            own = ["serve", "--port", str(port), "--queue-size", "32", "--model", "mini:re-llm"]
            command = [sys.executable, "-m", "re_llm", *own]
        path = "/health" if name == "vllm serve" else "/healthz"
        found, replies[name] = measured([*command, *others], port, path)
        print(f"### {name}{' --enforce-eager' if eager and name == 'vllm serve' else ''} {' '.join(others)}\n")
        show(found)
        print()
    own, others_said = replies.values()
    same = sum(a == b for a, b in zip(own, others_said, strict=True))
    print(f"{same} of {len(own)} replies are the same words")


if __name__ == "__main__":
    main()
