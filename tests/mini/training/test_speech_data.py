"""Reading the world's recordings, caching log-mels, batches of like lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from re_llm.core.errors import RellmError
from re_llm.mini.training import speech_data
from re_llm.mini.training.speech_data import MelStore
from tests.mini import speech_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speech_world.build(tmp_path_factory.mktemp("speech") / "world", count=10)


def test_both_layouts_are_read(world: Path) -> None:
    voice = speech_data.common_voice(world, "dev")
    assert len(voice) == 10 and voice[0].path.exists() and set(voice[0].text.split()) <= set(speech_world.WORDS)
    podcast = speech_data.msp_podcast(world, "Test1")
    assert [clip.emotion for clip in podcast[:8]] == [
        "neutral", "sad", "angry", "happy", "surprise", "neutral", "sad", None,
    ]  # fmt: skip
    angry = podcast[2]
    assert angry.arousal == pytest.approx((np.log10(0.3) + 2) / 1.5, abs=2e-3)
    assert angry.valence == pytest.approx(1 - angry.arousal, abs=2e-3) and angry.dominance == angry.arousal


def test_missing_things_are_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"train\.tsv is missing"):
        speech_data.common_voice(tmp_path, "train")
    with pytest.raises(RellmError, match=r"no rows of split 'Test3'.*Development, Test1, Train"):
        speech_data.msp_podcast(world, "Test3")
    table = tmp_path / "speech" / "en" / "train.tsv"
    table.parent.mkdir(parents=True)
    table.write_text("path\ttext\na.wav\thello\n")
    with pytest.raises(RellmError, match="sentence"):
        speech_data.common_voice(tmp_path, "train")
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio at all")
    with pytest.raises(RellmError, match=r"bad\.wav cannot be read"):
        speech_data.read_wave(bad)


def test_waves_come_in_mono_at_16_khz(tmp_path: Path) -> None:
    stereo = np.stack([np.ones(8000), np.zeros(8000)], 1) * 0.5
    soundfile.write(tmp_path / "a.wav", stereo, 8000)
    wave = speech_data.read_wave(tmp_path / "a.wav")
    assert wave.shape == (16000,) and wave.dtype == np.float32 and wave[8000] == pytest.approx(0.25, abs=0.01)
    assert speech_data.sample_count(tmp_path / "a.wav") == 16000
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 1000), 1000)
    with pytest.raises(RellmError, match=r"31\.0 s"):
        speech_data.read_wave(tmp_path / "long.wav")


def test_log_mels_are_computed_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = speech_data.common_voice(world, "train")
    MelStore.build(tmp_path, clips[:6], progress=False)
    store = MelStore.build(tmp_path, clips, progress=False)
    mel = speech_data.log_mel(speech_data.read_wave(clips[3].path))
    np.testing.assert_allclose(store[3], mel, atol=2e-3)
    assert len(store) == 10 and store.lengths[3] == len(mel)
    monkeypatch.setattr(speech_data, "log_mel", lambda wave: pytest.fail("computed again"))
    assert np.array_equal(MelStore.build(tmp_path, clips, progress=False)[7], store[7])
    MelStore.remove(tmp_path)
    assert not list(tmp_path.iterdir())


def test_batches_hold_like_lengths_and_reach_every_clip() -> None:
    lengths = np.random.default_rng(0).integers(50, 800, 1000)
    order = np.argsort(lengths)
    rng = np.random.default_rng(1)
    batches = [speech_data.like_lengths(order, 16, rng, window=100) for _ in range(800)]
    assert all(len(set(batch)) == 16 for batch in batches)
    assert max(np.ptp(lengths[batch]) for batch in batches) < 150
    assert len(np.unique(np.concatenate(batches))) == 1000
    early = np.concatenate([speech_data.like_lengths(order, 16, rng, fraction=0.25, window=100) for _ in range(100)])
    assert set(early) <= set(order[:250])


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "", 2), ("x", "x", 0)]
)
def test_edits(a: str, b: str, distance: int) -> None:
    assert speech_data.edits(a, b) == distance


def test_plain_text() -> None:
    assert speech_data.plain("Well\u2014it isn\u2019t  THERE, is it?") == "well it isn't there is it"
