"""The convolutions with channels last against transformers' own."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel

from re_llm.model import wave_front
from re_llm.model.emotion_encoder import EmotionEncoder
from re_llm.model.wave_front import ChannelsLast, fits

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8, 8, 12, 12, 8, 8, 8), "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip


def model(kind: type = Wav2Vec2Model, config: type = Wav2Vec2Config, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(config(**{**SMALL, "conv_bias": True, **changes})).eval()


@torch.no_grad()
@pytest.mark.parametrize("samples", [400, 401, 719, 720, 16_000, 16_319])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("piece", [1, 960, wave_front.PIECE])
def test_frames_are_those_of_transformers(
    samples: int, bias: bool, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wave_front, "PIECE", piece)
    plain = model(conv_bias=bias).feature_extractor
    values = torch.randn(3, samples)
    found, wanted = ChannelsLast(plain)(values), plain(values)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kernels", "strides"), [((10, 3, 4), (5, 2, 3)), ((7, 2, 1), (2, 2, 1)), ((3, 5, 5), (4, 5, 2))]
)
@pytest.mark.parametrize("piece", [60, wave_front.PIECE])
def test_other_kernels_and_strides(
    kernels: tuple[int, ...], strides: tuple[int, ...], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wave_front, "PIECE", piece)
    plain = model(conv_dim=(8, 8, 12), conv_kernel=kernels, conv_stride=strides).feature_extractor
    values = torch.randn(2, 503)
    torch.testing.assert_close(ChannelsLast(plain)(values), plain(values), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "config"), [(HubertModel, HubertConfig), (WavLMModel, WavLMConfig)])
def test_relatives_of_wav2vec2_have_the_same_convolutions(kind: type, config: type) -> None:
    assert fits(model(kind, config).feature_extractor)
    assert not fits(model(kind, config, feat_extract_norm="group").feature_extractor)


@torch.no_grad()
def test_the_emotion_encoder_uses_them_under_the_same_names() -> None:
    plain = model()
    encoder = EmotionEncoder(plain.config)
    assert isinstance(encoder.backbone.feature_extractor, ChannelsLast)
    assert encoder.backbone.state_dict().keys() == plain.state_dict().keys()
    encoder.backbone.load_state_dict(plain.state_dict())
    values, lengths = torch.randn(2, 8000), torch.tensor([8000, 6000])
    mask = (torch.arange(8000) < lengths[:, None]).long()
    wanted = plain(values * mask, attention_mask=mask).last_hidden_state
    found, counts = copy.deepcopy(encoder).frames(values, lengths)
    for row, count in enumerate(counts):
        torch.testing.assert_close(found[row, :count], wanted[row, :count], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_layer_holds_more_than_a_piece() -> None:
    """However long the recordings are, and however many."""
    front = ChannelsLast(model().feature_extractor)
    seen: list[int] = []
    first = front.conv_layers[0].layer_norm
    first.register_forward_hook(lambda _, args, made: seen.append(len(made)))
    front(torch.randn(2, 5 * wave_front.PIECE))
    assert len(seen) == 10 and max(seen) <= (wave_front.PIECE + 400) / 5
