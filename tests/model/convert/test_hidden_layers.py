"""Layers in an adapter as the public code defines them: Whisper's own, eight heads, no mask; and a CFormer without."""

import json

import golden_world as golden
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration
from re_llm.model.convert.config import released_config
from re_llm.model.convert.run import convert

A, C = "blsp_a_nolora", "blsp_c_cformer"
HEADS, LAYERS, WIDTH = 8, 2, 32


def normal(draw, *shape):
    return torch.randn(*shape, generator=draw) * 0.3


def layer_weights(draw, width, inner):
    """One WhisperEncoderLayer, by the names of its tensors; keys have no bias."""
    found = {}
    for name, (rows, columns) in {
        "self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width),
        "self_attn.out_proj": (width, width), "fc1": (inner, width), "fc2": (width, inner),
    }.items():  # fmt: skip
        found[f"{name}.weight"] = normal(draw, rows, columns)
        if name != "self_attn.k_proj":
            found[f"{name}.bias"] = normal(draw, rows)
    for name in ("self_attn_layer_norm", "final_layer_norm"):
        found |= {f"{name}.weight": 1 + normal(draw, width), f"{name}.bias": normal(draw, width)}
    return found


def with_layers(folder, case=A):
    """A released BLSP-Emo with layers in its bottleneck; returns its tensors."""
    config, draw = golden.config(case), torch.Generator().manual_seed(0)
    outer = config["qwen_config"]["hidden_size"]
    ends = {"adapter.fc1.weight": normal(draw, WIDTH, outer), "adapter.fc2.weight": normal(draw, outer, WIDTH)}
    weights = {**golden.weights(case), **ends}
    for i in range(LAYERS):
        own = layer_weights(draw, WIDTH, config["whisper_config"]["encoder_ffn_dim"])
        weights = {**weights, **{f"adapter.hidden_layers.{i}.{name}": value for name, value in own.items()}}
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({**config, "adapter_hidden_layers": LAYERS, "adapter_inner_dim": WIDTH})
    )
    return weights


def by_hand(w, states):
    """The public definition over one utterance [1, T, C]: convolutions, then layers between fc1 and fc2."""
    x, i = states.transpose(1, 2), 0
    while f"adapter.subsampler.conv_layers.{i}.weight" in w:
        name = f"adapter.subsampler.conv_layers.{i}"
        kernel = w[f"{name}.weight"].shape[2]
        x, i = F.glu(F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=kernel // 2), dim=1), i + 1
    x = x.transpose(1, 2)
    inner = F.linear(x, w["adapter.fc1.weight"])
    for i in range(LAYERS):
        inner = layer_by_hand(
            {k.split(f"hidden_layers.{i}.")[1]: v for k, v in w.items() if f"layers.{i}." in k and "hidden" in k}, inner
        )
    x = x + F.linear(inner, w["adapter.fc2.weight"])
    return F.layer_norm(x, x.shape[-1:], w["adapter.speech_ln.weight"], w["adapter.speech_ln.bias"], 1e-5)


def layer_by_hand(w, x):
    def linear(name, value):
        return F.linear(value, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name, value):
        return F.layer_norm(value, value.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def heads(value):
        return value.view(*value.shape[:2], HEADS, -1).transpose(1, 2)

    h = norm("self_attn_layer_norm", x)
    q, k, v = (heads(linear(f"self_attn.{n}_proj", h)) for n in "qkv")
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    x = x + linear("self_attn.out_proj", (weights @ v).transpose(1, 2).flatten(2))
    return x + linear("fc2", F.gelu(linear("fc1", norm("final_layer_norm", x))))


@torch.no_grad()
def test_a_released_adapter_with_layers_is_converted_exactly(tmp_path):
    weights = with_layers(tmp_path / "source")
    report = convert(tmp_path / "source", tmp_path / "ours", progress=False)
    assert report.left_out == {}
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert model.config.adapter.hidden_layers == LAYERS
    states = torch.randn(
        2, 37, golden.config(A)["whisper_config"]["d_model"], generator=torch.Generator().manual_seed(1)
    )
    expected = by_hand(weights, states)
    # The released code lets these layers attend to padding; one utterance has none.
    found = model.adapter(states, torch.tensor([37, 21]), keep_padding=True)
    torch.testing.assert_close(found.embeddings, expected, atol=1e-4, rtol=1e-4)
    alone = model.adapter(states[:1], torch.tensor([37]))
    torch.testing.assert_close(alone.embeddings, expected[:1], atol=1e-4, rtol=1e-4)
    plain = weights | {n: torch.zeros_like(v) for n, v in weights.items() if "hidden_layers" in n}
    assert (by_hand(plain, states) - expected).abs().max() > 0.1  # the layers do something


def test_it_goes_back_to_the_same_tensors(tmp_path):
    weights = with_layers(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours", progress=False)
    convert(tmp_path / "ours", tmp_path / "back", to="blsp-emo", progress=False)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys() and all(torch.equal(back[name], value) for name, value in weights.items())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["adapter_hidden_layers"] == LAYERS


def test_units_between_the_layers_have_no_place_in_the_released_format(tmp_path):
    with_layers(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "ours", progress=False)
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "ours")
    model.config.adapter = model.config.adapter.model_copy(update={"units": 8})
    with pytest.raises(RellmError, match="the adapter of ours predicts units between its layers"):
        released_config(model.config, "ours")


def test_a_width_that_eight_heads_do_not_divide_is_refused(tmp_path):
    with_layers(tmp_path / "source")
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "adapter_inner_dim": 36}))
    with pytest.raises(RellmError, match=r"encoder layers of 36 channels.*multiples of 8"):
        convert(tmp_path / "source", tmp_path / "ours", progress=False)


@torch.no_grad()
def test_a_cformer_without_first_layers_has_a_linear_one_in_their_place(tmp_path):
    weights, width = golden.weights(C), golden.config(C)["whisper_config"]["d_model"]
    draw = torch.Generator().manual_seed(2)
    linear = {
        "adapter.pre_cif_layer.weight": normal(draw, width, width),
        "adapter.pre_cif_layer.bias": normal(draw, width),
    }
    kept = {name: value for name, value in weights.items() if ".pre_cif_layers." not in name}
    (tmp_path / "source").mkdir()
    save_file({**kept, **linear}, tmp_path / "source" / "model.safetensors")
    (tmp_path / "source" / "config.json").write_text(json.dumps({**golden.config(C), "num_pre_cif_layers": 0}))
    report = convert(tmp_path / "source", tmp_path / "ours", progress=False)
    assert list(report.left_out) == ["adapter.lm_head.weight"]
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "ours")
    states = torch.randn(1, 30, width, generator=draw)
    hidden = F.linear(states, *linear.values())
    firing = model.adapter.weigh(states, torch.tensor([30]))
    torch.testing.assert_close(firing.states, hidden[..., :-1])
    torch.testing.assert_close(firing.total, hidden[..., -1].sigmoid().sum(1))
