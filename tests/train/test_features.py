"""Encoder states on disk: found by content, added to by several, and never computed twice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.train import features, identity
from re_llm.train import store as store_module
from re_llm.train.examples import Example
from re_llm.train.features import build_features, fingerprint
from re_llm.train.identity import segment_ids
from re_llm.train.store import StateStore


def example(key: str, audio: Path, **changes: object) -> Example:
    base = Example(key, str(audio), 0.0, None, "a hum", {}, "sad", 1, None)
    return replace(base, **changes)


@pytest.fixture
def hums(tmp_path: Path) -> list[Example]:
    found = []
    for i in range(4):
        soundfile.write(tmp_path / f"{i}.wav", tiny_world.wave(0.5 + 0.1 * i, i), 16_000)
        found.append(example(str(i), tmp_path / f"{i}.wav"))
    return found


@pytest.fixture(scope="module")
def parts(tiny_checkpoint: Path) -> tuple[ReLlmForConditionalGeneration, ReLlmProcessor]:
    model = ReLlmForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()
    return model, ReLlmProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture
def build(parts: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Example]], list[str]]:
    """Fills the store and gives the keys that were encoded."""
    encoded: list[str] = []
    real = features.encode_part
    monkeypatch.setattr(
        features, "encode_part", lambda part, *rest: encoded.extend(e.key for e in part.examples) or real(part, *rest)
    )

    def run(examples: list[Example]) -> list[str]:
        encoded.clear()
        ids = segment_ids(examples, tmp_path / "store")
        run.made = build_features(tmp_path / "store", examples, ids, *parts, batch_size=2, progress=False)
        return list(encoded)

    return run


def test_recordings_that_changed_places_are_other_recordings(build, hums: list[Example]) -> None:
    """The same keys and the same files' names: what is in them counts."""
    assert build(hums) == ["0", "1", "2", "3"] and build(hums) == []
    before = build.made.batch(["0", "3"]).speech_states
    first, last = Path(hums[0].audio), Path(hums[3].audio)
    content = first.read_bytes(), last.read_bytes()
    first.write_bytes(content[1])
    last.write_bytes(content[0])
    assert build(hums) == []  # the states of these recordings are there
    assert torch.equal(build.made.batch(["3", "0"]).speech_states, before)
    soundfile.write(first, tiny_world.wave(0.5, 9), 16_000)
    assert build(hums) == ["0"]
    assert not torch.equal(
        build.made.batch(["0"]).speech_states[0], before[1][: build.made.speech.length(build.made.ids["0"])]
    )


@pytest.mark.parametrize("done", [1, 2, 3])
def test_what_lacks_after_a_kill_falls_into_the_same_parts(
    build, hums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    many = [replace(hums[i % 4], key=f"{i}", start=0.01 * i, duration=0.3) for i in range(7)]
    monkeypatch.setattr(features, "READ_AHEAD", 2)
    parts: list[list[str]] = []
    counted = features.encode_part
    monkeypatch.setattr(
        features,
        "encode_part",
        lambda part, *rest: parts.append([e.key for e in part.examples]) or counted(part, *rest),
    )
    stored, calls = features._add, iter(range(100))

    def add_until_killed(encoded, stores) -> None:
        if next(calls) == done:
            raise KeyboardInterrupt
        stored(encoded, stores)

    monkeypatch.setattr(features, "_add", add_until_killed)
    with pytest.raises(KeyboardInterrupt):
        build(many)
    monkeypatch.setattr(features, "_add", stored)
    parts.clear()
    build(many)
    assert parts == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]][done:]


def test_rows_that_join_are_encoded_alone(build, hums) -> None:
    assert build(hums[:1] + hums[2:]) == ["0", "2", "3"] and build(hums) == ["1"]


def test_segments_of_one_file_are_told_apart_and_a_moved_corpus_is_the_same(build, hums, tmp_path: Path) -> None:
    cut = [replace(hums[3], key="a", start=0.1, duration=0.3), replace(hums[3], key="b", start=0.2, duration=0.3)]
    assert build(cut) == ["a", "b"]
    assert not torch.equal(build.made.batch(["a"]).speech_states, build.made.batch(["b"]).speech_states)
    (tmp_path / "moved").mkdir()
    Path(hums[3].audio).rename(tmp_path / "moved" / "other.wav")
    assert build([replace(e, audio=str(tmp_path / "moved" / "other.wav")) for e in cut]) == []
    with pytest.raises(RellmError, match=r"no such file: .*3\.wav"):
        build(cut)


def test_a_change_of_one_weight_is_seen(parts) -> None:
    model, _ = parts
    encoder = model.speech_encoder
    before = fingerprint(encoder, "full")
    weight = max(encoder.parameters(), key=torch.numel)
    assert weight.numel() > 2 and fingerprint(encoder, "trimmed") != before
    value = weight.data.view(-1)[1].clone()
    try:
        weight.data.view(-1)[1] += 1e-3  # not the first, which every stride would meet
        assert fingerprint(encoder, "full") != before
    finally:
        weight.data.view(-1)[1] = value
    assert fingerprint(encoder, "full") == before


def test_hashes_of_recordings_are_kept(build, hums, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from re_llm.core import files

    monkeypatch.setattr(files, "FRESH", -1.0)
    build(hums)
    assert (tmp_path / "store" / identity.HASHES).is_file()
    monkeypatch.setattr(files, "_hashes", {})
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *_: pytest.fail("a recording was read again"))
    assert build(hums) == []
    (tmp_path / "store" / identity.HASHES).write_text("broken")
    monkeypatch.undo()
    segment_ids(hums, tmp_path / "store")


