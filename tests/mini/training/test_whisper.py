"""The miniature's Whisper: layout, trimmed passes, losses, training, plain transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from re_llm.core.errors import RellmError
from re_llm.mini.training import speech_data, whisper
from re_llm.mini.training.fitting import Plan
from re_llm.mini.training.whisper_model import (
    SPECIALS,
    WhisperSize,
    build_model,
    decode,
    gather,
    save_whisper,
    train_tokenizer,
    trimmed_encoder,
)
from re_llm.mini.training.whisper_task import (
    CHARACTERS,
    CtcHeads,
    WhisperSteps,
    character_ids,
    read_characters,
    spec_augment,
    warp_frequencies,
)
from tests.mini import speech_world

TINY = WhisperSize(width=32, encoder_layers=1, decoder_layers=1, heads=2, vocabulary=280)
TEXTS = ["the dog is in the house", "a red house", "Anna isn't here, is she?"]


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return WhisperProcessor(WhisperFeatureExtractor(), train_tokenizer(TEXTS, TINY.vocabulary))


@pytest.fixture(scope="module")
def model(processor: WhisperProcessor) -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    return build_model(processor.tokenizer, TINY).eval()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speech_world.build(tmp_path_factory.mktemp("speech") / "world")


def random_mels(*frames: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((length, 80)).astype(np.float32) * 0.3 for length in frames]


def test_the_tokenizer_has_whispers_layout(processor: WhisperProcessor, tmp_path: Path) -> None:
    tokenizer = processor.tokenizer
    assert len(tokenizer) == TINY.vocabulary
    assert tokenizer.convert_ids_to_tokens(list(range(272, 280))) == list(SPECIALS)
    prefix = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer.prefix_tokens) == prefix
    processor.save_pretrained(tmp_path)
    again = WhisperProcessor.from_pretrained(tmp_path).tokenizer
    for text in [*TEXTS, "déjà vu \u2603"]:
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again.decode(again(text).input_ids, skip_special_tokens=True) == text


def test_encode_equals_the_encoder_of_transformers_on_a_full_window(model: WhisperForConditionalGeneration) -> None:
    mels, frames = gather(random_mels(150, 91), np.array([2850, 2909]))
    assert frames.tolist() == [3000, 3000]
    with torch.no_grad():
        states, lengths = trimmed_encoder(model)(mels, frames)
        expected = model.model.encoder(mels).last_hidden_state
    assert lengths.tolist() == [1500, 1500]
    torch.testing.assert_close(states, expected, atol=2e-5, rtol=1e-4)


def test_decode_equals_the_decoder_of_transformers(model: WhisperForConditionalGeneration) -> None:
    ids = torch.tensor([[273, 274, 276, 279, 40, 50]])
    mels, frames = gather(random_mels(120))
    with torch.no_grad():
        states, lengths = trimmed_encoder(model)(mels, frames)
        logits = decode(model, ids, states, lengths)
        expected = model(decoder_input_ids=ids, encoder_outputs=(states,)).logits
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)


def test_a_batch_gives_what_each_utterance_gives_alone(model: WhisperForConditionalGeneration) -> None:
    waves = random_mels(101, 64, 37)
    ids = torch.tensor([[273, 274, 276, 279, 40]])
    with torch.no_grad():
        mels, frames = gather(waves)
        states, lengths = trimmed_encoder(model)(mels, frames)
        logits = decode(model, ids.repeat(3, 1), states, lengths)
        for row, wave in enumerate(waves):
            alone, length = trimmed_encoder(model)(*gather([wave]))
            assert length.item() == lengths[row] == (len(wave) + 1) // 2
            torch.testing.assert_close(states[row, : length.item()], alone[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(logits[row], decode(model, ids, alone, length)[0], atol=2e-5, rtol=1e-4)


def test_silence_is_what_the_feature_extractor_writes() -> None:
    wave = speech_world.say("red dog", 0.1, np.random.default_rng(0))
    padded = WhisperFeatureExtractor()(wave, sampling_rate=16000, return_tensors="np")["input_features"][0]
    mel = speech_data.log_mel(wave)
    assert mel.shape == (len(wave) // 160, 80)
    made, _ = gather([mel], np.array([3000 - len(mel)]))
    # The last frames before the end differ: there the extractor mirrors the wave, or sees the zeros that follow.
    np.testing.assert_allclose(made[0, :, : len(mel) - 2], padded[:, : len(mel) - 2], atol=1e-3)
    np.testing.assert_allclose(made[0, :, len(mel) + 2 :], padded[:, len(mel) + 2 :], atol=1e-3)


def test_characters_survive_the_way_through_ctc() -> None:
    ids = character_ids("Anna isn't here, is she?")
    assert "".join(CHARACTERS[i - 1] for i in ids) == "anna isn't here is she"
    path = [symbol for i in ids for symbol in (0, i, i)]
    assert read_characters(path) == "anna isn't here is she"


def test_ctc_loss_ignores_frames_beyond_the_length() -> None:
    torch.manual_seed(0)
    heads, states = CtcHeads(8, 20), torch.randn(2, 40, 8)
    lengths = torch.tensor([40, 24])
    before = heads.losses(states, lengths, ["abc", "de"], [[1, 2], [3]])
    states[1, 24:] += 5.0
    after = heads.losses(states, lengths, ["abc", "de"], [[1, 2], [3]])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_warped_tone_is_found_at_another_frequency() -> None:
    tone = torch.zeros(64, 80, 3)
    tone[:, 40] = 1.0
    warped = warp_frequencies(tone, 1.0, 0.12, np.random.default_rng(0))
    peaks = warped[:, :, 0].argmax(1)
    assert 36 <= peaks.min() < 40 < peaks.max() <= 44
    assert torch.equal(warped[:, :, 0], warped[:, :, 2])
    assert torch.equal(warp_frequencies(tone, 0.0, 0.12, np.random.default_rng(0)), tone)


def test_spec_augment_masks_little_of_real_speech() -> None:
    mels, frames = gather(random_mels(200, 200))
    masked = spec_augment(mels.clone(), frames.numpy(), np.random.default_rng(1))
    changed = (masked != mels).float().mean().item()
    assert 0 < changed < 0.45


def test_training_learns_and_the_folder_works_in_plain_transformers(world: Path, tmp_path: Path) -> None:
    plan = Plan(60, 5e-3, 10, report_every=20, save_every=30)
    options = WhisperSteps(batch=8, short_steps=10, full_every=30, full_batch=1)
    metrics = whisper.train_whisper(tmp_path, world, size=TINY, options=options, plan=plan, progress=False, gate=False)
    curve = [json.loads(line) for line in (tmp_path / "state" / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["ce"] < 0.6 * curve[0]["ce"] and curve[-1]["char_ctc"] < curve[0]["char_ctc"]
    assert metrics == json.loads((tmp_path / "metrics.json").read_text()) and metrics["utterances"] == 24
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    processor = WhisperProcessor.from_pretrained(tmp_path)
    assert model.dtype == torch.float32 and (tmp_path / "model.safetensors").stat().st_size < 1_000_000
    wave = speech_data.read_wave(speech_data.utterances(world, "common_voice", "test")[0])
    features = processor(wave, sampling_rate=16000, return_tensors="pt").input_features
    generated = model.generate(features, max_new_tokens=8)
    start = [token for token in generated[0].tolist() if token in processor.tokenizer.prefix_tokens]
    assert not start and processor.batch_decode(generated, skip_special_tokens=True)[0].split()[0] in speech_world.WORDS


def test_resumed_training_equals_uninterrupted(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(6, 1e-3, 2, report_every=2, save_every=2)
    options = WhisperSteps(batch=4, short_steps=2, full_every=5, full_batch=1)
    results = {"utterances": 0}
    monkeypatch.setattr(whisper, "evaluate_whisper", lambda *_: results)

    def train(out: Path) -> dict[str, torch.Tensor]:
        whisper.train_whisper(out, world, size=TINY, options=options, plan=plan, progress=False, gate=False)
        return WhisperForConditionalGeneration.from_pretrained(out).state_dict()

    whole = train(tmp_path / "whole")
    original = whisper.WhisperTask.terms

    def killed(self: whisper.WhisperTask, step: int, seed: int) -> dict[str, torch.Tensor]:
        if step == 3:
            raise KeyboardInterrupt
        return original(self, step, seed)

    monkeypatch.setattr(whisper.WhisperTask, "terms", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.setattr(whisper.WhisperTask, "terms", original)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_bad_model_is_refused_with_its_numbers(world: Path, tmp_path: Path) -> None:
    plan, options = Plan(1, 1e-3, 0), WhisperSteps(batch=2, full_every=0)
    with pytest.raises(RellmError, match=r"word error rate of \d+.*less than 10%"):
        whisper.train_whisper(tmp_path, world, size=TINY, options=options, plan=plan, progress=False)
    assert not (tmp_path / "metrics.json").exists() and (tmp_path / "state" / "mels.f16").exists()
    assert (tmp_path / "state" / "metrics.json").exists()


def test_saved_weights_are_half_precision(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, tmp_path: Path
) -> None:
    from safetensors import safe_open

    save_whisper(model, processor, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds == {"F16"} and "proj_out.weight" not in file.keys()  # noqa: SIM118
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again.proj_out.weight, again.model.decoder.embed_tokens.weight)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(RellmError, match="vocabulary"):
        WhisperSize(vocabulary=200)
    with pytest.raises(RellmError, match="width"):
        WhisperSize(width=30, heads=4)
