"""Rendering: what a file holds, and that a run goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.records import read_records, write_records
from re_llm.data.check import check
from re_llm.small import render
from re_llm.small.render import Spoken, finished, shaped
from re_llm.small.speakers import Speaker
from re_llm.small.text import Sentence, key_of

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed (extra mini)")

TEXTS = ("I left my phone on the train.", "Could you call my sister?", "We are going home now.", "Nobody told me that.")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    out = tmp_path / "sentences.jsonl"
    splits = ("train", "train", "dev", "test")
    rows = (
        Sentence(key=key_of(text), text=text, source="s", split=split)
        for text, split in zip(TEXTS, splits, strict=True)
    )
    write_records(out, rows)
    return out


def run(sentences: Path, out: Path, hours: float = 0.004) -> list[Spoken]:
    render.render(sentences, out, engines=("espeak",), hours=hours)
    return list(read_records(out, Spoken))


def test_recordings_are_what_the_manifest_says(sentences: Path, tmp_path: Path) -> None:
    rows = run(sentences, tmp_path / "speech" / "m.jsonl")
    assert {row.split for row in rows} == {"train", "dev", "test"}
    trained = [row for row in rows if row.split == "train"]
    assert sum(row.duration or 0 for row in trained) >= 0.004 * 3600
    assert len({row.text for row in trained}) == 2 < len(trained)  # said again, by voices drawn anew
    for row in rows:
        wave, rate = soundfile.read(tmp_path / "speech" / row.audio)
        assert rate == 16_000 and wave.ndim == 1 and len(wave) / rate == pytest.approx(row.duration, abs=1e-3)
        assert (
            row.speaker and row.audio.startswith(f"{row.speaker}/") and not (row.unseen_voice and row.split == "train")
        )
    report = check(tmp_path / "speech" / "m.jsonl")
    assert report.ok, report


def test_a_killed_run_goes_on_to_the_same_end(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "PIECE", 3)
    whole = run(sentences, tmp_path / "a" / "m.jsonl")
    record, made = render._Studio.record, []

    def killed(studio: render._Studio, line: render.Line) -> Spoken:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(line.key)
        return record(studio, line)

    monkeypatch.setattr(render._Studio, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        run(sentences, tmp_path / "b" / "m.jsonl")
    assert len(list(read_records(tmp_path / "b" / "m.jsonl", Spoken))) == 3  # the piece that was finished
    monkeypatch.setattr(render._Studio, "record", record)
    assert run(sentences, tmp_path / "b" / "m.jsonl") == whole
    for row in whole:
        assert (tmp_path / "a" / row.audio).read_bytes() == (tmp_path / "b" / row.audio).read_bytes()


def test_two_processes_say_it_in_the_same_way(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "PIECE", 3)
    one = run(sentences, tmp_path / "a" / "m.jsonl")
    render.render(sentences, tmp_path / "b" / "m.jsonl", engines=("espeak",), hours=0.004, workers=2)
    two = list(read_records(tmp_path / "b" / "m.jsonl", Spoken))
    assert two[: len(one)] == one
    for row in one:
        assert (tmp_path / "a" / row.audio).read_bytes() == (tmp_path / "b" / row.audio).read_bytes()


def test_more_hours_add_to_what_is_there(sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "PIECE", 2)
    first = run(sentences, tmp_path / "m.jsonl", hours=0.001)
    more = run(sentences, tmp_path / "m.jsonl", hours=0.004)
    assert more[: len(first)] == first and len(more) > len(first)


def test_one_process_writes(sentences: Path, tmp_path: Path) -> None:
    with RecordAppender(tmp_path / "m.jsonl"), pytest.raises(RellmError, match="another process is writing"):
        run(sentences, tmp_path / "m.jsonl")


def test_other_engines_do_not_go_on(sentences: Path, tmp_path: Path) -> None:
    run(sentences, tmp_path / "m.jsonl", hours=0.001)
    with pytest.raises(RellmError, match="engines"):
        render.render(sentences, tmp_path / "m.jsonl", engines=("espeak", "flite"), hours=0.001)


def test_text_without_training_sentences(tmp_path: Path) -> None:
    write_records(tmp_path / "s.jsonl", [Sentence(key="1", text="Not for training.", source="s", split="dev")])
    with pytest.raises(RellmError, match="no sentence of the split train"):
        run(tmp_path / "s.jsonl", tmp_path / "m.jsonl")


def test_finished_waves_have_margins_and_a_level() -> None:
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(16_000) * 0.2)
    wave = finished(np.pad(1e-4 * tone, 8000), rng)
    assert 16_000 + 2 * 0.08 * 16_000 - 2 <= len(wave) <= 16_000 + 2 * 0.35 * 16_000
    sounding = wave[np.flatnonzero(wave)[0] : np.flatnonzero(wave)[-1]]
    assert -30.5 < 20 * np.log10(np.sqrt(np.mean(sounding**2))) < -17.5
    with pytest.raises(RellmError, match="silence"):
        finished(np.zeros(100), rng)


def test_shaping_moves_the_pitch() -> None:
    parselmouth = pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed (extra small-build)")
    rate, time = 16_000, np.arange(16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 20)) / 4
    higher = Speaker("x", "piper", "joe", pitch=12.0)
    moved = shaped(voice, rate, higher, np.random.default_rng(0))
    pitch = parselmouth.Sound(moved, rate).to_pitch().selected_array["frequency"]
    assert 185 < np.median(pitch[pitch > 0]) < 260
    assert len(moved) == pytest.approx(len(voice), rel=0.02)
