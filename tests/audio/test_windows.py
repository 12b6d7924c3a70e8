"""Long recordings are cut in pauses; nothing of the speech is lost, and no window is longer than asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import tiny_world

from re_llm.audio import silero, windows
from re_llm.audio.waveform import RATE

GAP = np.zeros(round(0.4 * RATE), np.float32)


@pytest.fixture(autouse=True)
def by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hums are no speech to silero-vad."""
    monkeypatch.setattr(silero, "weights", lambda: None)


def hum(seconds: float) -> np.ndarray:
    return tiny_world.wave(seconds, 2).astype(np.float32)


def lengths(found: list[tuple[int, int]]) -> list[float]:
    return [(last - first) / RATE for first, last in found]


def test_windows_end_in_pauses() -> None:
    wave = np.concatenate([hum(2.0), GAP, hum(2.0), GAP, hum(2.0)])
    found = windows.windows(wave, 5.5)
    assert len(found) == 2
    assert found[0][0] == 0 and found[-1][1] == len(wave)
    assert found[0][1] / RATE == pytest.approx(4.6, abs=0.22)  # inside of the second gap, 4.4 to 4.8 s


@pytest.mark.parametrize("seconds", [1.0, 2.5, 7.0, 30.0])
def test_no_window_is_longer_and_no_speech_is_lost(seconds: float) -> None:
    wave = np.concatenate([hum(9.3), GAP, GAP, GAP, hum(0.4), GAP, hum(3.1)])
    found = windows.windows(wave, seconds)
    assert max(lengths(found)) <= seconds
    covered = np.zeros(len(wave), bool)
    for first, last in found:
        assert not covered[first:last].any()
        covered[first:last] = True
    assert np.abs(wave[~covered]).max(initial=0.0) == 0.0
    assert all(before[1] <= after[0] for before, after in pairwise(found))


def test_a_long_pause_ends_a_window_that_had_room() -> None:
    wave = np.concatenate([hum(1.0), np.zeros(RATE, np.float32), hum(1.0)])
    assert len(windows.windows(wave, 30.0)) == 2


def test_endless_speech_is_cut_where_it_is_softest() -> None:
    wave = hum(10.0)
    wave[round(4.4 * RATE) : round(4.6 * RATE)] *= 0.1
    first, _ = windows.windows(wave, 6.6)
    assert first[1] / RATE == pytest.approx(4.5, abs=0.12)


@pytest.mark.parametrize("more", [1, 100, 0.5 * RATE, 2.0 * RATE, 3.4 * RATE])
def test_no_piece_of_speech_is_too_short_for_the_encoders(more: float) -> None:
    wave = hum(12.0)[: round(3.4 * RATE) + round(more)]  # windows of 4 s hold 3.4 s and the margins
    found = windows.windows(wave, 4.0)
    assert min(lengths(found)) > 0.5 and max(lengths(found)) <= 4.0
    assert found[0][0] == 0 and found[-1][1] == len(wave)


def test_clicks_are_no_speech_and_noise_alone_is_taken_whole() -> None:
    wave = np.concatenate([hum(2.0), np.zeros(2 * RATE, np.float32)])
    wave[3 * RATE : 3 * RATE + 100] = 0.5
    assert len(windows.windows(wave, 30.0)) == 1
    noise = (0.1 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)
    found = windows.windows(noise, 4.0)
    assert found[0][0] == 0 and found[-1][1] == len(noise)


def test_activity_of_silero_has_hysteresis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silero, "weights", lambda: "somewhere")
    found = np.concatenate([np.full(10, 0.4), np.full(10, 0.9), np.full(10, 0.4), np.full(20, 0.1), np.full(2, 0.6)])
    monkeypatch.setattr(silero, "speech_probabilities", lambda samples: found)
    assert windows.speech_spans(np.zeros(52 * silero.CHUNK, np.float32)) == [(10 * 512, 30 * 512)]
    monkeypatch.setattr(silero, "speech_probabilities", lambda samples: np.zeros(52))
    assert windows.windows(np.zeros(3 * RATE, np.float32), 2.0)[-1][1] == 3 * RATE
