"""A `prepare` that is killed: nothing half-written, the same bytes afterwards, no recording hashed twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from re_llm.audio import waveform
from re_llm.data.corpora import journal, prepare

RECORDINGS = 700


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of some hundred recordings; one of them is not there."""
    root = tmp_path_factory.mktemp("corpus")
    waves = np.random.default_rng(0).normal(0, 0.1, (RECORDINGS, 3200))
    (root / "clips").mkdir()
    for number, wave in enumerate(waves):
        soundfile.write(root / f"clips/{number:04}.wav", wave, 16_000)
    rows = [f"clips/{number:04}.wav,sad" for number in range(RECORDINGS)]
    (root / "t.csv").write_text("\n".join(["audio,emotion", *rows, "clips/absent.wav,sad"]) + "\n")
    time.sleep(0.05)  # what was written just now could have been written after a run began
    return root


def killed(corpus: Path, out: Path, after: int) -> int:
    """Runs `prepare` until so many recordings are hashed, and kills it; returns how many were."""
    command = [sys.executable, "-m", "re_llm", "prepare", "table", "--root", str(corpus / "t.csv"), "--out", str(out)]
    hashes = out.with_name(f".{out.name}.hashes")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and (not hashes.exists() or hashes.read_bytes().count(b"\n") <= after):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.wait()
    return hashes.read_bytes().count(b"sha256") if hashes.exists() else RECORDINGS


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_killed_at_several_moments(corpus, tmp_path, monkeypatch):
    prepare("table", corpus / "t.csv", tmp_path / "m.jsonl")
    names = ("m.jsonl", "m.problems.jsonl")
    (tmp_path / "m.provenance.json").unlink()
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    assert len(whole["m.jsonl"].splitlines()) == RECORDINGS and len(whole["m.problems.jsonl"].splitlines()) == 1
    for name in names:
        (tmp_path / name).unlink()

    out, done = tmp_path / "m.jsonl", 0
    for after in (0, 150, 400):
        done = killed(corpus, out, after)
        if out.exists():  # it was faster than its killer
            break
        assert not (tmp_path / "m.problems.jsonl").exists()
    hashed = []
    real = waveform.sha256
    monkeypatch.setattr(waveform, "sha256", lambda source, **kwargs: hashed.append(source) or real(source, **kwargs))
    prepare("table", corpus / "t.csv", out)
    assert {name: (tmp_path / name).read_bytes() for name in names} == whole
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*names, "m.provenance.json"}, "nothing of the killed runs is left"
    assert done > 0 and len(hashed) <= RECORDINGS - done + 1, "what was hashed is not hashed again"


def test_a_recording_that_was_touched_is_hashed_again(corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    out = tmp_path / "m.jsonl"
    began = time.time() + 1
    lines = [{"began": began}, *({"audio": str(copy / f"clips/{n:04}.wav"), "sha256": "0" * 64} for n in range(3))]
    out.with_name(".m.jsonl.hashes").write_text("\n".join(map(json.dumps, lines)) + '\n{"audio": "torn')
    os.utime(copy / "clips/0001.wav", (began + 5, began + 5))
    (copy / "clips/0002.wav").unlink()
    known = journal.Journal(out).known
    assert set(known) == {str(copy / "clips/0000.wav")}, "only what has not changed since is trusted"
