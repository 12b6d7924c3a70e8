"""The synthesisers: what they are fed, and what is said when something is missing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from re_llm.core.errors import RellmError
from re_llm.small import engines
from re_llm.small.speakers import Speaker

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed (extra mini)")


class Session:
    """Remembers what it was fed; returns a second of sound."""

    def __init__(self, _path: Path):
        self.fed: dict[str, np.ndarray] = {}

    def run(self, _names: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.fed = feed
        return [np.ones((1, 1, 24_000), dtype=np.float32)]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_session", Session)
    monkeypatch.setenv("RE_LLM_SMALL", str(tmp_path))
    for name in ("voice/x.onnx", "kokoro/k.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    about = {
        "audio": {"sample_rate": 22050}, "espeak": {"voice": "en-us"},
        "inference": {"noise_scale": 0.6, "noise_w": 0.8},
        "phoneme_id_map": {"^": [1], "$": [2], "_": [0], "h": [20], "a": [7], "\u026a": [8], ".": [9]},
    }  # fmt: skip
    (tmp_path / "voice" / "x.onnx.json").write_text(json.dumps(about))
    (tmp_path / "kokoro" / "vocab.json").write_text(json.dumps({"vocab": {"h": 20, "a": 7, "\u026a": 8, ".": 9}}))
    styles = {name: np.full((510, 1, 4), value, dtype=np.float32) for name, value in (("a", 1.0), ("b", 3.0))}
    np.savez(tmp_path / "kokoro" / "v.npz", **styles)


@pytest.mark.usefixtures("parts")
def test_piper_is_fed_phonemes_between_pads() -> None:
    piper = engines.Piper()
    wave, rate = piper.say("Hi.", Speaker("x", "piper", "x"), 2.0, np.random.default_rng(0))
    assert (len(wave), rate) == (24_000, 22_050)
    assert piper._session.fed["input"].tolist() == [[1, 0, 20, 0, 7, 0, 8, 0, 9, 0, 2]]
    assert piper._session.fed["scales"].tolist() == pytest.approx([0.6, 0.5, 0.8])


@pytest.mark.usefixtures("parts")
def test_kokoro_mixes_styles() -> None:
    kokoro = engines.Kokoro()
    kokoro.say("Hi.", Speaker("x", "kokoro", "a:0.25,b:0.75"), 1.1, np.random.default_rng(0))
    assert kokoro._session.fed["tokens"].tolist() == [[0, 20, 7, 8, 9, 0]]
    assert kokoro._session.fed["style"].tolist() == [[2.5] * 4]
    assert kokoro._session.fed["speed"].tolist() == pytest.approx([1.1])


def test_a_missing_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path))
    with pytest.raises(RellmError, match="re-llm parts get voice"):
        engines.Piper()
    (tmp_path / "parts" / "kokoro").mkdir(parents=True)
    with pytest.raises(RellmError, match=r"holds no \*\.onnx"):
        engines.Kokoro()


def test_flite_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RellmError, match="--without flite"):
        engines.Flite()
    program = tmp_path / "flite"
    program.write_text('#!/bin/sh\necho "no voice $2" >&2\nexit 3\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(RellmError, match="no voice rms"):
        engines.Flite().say("Hello.", Speaker("x", "flite", "rms"), 1.0, np.random.default_rng(0))


def test_espeak_speaks() -> None:
    robots = engines.Robots()
    wave, rate = robots.say("We are home.", Speaker("x", "espeak", "train00f"), 1.0, np.random.default_rng(0))
    assert rate == 16_000 and 0.5 < len(wave) / rate < 4 and np.abs(wave).max() > 0.01
