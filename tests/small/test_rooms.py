"""Disturbed copies: of the training alone, resumed, and where the manifest says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from re_llm.audio.waveform import RATE, load
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.small import rooms
from re_llm.small.rooms import Disturbed, disturb_all


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "speech"
    (folder / "a").mkdir(parents=True)
    rows = []
    for number in range(24):
        split = "dev" if number % 6 == 0 else "train"
        soundfile.write(folder / "a" / f"{number}.flac", 0.1 * rng.standard_normal(4000), RATE)
        row = Utterance(key=str(number), corpus="c", split=split, audio=f"a/{number}.flac", duration=0.25, speaker="a")
        rows.append(row)
    write_records(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def test_the_training_is_disturbed_and_the_rest_stays(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms" / "manifest.jsonl"
    assert disturb_all(manifest, out, seed=0) == 24
    before = {row.key: row for row in read_records(manifest, Utterance)}
    kinds: Counter[tuple[str, bool]] = Counter()
    for row in read_records(out, Disturbed):
        old = load(before[row.key].audio, root=manifest.parent)
        new = load(row.audio, root=out.parent)
        assert row.split == before[row.key].split and len(new) == len(old)
        assert (row.disturbed == "dry") == np.array_equal(new, old)
        kinds[row.split, row.disturbed != "dry"] += 1
    assert kinds["dev", True] == 0 and kinds["dev", False] == 4
    assert kinds["train", True] > kinds["train", False] > 0


def test_a_stopped_run_goes_on(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "PIECE", 5)
    disturb_all(manifest, tmp_path / "rooms" / "manifest.jsonl", seed=0)
    whole = (tmp_path / "rooms" / "manifest.jsonl").read_text()

    def stop(line: str) -> None:
        if line.startswith("rooms: 10"):
            raise KeyboardInterrupt

    again = tmp_path / "again" / "manifest.jsonl"
    with pytest.raises(KeyboardInterrupt):
        disturb_all(manifest, again, seed=0, say=stop)
    assert len(again.read_text().splitlines()) == 10
    disturb_all(manifest, again, seed=0)
    assert again.read_text() == whole


def test_copies_are_spoken_at_another_speed_by_as_many_processes_as_wanted(manifest: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "manifest.jsonl", tmp_path / "two" / "manifest.jsonl"
    assert disturb_all(manifest, one, seed=0, copies=3) == 4 + 3 * 20
    disturb_all(manifest, two, seed=0, copies=3, workers=2)
    assert one.read_text() == two.read_text()
    rows = list(read_records(one, Disturbed))
    assert len({row.key for row in rows}) == len({row.audio for row in rows if row.disturbed != "dry"} | {
        row.audio for row in rows if row.disturbed == "dry"}) == len(rows)  # fmt: skip
    for row in rows:
        length = len(load(row.audio, root=one.parent)) / RATE
        assert length == pytest.approx(row.duration or 0, abs=2e-3)
        assert ("speed" in row.disturbed) == ("+" in row.key)
        if "+" in row.key:
            assert 0.25 / 1.18 < length < 0.25 / 0.84
    assert {key.partition("+")[2] for key in (row.key for row in rows)} == {"", "1", "2"}
