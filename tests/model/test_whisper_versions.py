"""Whisper of any size and version as speech encoder: 80 or 128 mel bins, whichever class wrote the folder."""

import pytest
import tiny_world
import torch
from transformers import (
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor

VERSIONS = {
    "tiny": {"num_mel_bins": 80},
    "large-v3": {"num_mel_bins": 128, "vocab_size": 61},
    "turbo": {"num_mel_bins": 128, "decoder_layers": 1, "encoder_layers": 3},
    "distilled": {"num_mel_bins": 128, "decoder_layers": 1, "d_model": 32, "encoder_attention_heads": 4},
}
KINDS = (WhisperModel, WhisperForConditionalGeneration, WhisperForAudioClassification)
WAVES = [tiny_world.wave(0.7), tiny_world.wave(1.3, 1)]


def save(folder, changes, kind=WhisperModel, dtype=torch.float32, **options):
    torch.manual_seed(1)
    made = kind(tiny_world.whisper_config(**changes)).eval().to(dtype)
    made.save_pretrained(folder, **options)
    bins = {k: v for k, v in changes.items() if k == "num_mel_bins"}
    WhisperFeatureExtractor(feature_size=bins["num_mel_bins"], chunk_length=1).save_pretrained(folder)
    return made


def parts(world, folder, **options):
    options = {"adapter": tiny_world.ADAPTER, **options}
    processor = ReLlmProcessor.from_components(world.llm, folder, **options)
    return ReLlmForConditionalGeneration.from_components(world.llm, folder, **options), processor


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_states_are_those_of_the_model_that_was_saved(world, tmp_path, version, kind):
    whisper = save(tmp_path, VERSIONS[version], kind)
    model, processor = parts(world, tmp_path)
    inputs = processor.audio_inputs(WAVES[:1])
    assert inputs["input_features"].shape[1] == VERSIONS[version]["num_mel_bins"]
    encoder = whisper.get_encoder() if kind is not WhisperForAudioClassification else whisper.encoder
    expected = encoder(inputs["input_features"]).last_hidden_state
    found = model.encode_audio(**inputs).speech_states
    torch.testing.assert_close(found, expected[:, : found.shape[1]], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("window", ["full", "trimmed"])
@pytest.mark.parametrize("version", ["tiny", "large-v3"])
def test_batch_equals_single_and_survives_a_save(world, tmp_path, version, window):
    save(tmp_path / "whisper", VERSIONS[version], dtype=torch.float16, max_shard_size="20KB")
    assert len(list((tmp_path / "whisper").glob("model-*.safetensors"))) > 1
    model, processor = parts(world, tmp_path / "whisper", speech_window=window)
    model.save_pretrained(tmp_path / "checkpoint", self_contained=True)
    processor.save_pretrained(tmp_path / "checkpoint")
    again = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "checkpoint")
    reader = ReLlmProcessor.from_pretrained(tmp_path / "checkpoint")
    together = again.encode_speech(**reader.audio_inputs(WAVES))
    for i, wave in enumerate(WAVES):
        alone = model.encode_speech(**processor.audio_inputs([wave]))
        assert together.lengths[i] == alone.lengths[0]
        count = int(alone.lengths[0])
        torch.testing.assert_close(together.embeddings[i, :count], alone.embeddings[0], atol=1e-4, rtol=1e-4)


def test_features_of_another_whisper_are_refused(world, tmp_path):
    save(tmp_path, VERSIONS["large-v3"])
    model, _ = parts(world, tmp_path)
    other = ReLlmProcessor.from_components(world.llm, world.whisper, adapter=tiny_world.ADAPTER)
    with pytest.raises(RellmError, match=r"features have 80 mel bins.*Allowed: 128"):
        model.encode_audio(**other.audio_inputs(WAVES))
