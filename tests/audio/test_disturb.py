"""Disturbances: each does what its name says, and a draw can be repeated."""

from __future__ import annotations

import numpy as np
import pytest

from re_llm.audio.disturb import (
    CODECS,
    RATE,
    Disturbance,
    coded,
    coloured_noise,
    disturb,
    narrow,
    reverberate,
    telephone,
)

NOTHING = Disturbance(dry=0, room=0, noise=0, narrow=0, telephone=0, codec=0, gain=0)


@pytest.fixture
def wave() -> np.ndarray:
    """A second of a buzz with harmonics up to 6 kHz, then a second of silence."""
    time = np.arange(RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 41))
    return np.pad(0.1 * buzz, (0, RATE)).astype(np.float32)


def band(wave: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(wave)) ** 2
    frequency = np.fft.rfftfreq(len(wave), 1 / RATE)
    return float(power[(frequency >= low) & (frequency < high)].sum())


def test_nothing_is_nothing(wave: np.ndarray) -> None:
    same, done = disturb(wave, np.random.default_rng(0), NOTHING)
    assert done == [] and np.array_equal(same, wave)


@pytest.mark.parametrize("what", ["room", "noise", "narrow", "telephone", "codec", "gain"])
def test_each_is_done_and_told(wave: np.ndarray, what: str) -> None:
    changed, done = disturb(wave, np.random.default_rng(0), Disturbance(**{**vars(NOTHING), what: 1.0}))
    assert len(done) == 1 and (done[0] == what or what == "codec")
    assert changed.shape == wave.shape and changed.dtype == np.float32 and not np.array_equal(changed, wave)
    assert np.abs(changed).max() <= 1
    same, done = disturb(wave, np.random.default_rng(0), Disturbance(dry=1.0))
    assert done == [] and np.array_equal(same, wave)


def test_the_same_generator_gives_the_same(wave: np.ndarray) -> None:
    first, second = (disturb(wave, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]


def test_all_of_them_happen(wave: np.ndarray) -> None:
    done = {what for seed in range(150) for what in disturb(wave[:4000], np.random.default_rng(seed))[1]}
    assert done == {"room", "noise", "narrow", "telephone", "gain", *(name.lower() for _, name in CODECS)}


def test_a_room_goes_on_after_the_sound(wave: np.ndarray) -> None:
    heard = reverberate(wave, 0.6, np.random.default_rng(0))
    after = np.sqrt(np.mean(heard[RATE + 800 : RATE + 2400] ** 2))
    later = np.sqrt(np.mean(heard[RATE + 7200 : RATE + 8800] ** 2))
    assert 0.003 < after < 0.1 and 1e-5 < later < 0.05 * after


def test_noise_has_its_level(wave: np.ndarray) -> None:
    assert np.mean(coloured_noise(5000, np.random.default_rng(0)) ** 2) == pytest.approx(1)
    loud, _ = disturb(wave, np.random.default_rng(0), Disturbance(**{**vars(NOTHING), "noise": 1.0, "snr": (10, 10)}))
    assert np.mean((loud - wave) ** 2) == pytest.approx(np.mean(wave**2) / 10, rel=0.02)


def test_bands(wave: np.ndarray) -> None:
    assert band(narrow(wave), 4200, 8000) < 1e-3 * band(wave, 4200, 8000)
    assert band(narrow(wave), 0, 3500) == pytest.approx(band(wave, 0, 3500), rel=0.02)
    assert band(telephone(wave), 0, 160) < 0.1 * band(wave, 0, 160)


@pytest.mark.parametrize(("container", "codec"), CODECS)
def test_codecs_keep_time_and_change_little(wave: np.ndarray, container: str, codec: str) -> None:
    back = coded(wave, container, codec, 0.9)
    assert len(back) == len(wave)
    shift = int(np.correlate(back[:8000], wave[:8000], "full").argmax()) - 7999
    assert abs(shift) <= 2
    assert 0.5 < np.mean(back**2) / np.mean(wave**2) < 1.5
