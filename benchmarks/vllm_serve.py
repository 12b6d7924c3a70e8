"""One checkpoint behind `vllm serve` (with this package's plugin) and behind `re-llm serve`, at 1, 8 and 16 clients.

Both servers take the same requests and answer greedily with the same words. They run one after the other. vLLM is in an
environment of its own: `make test-vllm` makes `.venv-vllm`; RE_LLM_VLLM names another one. `--eager` runs vLLM without
torch.compile; everything behind it goes to both servers (`--dtype`, for instance).
"""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common import head
from serve import CLIENTS, ROUNDS, SECONDS, Found, load, show

from re_llm.audio import waveform
from re_llm.core.assets import mini_assets
from re_llm.inference.engine import shipped_recordings
from re_llm.inference.reply import DEFAULT_PROMPT
from re_llm.llm.prompts import get_prompt

ENVIRONMENT = Path(os.environ.get("RE_LLM_VLLM", ".venv-vllm"))
START_SECONDS = 600  # vLLM compiles first
FOLDER = str(mini_assets() / "re-llm")


class Unheard(Sequence[str]):
    """The questions of `serve.py`, each time with one sample changed by one step: vLLM keeps what it has heard.

    Everything is said that the servers' defaults could differ in.
    """

    def __init__(self) -> None:
        files = sorted(shipped_recordings().glob("*.flac"))
        self.pcm = [np.round(waveform.load(path) * 32_767).astype("<i2") for path in files]
        self.asked = itertools.count(1)

    def __len__(self) -> int:
        return len(self.pcm)

    def __getitem__(self, index: Any) -> str:
        pcm, number = self.pcm[index].copy(), next(self.asked)
        pcm[number % len(pcm)] ^= 1
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setparams((1, 2, 16_000, 0, "NONE", ""))
            out.writeframes(pcm.tobytes())
        url = "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
        said = [{"type": "audio_url", "audio_url": {"url": url}}]
        turns = [{"role": "system", "content": get_prompt(DEFAULT_PROMPT).system}, {"role": "user", "content": said}]
        return json.dumps({"stream": True, "messages": turns, "temperature": 0, "max_tokens": 60})


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
            questions, process = Unheard(), psutil.Process(server.pid)
            said = [words(port, questions[i]) for i in range(len(questions))]
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
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"needs {ENVIRONMENT}: make test-vllm")
        return
    options = sys.argv[1:]
    eager = [option for option in options if option == "--eager"]
    others = [option for option in options if option != "--eager"] or ["--dtype", "float32"]
    replies: dict[str, list[str]] = {}
    for name in ("re-llm serve", "vllm serve"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        if name == "vllm serve":
            # What `vllm serve` starts; the command itself wants a distribution of the name vllm, which vllm-cpu is not.
            command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDER, "--port", str(port)]
            command += ["--enforce-eager"] if eager else []
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
