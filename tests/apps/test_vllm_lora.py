"""Partial LoRA on layers as vLLM has them, q, k and v joined in one, against PEFT's on the layers one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from re_llm.apps.vllm.lora import PartialLoraLinear, SpeechMask, wrap
from re_llm.core.errors import RellmError
from re_llm.recipe.options import LoraOptions

JOINED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
SIZES = {"q_proj": 12, "k_proj": 4, "v_proj": 4, "o_proj": 8}
WIDTH = {"q_proj": 8, "k_proj": 8, "v_proj": 8, "o_proj": 12}


class Linear(nn.Module):
    """What vLLM's linear layers promise: output and bias that is not added; `output_sizes` where several are one."""

    def __init__(self, *weights: torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.cat(weights))
        self.output_size = len(self.weight)
        if len(weights) > 1:
            self.output_sizes = [len(weight) for weight in weights]

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
        return nn.functional.linear(hidden, self.weight), None


class Plain(nn.Module):
    """The same attention as PEFT sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Module()
        for name, size in SIZES.items():
            setattr(self.attn, name, nn.Linear(WIDTH[name], size, bias=False))


def with_peft(targets: list[str]) -> tuple[Plain, dict[str, torch.Tensor]]:
    """PEFT's layers with random A and B, and the weights by the names of PEFT's files."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, lora_dropout=0.0)
    plain = inject_adapter_in_model(config, Plain())
    weights = {}
    for name, value in plain.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(value)
            weights["base_model.model." + name.replace(".default.", ".")] = value.detach()
    return plain, weights


def as_vllm(plain: Plain) -> nn.Module:
    made, weights = nn.Module(), {}
    for name in SIZES:
        layer = getattr(plain.attn, name)
        weights[name] = getattr(layer, "base_layer", layer).weight.detach()
    made.attn = nn.Module()
    made.attn.qkv_proj = Linear(*(weights[name] for name in JOINED["qkv_proj"]))
    made.attn.o_proj = Linear(weights["o_proj"])
    return made


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj", "o_proj"], ["q_proj", "v_proj"], ["o_proj"]])
@pytest.mark.parametrize("scope", ["speech", "text", "global"])
@torch.no_grad()
def test_a_joined_layer_gives_what_peft_gives(targets, scope):
    plain, weights = with_peft(targets)
    options = LoraOptions(r=3, alpha=6, dropout=0.0, scope=scope)
    speech = torch.tensor([False, True, True, False, False])
    mask = SpeechMask(options, 16)
    made = as_vllm(plain)
    wrapped = wrap(made, weights, options, JOINED, mask)
    assert set(wrapped) == {"attn.qkv_proj" if t != "o_proj" else "attn.o_proj" for t in targets}
    mask.set(speech)
    adapted = {"speech": speech, "text": ~speech, "global": torch.ones(5, dtype=torch.bool)}[scope]
    hidden = {8: torch.randn(5, 8), 12: torch.randn(5, 12)}
    expected = {}
    for name in SIZES:
        layer, x = getattr(plain.attn, name), hidden[WIDTH[name]]
        bare = getattr(layer, "base_layer", layer)(x)
        expected[name] = torch.where(adapted[:, None], layer(x), bare)
    found, bias = made.attn.qkv_proj(hidden[8])
    assert bias is None
    torch.testing.assert_close(found, torch.cat([expected[name] for name in JOINED["qkv_proj"]], dim=-1))
    torch.testing.assert_close(made.attn.o_proj(hidden[12])[0], expected["o_proj"])
    if scope != "global":  # what is masked passes through the frozen weights alone, bit for bit
        bare = as_vllm(plain).attn.qkv_proj(hidden[8])[0]
        assert torch.equal(found[~adapted], bare[~adapted])


def test_a_step_leaves_nothing_of_the_one_before():
    mask = SpeechMask(LoraOptions(scope="speech"), 8)
    mask.set(torch.ones(8, dtype=torch.bool))
    mask.set(torch.zeros(3, dtype=torch.bool))
    assert mask.mask[:3].sum() == 0


def test_the_mask_is_one_for_all_layers_and_no_weight():
    plain, weights = with_peft(["q_proj", "o_proj"])
    options = LoraOptions(r=3, alpha=6)
    made, mask = as_vllm(plain), SpeechMask(options, 4)
    wrap(made, weights, options, JOINED, mask)
    assert isinstance(made.attn.o_proj, PartialLoraLinear)
    assert {name.rpartition(".")[2] for name, _ in made.named_parameters()} == {"weight", "a", "b"}
    assert not any("mask" in name for name in made.state_dict())


def test_a_layer_that_vllm_does_not_have_is_named():
    plain, weights = with_peft(["o_proj"])
    made = as_vllm(plain)
    del made.attn.o_proj
    with pytest.raises(RellmError, match=r"attn\.o_proj"):
        wrap(made, weights, LoraOptions(r=3, alpha=6), JOINED, SpeechMask(LoraOptions(), 4))