def states(number: int) -> dict[str, np.ndarray]:
    return {f"{number}-{i}": np.full((i + 1, 3), number, dtype=np.float16) for i in range(3)}


def test_several_write_and_read_one_store(tmp_path: Path) -> None:
    one, two = StateStore(tmp_path / "s"), StateStore(tmp_path / "s")
    one.add(states(1))
    assert one.get("1-2").tolist() == [[1, 1, 1]] * 3 and "1-2" not in two
    two.add({**states(1), **states(2)})
    assert len(two) == 6 and two.get("1-0").tolist() == [[1, 1, 1]]
    one.add(states(3))
    assert one.get("2-1").tolist() == [[2, 2, 2]] * 2 and len(StateStore(tmp_path / "s")) == 9
    assert (tmp_path / "s" / "states.bin").stat().st_size == 9 * 2 * 3 * 2


@pytest.mark.parametrize("damage", ["states without a line", "a torn line", "a line whose states are lost"])
def test_what_a_kill_leaves_is_repaired(tmp_path: Path, damage: str) -> None:
    store = StateStore(tmp_path / "s")
    store.add(states(1))
    binary, index = tmp_path / "s" / "states.bin", tmp_path / "s" / "index.txt"
    if damage == "states without a line":
        binary.write_bytes(binary.read_bytes() + b"\1" * 100)
    elif damage == "a torn line":
        index.write_text(index.read_text() + "2-0 ")
    else:
        binary.write_bytes(binary.read_bytes()[:-6])
    again = StateStore(tmp_path / "s")
    assert ("1-2" in again) == (damage != "a line whose states are lost")
    again.add({**states(1), **states(2)})
    for key, value in {**states(1), **states(2)}.items():
        assert np.array_equal(StateStore(tmp_path / "s").get(key), value)


@pytest.mark.parametrize("damage", ["nothing", "a file is gone", "a file is torn", "states without a line"])
def test_states_go_into_files_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    """Also those of one call, by several writers, and when the files that a kill left are not whole."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 4 * 6)  # four rows of three float16
    one, two = StateStore(tmp_path / "s"), StateStore(tmp_path / "s")
    every = {key: value for number in range(1, 5) for key, value in states(number).items()}
    one.add(states(1))
    two.add({**states(1), **states(2), **states(3)})
    bins = [tmp_path / "s" / name for name in ("states.bin", "states-1.bin", "states-2.bin", "states-3.bin")]
    assert [path.stat().st_size // 6 for path in bins[:3]] == [6, 6, 6] and not bins[3].exists()
    if damage == "a file is gone":
        bins[1].unlink()
    elif damage == "a file is torn":
        bins[1].write_bytes(bins[1].read_bytes()[:-1])
    elif damage == "states without a line":
        bins[3].write_bytes(b"\1" * 100)
    monkeypatch.setattr(store_module, "SHARD_BYTES", 1)  # a store keeps the size that it began with
    again = StateStore(tmp_path / "s")
    assert len(again) == {"nothing": 9, "a file is gone": 3, "a file is torn": 5, "states without a line": 9}[damage]
    again.add(every)
    for found in (again, StateStore(tmp_path / "s")):
        assert len(found) == 12
        for key, value in every.items():
            assert np.array_equal(found.get(key), value) and found.length(key) == len(value)
    assert max(path.stat().st_size for path in tmp_path.glob("s/*.bin")) <= (4 + 2) * 6


def test_a_store_of_one_file_goes_on_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As stores were written before there were several."""
    store = StateStore(tmp_path / "s")
    store.add(states(1))
    (tmp_path / "s" / "store.json").write_text('{"width": 3, "dtype": "float16"}')
    monkeypatch.setattr(store_module, "SHARD_BYTES", 6)
    again = StateStore(tmp_path / "s")
    again.add(states(2))
    assert [path.name for path in tmp_path.glob("s/*.bin")] == ["states.bin"]
    assert np.array_equal(StateStore(tmp_path / "s").get("2-2"), states(2)["2-2"])


WRITES = """
import sys
import numpy as np
from pathlib import Path
from re_llm.train import store as module
from re_llm.train.store import StateStore
module.SHARD_BYTES = 1000
store, name = StateStore(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
for i in range(100_000):
    store.add({f"{name}-{i}": np.full((i % 5 + 1, 4), i % 1000, dtype=np.float16)})
"""


@pytest.mark.slow
def test_killed_writers_leave_a_store_that_holds(tmp_path: Path) -> None:
    """Two processes write at once and are killed at different moments; what the index names is what was written."""
    for round_ in range(3):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", WRITES, str(tmp_path / "s"), f"{round_}{name}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in "ab"
        ]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(timeout=0.3 + 0.1 * round_)
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    store = StateStore(tmp_path / "s")
    keys = [line.split()[0] for line in (tmp_path / "s" / "index.txt").read_text().splitlines()][: len(store)]
    assert len(keys) > 100 and len({key.split("-")[0] for key in keys}) == 6
    assert len(list(tmp_path.glob("s/states*.bin"))) > 2
    for key in keys:
        i, count = int(key.split("-")[1]), store.length(key)
        assert count == i % 5 + 1 and np.array_equal(store.get(key), np.full((count, 4), i % 1000, dtype=np.float16))


def test_a_disk_that_will_be_full_is_told_before_anything_is_encoded(build, hums, monkeypatch) -> None:
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(RellmError, match=r"the encoder states of 4 recordings take .* GB free"):
        build([replace(e, duration=0.5) for e in hums])
