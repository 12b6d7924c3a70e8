"""Reading the world's recordings, caching log-mels, batches of like lengths."""

from __future__ import annotations

import shutil
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
    voice = speech_data.utterances(world, "common_voice", "dev")
    assert len(voice) == 10 and Path(voice[0].audio).exists()
    assert set(speech_data.texts(voice)[0].split()) <= set(speech_world.WORDS)
    podcast = speech_data.utterances(world, "msp_podcast", "test1")
    assert [row.emotion for row in podcast[:8]] == [
        "neutral", "sad", "angry", "happy", "surprise", "neutral", "sad", "contempt",
    ]  # fmt: skip
    angry = podcast[2]
    assert angry.arousal == pytest.approx((np.log10(0.3) + 2) / 1.5, abs=2e-3)
    assert angry.valence == pytest.approx(1 - angry.arousal, abs=2e-3) and angry.dominance == angry.arousal


def test_missing_things_are_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="speech/en"):
        speech_data.utterances(tmp_path, "common_voice", "train")
    with pytest.raises(RellmError, match=r"no utterance of the split 'test3'"):
        speech_data.utterances(world, "msp_podcast", "test3")
    copy = shutil.copytree(world, tmp_path / "world")
    next((copy / "msp_podcast" / "Transcripts").glob("*_Train_0003.txt")).unlink()
    with pytest.raises(RellmError, match="Train_0003"):
        speech_data.utterances(copy, "msp_podcast", "train")


def test_recordings_longer_than_whispers_window_are_refused(world: Path, tmp_path: Path) -> None:
    row = speech_data.utterances(world, "common_voice", "train")[0]
    assert speech_data.sample_counts([row]).tolist() == [len(speech_data.read_wave(row))]
    soundfile.write(tmp_path / "long.wav", np.full(31 * 1000, 0.1), 1000)
    with pytest.raises(RellmError, match=r"long\.wav"):
        speech_data.read_wave(row.model_copy(update={"audio": str(tmp_path / "long.wav")}))


def test_log_mels_are_computed_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = speech_data.utterances(world, "common_voice", "train")
    MelStore.build(tmp_path, rows[:6], progress=False)
    store = MelStore.build(tmp_path, rows, progress=False)
    mel = speech_data.log_mel(speech_data.read_wave(rows[3]))
    np.testing.assert_allclose(store[3], mel, atol=2e-3)
    assert len(store) == 10 and store.lengths[3] == len(mel)
    monkeypatch.setattr(speech_data, "log_mel", lambda wave: pytest.fail("computed again"))
    assert np.array_equal(MelStore.build(tmp_path, rows, progress=False)[7], store[7])


def test_log_mels_of_other_recordings_under_the_same_names_are_computed_again(world: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(world, tmp_path / "world")
    rows = speech_data.utterances(copy, "common_voice", "train")
    before = speech_data.contents(copy, [("common_voice", "train")])
    assert before == speech_data.contents(world, [("common_voice", "train")])  # wherever it lies
    old = MelStore.build(tmp_path / "state", rows, progress=False)[0].copy()
    shutil.copy(rows[1].audio, rows[0].audio)
    new = MelStore.build(tmp_path / "state", rows, progress=False)[0]
    assert not np.array_equal(old[: len(new)], new[: len(old)])
    assert speech_data.contents(copy, [("common_voice", "train")]) != before


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
