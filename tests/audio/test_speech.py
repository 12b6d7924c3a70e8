"""Silence at the ends of a person's recording is cut, however noisy the room; nothing else is changed."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_world

from re_llm.audio.speech import LEAD_SECONDS, TAIL_SECONDS, cut_silence, prepare
from re_llm.audio.waveform import RATE, load
from re_llm.core.errors import RellmError

SPEECH = tiny_world.wave(1.0, 2)
SILENCE = np.zeros(2 * RATE, np.float32)


def noise(seconds: float, level: float) -> np.ndarray:
    return (level * np.random.default_rng(0).standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("gain", [0.01, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("room", [0.0, 1e-4, 3e-3])
def test_silence_at_both_ends_is_cut_and_a_margin_kept(gain: float, room: float) -> None:
    wave = gain * np.concatenate([SILENCE, SPEECH, SILENCE])
    found = cut_silence(wave + gain * noise(5.0, room))
    lead, tail = (LEAD_SECONDS, TAIL_SECONDS) if room else (0, 0)  # digital silence is no margin
    assert len(found) == pytest.approx(len(SPEECH) + (lead + tail) * RATE, abs=0.05 * RATE)
    at = round(lead * RATE)
    assert np.corrcoef(found[at : at + len(SPEECH)], SPEECH)[0, 1] > 0.95


def test_digital_silence_around_a_recording_leaves_it_as_it_was(assets) -> None:
    for path in sorted((assets / "recordings").glob("*.flac")):
        wave = cut_silence(load(path))
        wave = wave[: len(wave) // 320 * 320]
        padded = cut_silence(np.concatenate([SILENCE, wave, SILENCE]))
        assert np.array_equal(padded, cut_silence(wave)), path.name


def test_pauses_and_level_are_kept() -> None:
    wave = np.concatenate([SPEECH, SILENCE, SPEECH])
    assert np.array_equal(cut_silence(wave), wave)
    assert np.array_equal(prepare(0.2 * SPEECH, "it", 60.0), 0.2 * SPEECH)


@pytest.mark.parametrize("wave", [noise(1.0, 0.1), noise(0.03, 0.1), noise(0.01, 0.1), np.ones(3000, np.float32)])
def test_what_has_no_louder_part_stays_as_it_is(wave: np.ndarray) -> None:
    assert np.array_equal(cut_silence(wave), wave)


def test_the_shipped_recordings_hardly_lose_anything(assets) -> None:
    for path in sorted((assets / "recordings").glob("*.flac")):
        wave = load(path)
        assert len(wave) - len(cut_silence(wave)) < 0.1 * RATE, path.name  # the tail of a soft voice


def test_silence_does_not_count_as_length_and_is_refused_alone() -> None:
    wave = np.concatenate([SILENCE, SPEECH, SILENCE])
    assert len(prepare(wave, "it", 1.0)) <= RATE
    assert np.array_equal(prepare(wave, "it", 0.9), wave)  # it is cut into windows, which leave the silence out
    with pytest.raises(RellmError, match="it is silent"):
        prepare(SILENCE, "it", 60.0)
