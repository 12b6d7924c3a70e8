"""Runs commands that are killed with SIGKILL at given moments and started again: python kill_world.py PLAN.json

Each start is a fork of this process, which has imported everything and computed nothing: a start costs a fork instead
of seconds of imports. Prints how often each was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def lines(paths: list[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def start(arguments: list[str]) -> int:
    """Forks; the child runs the command and ends with its exit code."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        from typer.main import get_command

        from re_llm.cli import app

        result = get_command(app).main(arguments, standalone_mode=False)
        code = result if isinstance(result, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int, watched: list[Path], moment: int | None, delay: float) -> int | None:
    """Exit code of the child; None when it was killed, `delay` seconds after the files had `moment` lines."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if moment is not None and lines(watched) >= moment:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.005)


def killed(job: dict) -> int:
    """Runs one job to its end; how often it was killed on the way."""
    watched = [Path(path) for path in job["watched"]]
    for number, (moment, delay) in enumerate([*job["moments"], (None, 0.0)]):
        code = wait(start(job["arguments"]), watched, moment, delay)
        if code is not None:
            if code:
                raise SystemExit(code)
            return number
    raise AssertionError("a start without a moment ends by itself")


def main(plan: dict) -> list[int]:
    if plan["local"]:
        import torch
        import transformers.models.qwen2.modeling_qwen2  # noqa: F401

        import re_llm.llm.local

        assert re_llm.llm.local
        torch.set_num_threads(1)
    return [killed(job) for job in plan["jobs"]]


if __name__ == "__main__":
    counts = main(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(counts))
