"""The miniature's emotion encoder: audeering's format, masks, targets, training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from re_llm.audio.disturb import Disturbance
from re_llm.core.errors import RellmError
from re_llm.mini.training import emotion, speech_data
from re_llm.mini.training.emotion_model import (
    ACOUSTICS,
    BANDS,
    DIMENSIONS,
    EmotionNet,
    EmotionSize,
    embed,
    pad_waves,
    save_emotion,
)
from re_llm.mini.training.emotion_task import (
    EmotionSteps,
    EmotionTask,
    Pieces,
    acoustic_loss,
    acoustics,
    concordance,
    targets,
)
from re_llm.mini.training.fitting import Plan
from re_llm.model.components import load_emotion_encoder
from re_llm.model.inputs import emotion_input_kind
from re_llm.model.recordings import normalized
from tests.mini import speech_world

TINY = EmotionSize(width=32, layers=1, heads=2, feed_forward=64, channels=(8, 8, 8, 16, 16, 16, 32), position_kernel=8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speech_world.build(tmp_path_factory.mktemp("speech") / "world", count=20)


def tiny(seed: int = 0) -> EmotionNet:
    torch.manual_seed(seed)
    return EmotionNet(TINY).eval()


def noise(*samples: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [0.05 * rng.standard_normal(size).astype(np.float32) for size in samples]


def test_a_masked_batch_gives_what_each_utterance_gives_alone() -> None:
    net, waves = tiny(), noise(16000, 9000, 4321)
    with torch.no_grad():
        predicted, embedding, _, frames = net(*pad_waves(waves))
        for row, wave in enumerate(waves):
            alone, pooled, _, mask = net(*pad_waves([wave]))
            assert (
                bool(mask.all())
                and int(frames[row].sum()) == mask.shape[1] == net.frame_counts(torch.tensor([len(wave)])).item()
            )
            torch.testing.assert_close(embedding[row], pooled[0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(predicted[row], alone[0], atol=1e-5, rtol=1e-4)


def test_a_gain_changes_nothing(world: Path, tmp_path: Path) -> None:
    save_emotion(tiny(), tmp_path / "encoder")
    assert emotion_input_kind(tmp_path / "encoder") == "normalized"
    row = speech_data.utterances(world, "msp_podcast", "train")[0]
    soundfile.write(tmp_path / "quiet.wav", 0.3 * speech_data.read_wave(row), 16000, subtype="FLOAT")
    same = row.model_copy(update={"audio": str(tmp_path / "quiet.wav")})
    (as_it_is, quiet), _ = embed(tmp_path / "encoder", [row, same])
    np.testing.assert_allclose(quiet, as_it_is, atol=1e-2)  # the variance has an epsilon


def test_the_saved_folder_is_in_audeerings_format(tmp_path: Path, golden: Path) -> None:
    net = tiny()
    save_emotion(net, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Wav2Vec2ForSpeechClassification"] and config["model_type"] == "wav2vec2"
    assert config["id2label"] == {"0": "arousal", "1": "dominance", "2": "valence"}
    assert config["problem_type"] == "regression" and config["pooling_mode"] == "mean"
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert {file.get_slice(name).get_dtype() for name in names} == {"F16"}
    assert not [name for name in names if not name.startswith(("wav2vec2.", "classifier."))]
    assert {"wav2vec2.encoder.pos_conv_embed.conv.weight_g", "classifier.out_proj.bias"} <= names
    with safe_open(golden / "audeering" / "model.safetensors", "pt") as file:
        known = {name for name in file.keys() if ".layers.1." not in name}  # noqa: SIM118
    assert names == known


def test_plain_transformers_and_our_loader_agree(tmp_path: Path) -> None:
    net = tiny()
    save_emotion(net, tmp_path)
    plain, report = Wav2Vec2Model.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and all(key.startswith("classifier.") for key in report["unexpected_keys"])
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    waves = noise(8000, 5000)
    given = extractor(waves, sampling_rate=16000, padding=True, return_tensors="pt")
    waves = [normalized(wave) for wave in waves]
    np.testing.assert_allclose(given.input_values[0].numpy(), waves[0], atol=1e-5)
    loaded = load_emotion_encoder(tmp_path, torch.float32)
    with torch.no_grad():
        hidden = plain.eval()(**given).last_hidden_state
        embedding = loaded(*pad_waves(waves))
        _, original, _, frames = net(*pad_waves(waves))
    pooled = (hidden * frames[..., None]).sum(1) / frames.sum(1, keepdim=True)
    torch.testing.assert_close(embedding, pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embedding, original, atol=2e-2, rtol=2e-2)


def test_concordance_knows_scale_and_shift() -> None:
    torch.manual_seed(0)
    reference = torch.randn(500, 3)
    predicted = torch.stack([reference[:, 0], reference[:, 1] + 1.0, torch.randn(500)], 1)
    found = concordance(predicted, reference)
    assert found[0] == pytest.approx(1.0, abs=1e-4)
    assert found[1] == pytest.approx(2 / 3, abs=0.05)  # 2 var / (2 var + 1)
    assert abs(found[2]) < 0.1


def test_acoustics_find_pitch_level_and_voicing() -> None:
    t = torch.arange(16000) / 16000
    voice = sum(torch.sin(2 * torch.pi * 130.0 * k * t) / k for k in range(1, 12))
    torch.manual_seed(0)
    waves = torch.stack([0.05 * voice, 0.2 * voice, 0.05 * torch.randn(16000)])
    wanted, voiced = acoustics(waves, 49)
    assert wanted.shape == (3, 49, ACOUSTICS)
    assert bool(voiced[:2, 2:-3].all()) and voiced[2].float().mean() < 0.1
    assert wanted[0, 10:40, BANDS].mean() == pytest.approx(np.log2(130 / 160), abs=0.03)
    louder = (wanted[1, 10:40, :8] - wanted[0, 10:40, :8]).mean()
    assert louder == pytest.approx(0.5 * np.log10(16), abs=0.02)


def test_acoustic_loss_counts_real_frames_only() -> None:
    torch.manual_seed(0)
    waves, samples = pad_waves(noise(16000, 8000))
    heard = torch.randn(2, 49, ACOUSTICS)
    frames = torch.arange(49)[None] < tiny().frame_counts(samples)[:, None]
    before = acoustic_loss(heard, waves, frames)
    heard[1, 25:] += 3.0
    assert torch.equal(before, acoustic_loss(heard, waves, frames))


def test_training_learns_and_reports(world: Path, tmp_path: Path) -> None:
    plan = Plan(60, 5e-3, 10, report_every=15, save_every=30)
    metrics = emotion.train_emotion(
        tmp_path, world, size=TINY, options=EmotionSteps(batch=12, silence=0), plan=plan, progress=False, gate=False
    )
    curve = [json.loads(line) for line in (tmp_path / "state" / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < 0.6 * curve[0]["loss"] and curve[-1]["acoustic"] < curve[0]["acoustic"]
    assert json.loads(json.dumps(metrics)) == json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["ccc"]) == set(DIMENSIONS) and metrics["ccc"]["arousal"] > 0.5
    assert metrics["utterances"] == 20 and metrics["with_class"] == 19


def test_pieces_hear_digital_silence_at_both_ends(world: Path) -> None:
    rows = speech_data.utterances(world, "msp_podcast", "train")[:1]
    options = EmotionSteps(silence=1.0, silence_seconds=(0.2, 0.2), crop=60.0, disturbance=Disturbance(dry=1.0))
    piece = Pieces(options, rows)(0, 0)[0]
    wave = speech_data.read_wave(rows[0])
    assert len(piece) == len(wave) + 2 * 3200
    assert np.ptp(piece[:3200]) == np.ptp(piece[-3200:]) == 0 and np.corrcoef(piece[3200:-3200], wave)[0, 1] > 0.999


def test_pieces_that_another_process_makes_ahead_are_the_same(world: Path) -> None:
    rows = speech_data.utterances(world, "msp_podcast", "train")
    task = EmotionTask(tiny(), EmotionSteps(batch=4), rows, 3)
    here = [float(task.terms(step, 7)["loss"].detach()) for step in range(3)]
    with task.making_ahead():
        assert [float(task.terms(step, 7)["loss"].detach()) for step in range(3)] == here
    assert task.ahead is None


def test_embeddings_come_in_the_order_of_the_utterances(world: Path, tmp_path: Path) -> None:
    save_emotion(tiny(), tmp_path)
    rows = speech_data.utterances(world, "msp_podcast", "test1")[:5]
    together, dimensions = embed(tmp_path, rows, batch=2)
    assert dimensions.shape == (5, 3)
    for number, row in enumerate(rows):
        np.testing.assert_allclose(together[number], embed(tmp_path, [row])[0][0], atol=1e-5)


def test_resumed_training_equals_uninterrupted(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(6, 1e-3, 2, report_every=2, save_every=2)
    monkeypatch.setattr(emotion, "evaluate_emotion", lambda *_: {})

    def train(out: Path) -> dict[str, torch.Tensor]:
        emotion.train_emotion(
            out, world, size=TINY, options=EmotionSteps(batch=4), plan=plan, progress=False, gate=False
        )
        return load_file(out / "model.safetensors")

    whole = train(tmp_path / "whole")
    original = EmotionTask.terms

    def killed(self: EmotionTask, step: int, seed: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return original(self, step, seed)

    monkeypatch.setattr(EmotionTask, "terms", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.setattr(EmotionTask, "terms", original)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_bad_model_is_refused_with_its_numbers(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"concordance \{'valence'.*unweighted accuracy"):
        emotion.train_emotion(
            tmp_path, world, size=TINY, options=EmotionSteps(batch=2), plan=Plan(1, 1e-4, 0), progress=False
        )


def test_an_utterance_without_ratings_is_named(world: Path) -> None:
    row = speech_data.utterances(world, "common_voice", "train")[0]
    with pytest.raises(RellmError, match=r"train_0 has no ratings"):
        targets([row])


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(RellmError, match="7, one per convolution"):
        EmotionSize(channels=(8, 8))
    with pytest.raises(RellmError, match="width"):
        EmotionSize(width=100)
