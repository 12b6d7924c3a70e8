"""`re-llm continue` killed with SIGKILL, or on a full disk: what it wrote stays, the end is the same to the byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chat_world import Echo, serving, write_manifest

from re_llm.continuations import continue_manifest
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records

WORLDS = Path(__file__).parents[1] / "worlds"
SEEN = (WORLDS, WORLDS.parents[1])
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(map(str, SEEN)),
}


Moments = list[tuple[int, float]]


def run(tmp_path: Path, options: list[object], outs: dict[Path, Moments], *, local: bool = False) -> list[int]:
    """Runs `continue` for each file, killed at its moments (lines written, seconds after that); how often it was."""
    jobs = [
        {
            "arguments": ["continue", *map(str, options), "--out", str(out)],
            "watched": [str(out), str(out.with_suffix(".dropped.jsonl"))],
            "moments": moments,
        }
        for out, moments in outs.items()
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"jobs": jobs, "local": local}))
    command = [sys.executable, str(WORLDS / "kill_world.py"), str(plan)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    counts: list[int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def files(out: Path) -> list[bytes]:
    return [out.read_bytes(), out.with_suffix(".dropped.jsonl").read_bytes()]


@pytest.fixture
def sentences(assets: Path, tmp_path: Path) -> Path:
    """200 sentences of the miniature, a few without a text."""
    from re_llm.mini.grammar import world

    rows = [
        Utterance(
            key=f"s{s.id}", corpus="mini", split="train", audio=f"{s.id}.flac", text=s.text if n % 23 else " ",
            emotion=("angry", "happy", "neutral", "sad")[n % 4],
        )
        for n, s in enumerate(world()[:4000:20])
    ]  # fmt: skip
    write_records(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


@pytest.mark.slow
def test_killed_at_any_moment_the_file_is_that_of_an_uninterrupted_run(sentences: Path, tmp_path: Path) -> None:
    """The shipped LLM; killed after different numbers of lines, while it computes and while it writes."""
    options = [sentences, "--llm", "mini:llm", "--device", "cpu", "--batch-size", 8, "--chunk", 16]
    options += ["--max-new-tokens", 8]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    draw = random.Random(0)
    moments = [(lines, draw.choice([0.0, 0.05, 0.2])) for lines in sorted(draw.sample(range(1, 180), 5))]
    assert run(tmp_path, options, {whole: [], out: [(0, 0.2), *moments]}, local=True)[1] >= 5
    assert files(out) == files(whole)
    keys = [json.loads(line)["key"] for data in files(out) for line in data.splitlines()]
    assert len(keys) == len(set(keys)) == 200
    side = json.loads(out.with_suffix(".provenance.json").read_text())
    assert side["complete"] and len(side["runs"]) >= 5


def test_killed_while_a_server_answers(tmp_path: Path) -> None:
    manifest, whole, out = write_manifest(tmp_path / "m.jsonl", 120), tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    continue_manifest(manifest, whole, llm=Echo())
    with serving() as world:
        world.delay = lambda text: 0.01 + 0.03 * (sum(map(ord, text)) % 3 == 0)
        options = [manifest, "--server", world.url, "--model", "echo", "--concurrency", 4]
        assert run(tmp_path, options, {out: [(9, 0.0), (40, 0.01), (41, 0.02), (90, 0.0)]}) == [4]
        asked = len(world.asked)
    assert files(out) == files(whole)
    assert asked <= 107 + 4 * 8  # a kill costs at most what was under way


def test_a_full_disk_is_one_message_and_the_rest_follows(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk: any system has it."""
    resource = pytest.importorskip("resource")
    manifest, whole, out = write_manifest(tmp_path / "m.jsonl", 60), tmp_path / "whole.jsonl", tmp_path / "c.jsonl"
    continue_manifest(manifest, whole, llm=Echo(), chunk=8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(RellmError, match=r"cannot write .*c\.jsonl: File too large\. Free space .* rows are kept"):
            continue_manifest(manifest, out, llm=Echo(), chunk=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = out.read_bytes()
    assert whole.read_bytes().startswith(kept) and kept.endswith(b"\n") and len(kept) > 1000
    report = continue_manifest(manifest, out, llm=Echo(), chunk=8)
    assert files(out) == files(whole) and report.resumed == kept.count(b"\n")


ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from chat_world import Echo
from re_llm.continuations import continue_manifest
from re_llm.core.errors import RellmError

manifest, disk, back = map(Path, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], check=True)
try:
    continue_manifest(manifest, disk / "c.jsonl", llm=Echo(), chunk=8)
    sys.exit("the disk was not full")
except RellmError as error:
    print(error)
print(sum(1 for _ in open(disk / "c.jsonl")))
subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
print(continue_manifest(manifest, disk / "c.jsonl", llm=Echo(), chunk=8).resumed)
(back / "c.jsonl").write_bytes((disk / "c.jsonl").read_bytes())
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """32 KiB of memory as a file system, in a name space of its own."""
    private = ["unshare", "--mount", "--propagation", "private"]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs `unshare` and the right to use it")
    manifest, disk, back = write_manifest(tmp_path / "m.jsonl", 160), tmp_path / "disk", tmp_path / "back"
    for folder in (disk, back):
        folder.mkdir()
    command = [*private, sys.executable, "-c", ON_A_SMALL_DISK, str(manifest), str(disk), str(back)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    message, kept, resumed = done.stdout.splitlines()
    assert "No space left on device" in message and "finished rows are kept" in message
    assert int(kept) == int(resumed) > 8
    continue_manifest(manifest, tmp_path / "disk" / "c.jsonl", llm=Echo(), chunk=8)
    assert (back / "c.jsonl").read_bytes() == (tmp_path / "disk" / "c.jsonl").read_bytes()
