"""Recordings of every kind give the same samples; what is ambiguous is refused by name."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from re_llm.audio import waveform
from re_llm.audio.given import describe, read
from re_llm.core.errors import RellmError

RATE = 48_000
WAVE = (0.4 * np.sin(2 * np.pi * 220 * np.arange(RATE) / RATE)).astype(np.float32)  # a second
SHORTS = np.round(32768 * WAVE).astype(np.int16)
CLOSED = io.BytesIO()
CLOSED.close()
AT_16K = waveform.resample(WAVE, RATE, 16_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "tone.wav", WAVE, RATE, subtype="FLOAT")
    return tmp_path / "tone.wav"


def test_files_of_every_kind(file: Path) -> None:
    data = file.read_bytes()
    with file.open("rb") as opened:
        kinds = [str(file), file, data, bytearray(data), memoryview(data), io.BytesIO(data), opened]
        kinds += [{"bytes": data, "path": None}, {"bytes": None, "path": str(file)}]
        for item in kinds:
            assert np.array_equal(read(item), AT_16K), type(item)


@pytest.mark.parametrize(
    "item",
    [
        (WAVE, RATE),
        (RATE, WAVE),
        (WAVE, float(RATE)),
        (WAVE.astype(np.float64), np.int64(RATE)),
        (torch.from_numpy(WAVE).requires_grad_(), RATE),
        (torch.from_numpy(WAVE)[None], RATE),
        (np.stack([WAVE, WAVE], axis=1), RATE),
        (np.stack([WAVE, WAVE]), RATE),
        (SHORTS, RATE),
        (torch.from_numpy(SHORTS), RATE),
        (SHORTS.astype(np.int32) * 65536, RATE),
        {"array": WAVE, "sampling_rate": RATE, "path": "x.wav"},
        {"raw": SHORTS, "sampling_rate": RATE},
        SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(WAVE)[None], sample_rate=RATE)),
        AT_16K,
        AT_16K.tolist(),
        torch.from_numpy(AT_16K),
    ],
)
def test_samples_of_every_kind(item: object) -> None:
    found = read(item)
    assert found.dtype == np.float32
    assert found == pytest.approx(AT_16K, abs=1e-4)


def test_bytes_of_eight_bits_and_half_precision() -> None:
    eight = np.round(128 + 127 * AT_16K).astype(np.uint8)
    assert read(eight) == pytest.approx(AT_16K, abs=0.01)
    assert read(torch.from_numpy(AT_16K).to(torch.bfloat16)) == pytest.approx(AT_16K, abs=0.01)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros((20, 16000), np.float32), "shape"),
        (np.zeros((2, 2, 160), np.float32), "shape"),
        (np.full(16000, np.nan), "NaN"),
        (SHORTS.astype(np.int64), "int64 samples, whose full scale is unknown"),
        (SHORTS.astype(np.float32), "floating-point samples up to 131"),
        ((WAVE, 44_100.5), "sampling rate 44100.5"),
        ((WAVE, 0), "sampling rate 0"),
        ({"array": WAVE}, "sampling rate None"),
        ({"text": "hello"}, "a dict with text is no recording"),
        ({"bytes": None, "path": None}, "is no recording"),
        (np.array(["a"]), "is no sound"),
        ([[0.1], [0.1, 0.2]], "is no sound"),
        (None, "is no sound"),
        (io.StringIO("abc"), "opened as text"),
        (CLOSED, "the audio array cannot be read: I/O operation on closed file"),
        ("", "an empty path"),
        (b"", "empty"),
        (b"not a recording", "not audio"),
        ((np.zeros(16_000 * 601, np.float32), 16_000), "too long: 601.0 s"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(item: object, message: str) -> None:
    with pytest.raises(RellmError, match=message):
        read(item)


def test_names_for_messages(file: Path) -> None:
    assert describe(file) == str(file)
    assert describe({"path": "a.wav", "array": WAVE}) == "a.wav"
    with file.open("rb") as opened:
        assert describe(opened) == str(file)
    assert describe(WAVE) == "the audio array"
