"""Whisper as a recogniser, on the shipped one: windows, long recordings, and folders that are no Whisper."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.inference.transcribe import Transcriber


@pytest.fixture(scope="module")
def waves(assets: Path) -> list[np.ndarray]:
    """Recordings of 2.6 to 6 s: several windows of whole seconds."""
    return [waveform.load(assets / "recordings" / entry["recording"]) for entry in entries(assets)]


def entries(assets: Path) -> list[dict[str, str]]:
    found = sorted(json.loads((assets / "recordings" / "recordings.json").read_text()), key=lambda e: e["recording"])
    return [found[0], found[3], found[-1]]


@pytest.fixture(scope="module")
def trimmed(assets: Path) -> Transcriber:
    return Transcriber.load("mini:whisper", device="cpu")


def test_the_miniature_is_heard_as_it_was_trained_and_others_in_full(trimmed: Transcriber) -> None:
    assert trimmed.window == "trimmed"
    del trimmed.model.config.speech_window
    try:
        assert Transcriber(trimmed.model, trimmed.processor).window == "full"
    finally:
        trimmed.model.config.speech_window = "trimmed"
    with pytest.raises(RellmError, match="Allowed: full, trimmed"):
        Transcriber(trimmed.model, trimmed.processor, window="half")


def test_a_transcript_does_not_depend_on_its_batch(trimmed: Transcriber, waves: list[np.ndarray], assets: Path) -> None:
    counted: list[int] = []
    together = trimmed.transcribe([*waves, waves[0]], batch_size=4, on_batch=counted.append)
    assert together == [trimmed.transcribe([wave])[0] for wave in [*waves, waves[0]]]
    assert sum(counted) == 4
    assert together[0] == entries(assets)[0]["sentence"]


@torch.inference_mode()
def test_the_full_window_is_plain_transformers(trimmed: Transcriber, waves: list[np.ndarray]) -> None:
    full = Transcriber(trimmed.model, trimmed.processor, window="full")
    inputs = trimmed.processor(waves[0], sampling_rate=waveform.RATE, return_tensors="pt")
    ids = trimmed.model.generate(inputs.input_features, do_sample=False, task="transcribe")
    assert full.transcribe([waves[0]]) == [trimmed.processor.batch_decode(ids, skip_special_tokens=True)[0].strip()]


def test_long_recordings_are_windows_in_sequence(trimmed: Transcriber, waves: list[np.ndarray]) -> None:
    """The miniature's vocabulary has no times, so a window ends after 30 s."""
    long = np.tile(waves[0], 12)
    assert len(long) > 30 * waveform.RATE
    first, second = long[: 30 * waveform.RATE], long[30 * waveform.RATE :]
    pieces = trimmed.transcribe([first, second])
    assert all(pieces)
    assert trimmed.transcribe([waves[0], long]) == [trimmed.transcribe([waves[0]])[0], " ".join(pieces)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tokenizer.json", "knows no words"),
        ("processor_config.json", "cannot load the Whisper model"),
        ("config.json", "config.json"),
        ("model.safetensors", "cannot load the Whisper model"),
    ],
)
def test_a_missing_or_broken_file_is_told(assets: Path, tmp_path: Path, name: str, told: str) -> None:
    folder = tmp_path / "whisper"
    shutil.copytree(assets / "whisper", folder)
    (folder / name).unlink()
    with pytest.raises(RellmError, match=told):
        Transcriber.load(str(folder), device="cpu")
    if name != "tokenizer.json":
        (folder / name).write_bytes(b"{")
        with pytest.raises(RellmError, match=told):
            Transcriber.load(str(folder), device="cpu")
