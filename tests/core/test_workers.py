"""Worker processes end with their parent: by SIGTERM, by Ctrl-C, by SIGKILL, and when one piece of work fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from re_llm.core import workers
from re_llm.core.errors import RellmError

WORLDS = Path(__file__).parents[1] / "worlds"
RUNS = """
import signal
import sys
from pathlib import Path
import run_world
from re_llm.pipeline.jobs import run_jobs

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    folder = Path(sys.argv[1])
    run_jobs(run_world.wait, [run_world.Wait(folder), run_world.Wait(folder), run_world.Wait(folder)], 2, print)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_parent_ends_the_workers(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "main.py").write_text(RUNS)
    seen = os.pathsep.join([str(WORLDS), str(WORLDS.parent / "model"), str(WORLDS.parents[1])])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": seen}, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, 120), parent.stderr
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert all(alive(worker) for worker in workers)
        parent.send_signal(how)
        assert until(lambda: not any(alive(worker) for worker in workers), 20)
        assert parent.wait(timeout=20) != 0
        assert len(list(tmp_path.glob("*.pid"))) == 2  # nobody began with the third
    finally:
        parent.kill()
        parent.wait()


def test_what_runs_in_one_process_refuses_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    workers.refuse_several("reproduce")
    assert workers.is_first() and workers.launched() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert not workers.is_first()
    with pytest.raises(RellmError, match="reproduce runs in one process, and 2 were started"):
        workers.refuse_several("reproduce")
