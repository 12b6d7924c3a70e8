"""The frozen emotion encoder."""

import json
import shutil

import pytest
import tiny_world
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    Data2VecAudioConfig,
    HubertConfig,
    SEWConfig,
    UniSpeechSatConfig,
    Wav2Vec2BertConfig,
    Wav2Vec2ConformerConfig,
    Wav2Vec2Model,
    WavLMConfig,
)

from re_llm.core.errors import RellmError
from re_llm.model.components import load_emotion_encoder
from re_llm.model.emotion_encoder import EmotionEncoder, align_frames, checkpoint_weights, head_outputs

OUTPUTS = ("arousal", "dominance", "valence")
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "conv_bias": True, "initializer_range": 0.3,
    "vocab_size": 32,
}  # fmt: skip
CONFIGS = {
    "wav2vec2": tiny_world.emotion_config(),
    "wav2vec2-group": tiny_world.emotion_config(feat_extract_norm="group", do_stable_layer_norm=False),
    "hubert": HubertConfig(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert-group": HubertConfig(**SMALL),
    "wavlm": WavLMConfig(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True),
    "unispeech-sat": UniSpeechSatConfig(**SMALL, feat_extract_norm="layer", do_stable_layer_norm=True),
    "data2vec-audio": Data2VecAudioConfig(**{**SMALL, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "wav2vec2-conformer": Wav2Vec2ConformerConfig(**SMALL, feat_extract_norm="layer"),
    "sew": SEWConfig(**{**SMALL, "conv_dim": (8,) * 13}, squeeze_factor=2, feat_extract_norm="layer"),
}


def batch(*seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    waves = [torch.from_numpy(tiny_world.wave(s, i)) for i, s in enumerate(seconds)]
    return torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), torch.tensor([len(w) for w in waves])


@pytest.mark.parametrize("name", CONFIGS)
def test_batch_equals_single_whatever_stands_in_the_padding(name):
    torch.manual_seed(0)
    encoder = EmotionEncoder(CONFIGS[name])
    values, lengths = batch(0.5, 0.9, 0.5, 0.2)
    pooled = encoder(values, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone = encoder.backbone(values[i : i + 1, :length]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(pooled[i], alone, atol=2e-5, rtol=1e-4)
        values[i, length:] = 3.0
    torch.testing.assert_close(encoder(values, lengths), pooled)


@pytest.mark.parametrize(
    "config", [Wav2Vec2BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
               tiny_world.whisper_config(), BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                                       intermediate_size=32)], ids=lambda config: config.model_type,
)  # fmt: skip
def test_a_model_that_takes_no_waveform_is_refused(config):
    with pytest.raises(RellmError, match=rf"a {config.model_type} .* does not take a waveform. Allowed: wav2vec2"):
        EmotionEncoder(config)


# --- what users have on disk ---

OLD_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def as_pickles(folder, count=1, old_names=True):
    """The weights of a folder as older versions of transformers wrote them."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for new, old in OLD_NAMES.items() if old_names else ():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    if count == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    placed = {}
    for i in range(count):
        file, part = f"pytorch_model-{i + 1:05}-of-{count:05}.bin", dict(list(tensors.items())[i::count])
        torch.save(part, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))


@pytest.mark.parametrize("form", ["safetensors", "pickle", "pickles"])
@pytest.mark.parametrize("head", ["", "ForSequenceClassification", "ForCTC"])
@pytest.mark.parametrize("name", [name for name in CONFIGS if "group" not in name])
def test_any_speech_encoder_of_transformers(tmp_path, name, head, form):
    """With a head or without, in either spelling and form: the hidden states of the model that was saved."""
    torch.manual_seed(0)
    base = AutoModel.from_config(CONFIGS[name])
    kind = getattr(transformers, type(base).__name__.removesuffix("Model") + (head or "Model"))
    made = kind(CONFIGS[name]).eval()
    made.save_pretrained(tmp_path)
    if form != "safetensors":
        as_pickles(tmp_path, {"pickle": 1, "pickles": 2}[form])
        with pytest.raises(RellmError, match="allow_pickle=True reads its pickle"):
            load_emotion_encoder(tmp_path, torch.float32)
    encoder = load_emotion_encoder(tmp_path, torch.float32, allow_pickle=True)
    assert encoder.outputs is None
    values, lengths = batch(0.5)
    expected = getattr(made, made.base_model_prefix, made)(values).last_hidden_state
    torch.testing.assert_close(encoder.frames(values, lengths)[0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["safetensors", "pickle"])
@pytest.mark.parametrize("old_names", [True, False])
def test_audeerings_format_with_its_head(world, tmp_path, form, old_names):
    expected = load_emotion_encoder(world.emotion, torch.float32)
    shutil.copytree(world.emotion, tmp_path / "emotion")
    as_pickles(tmp_path / "emotion", old_names=old_names)
    if form == "safetensors":
        path = tmp_path / "emotion" / "pytorch_model.bin"
        save_file(torch.load(path, weights_only=True), tmp_path / "emotion" / "model.safetensors")
        path.unlink()
    found = load_emotion_encoder(tmp_path / "emotion", torch.float32, allow_pickle=True)
    assert found.outputs == expected.outputs == OUTPUTS
    values, lengths = batch(0.5, 0.3)
    pooled = found(values, lengths)
    assert torch.equal(pooled, expected(values, lengths))
    assert torch.equal(found.regress(pooled), expected.regress(pooled))


def test_broken_pickles_are_named(world, tmp_path):
    folder = shutil.copytree(world.emotion, tmp_path / "emotion")
    as_pickles(folder)
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RellmError, match=r"pytorch_model\.bin is not a whole file of weights"):
        load_emotion_encoder(folder, torch.float32, allow_pickle=True)
    torch.save({"trap": print}, path)
    with pytest.raises(RellmError, match=r"pytorch_model\.bin .*code is never run"):
        load_emotion_encoder(folder, torch.float32, allow_pickle=True)


def test_it_stays_frozen_in_train_mode():
    encoder = EmotionEncoder(CONFIGS["wav2vec2"], OUTPUTS)  # config with dropout, layer drop and SpecAugment
    holder = torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules()) and holder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    values, lengths = batch(0.6, 0.8)
    first = encoder(values, lengths)
    assert not first.requires_grad and torch.equal(first, encoder(values, lengths))


def test_the_head_is_read_by_name():
    encoder = EmotionEncoder(CONFIGS["wav2vec2"], OUTPUTS)
    pooled = torch.randn(2, 16)
    raw = encoder.classifier(pooled)
    assert torch.equal(encoder.regress(pooled), raw[:, [2, 0, 1]])  # valence, arousal, dominance
    with pytest.raises(RellmError, match="no regression head"):
        EmotionEncoder(CONFIGS["wav2vec2"]).regress(pooled)


def test_a_head_over_other_things_is_not_taken_for_dimensions():
    weights = {"classifier.dense.weight": torch.zeros(1), "classifier.out_proj.weight": torch.zeros(1)}
    assert head_outputs(tiny_world.emotion_config(), weights) == list(OUTPUTS)
    assert head_outputs(tiny_world.emotion_config(id2label={0: "happy", 1: "sad", 2: "angry"}), weights) is None
    assert head_outputs(tiny_world.emotion_config(), {}) is None


@pytest.mark.parametrize("prefix", ["wav2vec2.", ""])
@pytest.mark.parametrize("old_names", [True, False])
def test_both_spellings_of_weight_norm_and_bare_encoders(prefix, old_names):
    model = Wav2Vec2Model(CONFIGS["wav2vec2"]).eval()
    weights = {prefix + key: value for key, value in model.state_dict().items()}
    if old_names:
        for new, old in OLD_NAMES.items():
            weights = {key.replace(new, old): value for key, value in weights.items()}
        assert any(key.endswith("weight_g") for key in weights)
    encoder = EmotionEncoder(CONFIGS["wav2vec2"])
    found = checkpoint_weights(weights)
    assert found.keys() == encoder.state_dict().keys()
    encoder.load_state_dict(found)
    values, lengths = batch(0.5)
    torch.testing.assert_close(encoder.frames(values, lengths)[0], model(values).last_hidden_state)


def test_frames_are_aligned_in_time():
    states = torch.arange(10.0)[None, :, None].expand(2, -1, 1)
    aligned = align_frames(states, torch.tensor([10, 4]), torch.tensor([20, 5]))
    assert aligned[0, :, 0].tolist() == [float(i // 2) for i in range(20)]
    assert aligned[1, :5, 0].tolist() == [0.0, 1.0, 2.0, 2.0, 3.0] and not aligned[1, 5:].any()


def test_too_short_for_a_frame():
    with pytest.raises(RellmError, match="too short"):
        EmotionEncoder(CONFIGS["wav2vec2"])(torch.zeros(1, 300), torch.tensor([300]))
