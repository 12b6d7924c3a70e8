"""LoRA that acts on chosen positions alone."""

import pytest
import tiny_world
import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import (
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from re_llm.core.errors import RellmError
from re_llm.model import LoraOptions
from re_llm.model.partial_lora import PartialLora, default_targets, inject, merge, peft_config

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [9, 5, 7, 7, 8, 5]])
SPEECH = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]).bool()
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip


def llm(config=None) -> nn.Module:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config or Qwen2Config(**SMALL, initializer_range=0.3)).eval()


def adapted(scope: str, **settings) -> tuple[nn.Module, PartialLora]:
    model = llm()
    inject(model, LoraOptions(r=4, dropout=0.0, scope=scope, **settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3)
    return model, PartialLora(model, scope)


@torch.no_grad()
@pytest.mark.parametrize(("scope", "chosen"), [("speech", SPEECH), ("text", ~SPEECH), ("global", SPEECH | True)])
def test_one_layer_adds_its_branch_at_the_chosen_positions_alone(scope, chosen):
    model, lora = adapted(scope)
    layer = model.model.layers[0].mlp.up_proj
    hidden = torch.randn(2, 6, 16)
    with lora.using(SPEECH, (2, 6)):
        found = layer(hidden) - layer.base_layer(hidden)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.scaling["default"] * hidden @ a.T @ b.T
    torch.testing.assert_close(found[chosen], expected[chosen], atol=1e-5, rtol=1e-4)
    assert not found[~chosen].abs().gt(1e-6).any() and expected.abs().min() > 0


@torch.no_grad()
def test_a_twin_decodes_without_lora_and_has_the_same_weights():
    model, lora = adapted("speech")
    twin = lora.twin(model)
    assert twin is not None and not any(isinstance(module, LoraLinear) for module in twin.modules())
    assert {t.data_ptr() for t in twin.parameters()} <= {t.data_ptr() for t in model.parameters()}
    with lora.using(None, (2, 6)):
        expected = model(IDS).logits
    assert torch.equal(twin(IDS).logits, expected)
    with lora.using(SPEECH, (2, 6)):  # another thread may be in a pass with LoRA
        assert torch.equal(twin(IDS).logits, expected)
        assert not torch.allclose(model(IDS).logits, expected)
    with lora.disabled():
        assert lora.twin(model) is None


@torch.no_grad()
def test_there_is_no_twin_of_what_a_copy_would_not_be():
    for scope in ("text", "global"):
        model, lora = adapted(scope)
        assert lora.twin(model) is None
    model, lora = adapted("speech")
    handle = model.model.layers[0].register_forward_hook(lambda *_: None)
    assert lora.twin(model) is None
    handle.remove()
    model.model._hf_hook = object()  # as accelerate leaves where it spreads a model
    assert lora.twin(model) is None
    del model.model._hf_hook
    assert lora.twin(model) is not None
    bare = llm()
    assert PartialLora(bare, "speech").twin(bare) is not None


@torch.no_grad()
def test_without_speech_the_branch_is_not_computed():
    model, lora = adapted("speech")
    calls = []
    for layer in lora.layers:
        layer.lora_A["default"].register_forward_hook(lambda *_: calls.append(1))
    with lora.using(None, (2, 6)):
        found = model(IDS).logits
    torch.testing.assert_close(found, llm()(IDS).logits)
    assert not calls
    with lora.using(SPEECH, (2, 6)):
        model(IDS)
    assert calls


@torch.no_grad()
def test_disabled_is_the_bare_llm_in_every_scope_and_keeps_the_gradients():
    for scope in ("speech", "text", "global"):
        model, lora = adapted(scope)
        with lora.disabled(), lora.using(SPEECH, (2, 6)):
            torch.testing.assert_close(model(IDS).logits, llm()(IDS).logits)
        assert all(p.requires_grad for name, p in model.named_parameters() if ".lora_" in name)
        with lora.using(SPEECH, (2, 6)):
            assert (model(IDS).logits - llm()(IDS).logits).abs().max() > 1e-3


def test_a_forgotten_or_wrong_mask_is_an_error():
    model, lora = adapted("speech")
    with pytest.raises(RuntimeError, match="without a mask"):
        model(IDS)
    wrong = r"\(2, 5\) does not fit a hidden state \(2, 6, 16\)"
    with pytest.raises(RuntimeError, match=wrong), lora.using(SPEECH[:, :5], (2, 5)):
        model(IDS)
    with pytest.raises(RuntimeError, match="without a mask"):  # the failed pass left nothing behind
        model(IDS)


@torch.no_grad()
def test_merging_is_refused_unless_lora_acts_everywhere():
    for scope in ("speech", "text"):
        with pytest.raises(RellmError, match="cannot be merged"):
            merge(adapted(scope)[0], scope)
    model, _ = adapted("global")
    expected = model(IDS).logits
    merge(model, "global")
    torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-3)


FAMILIES = [
    LlamaConfig(**SMALL), MistralConfig(**SMALL), Qwen2Config(**SMALL), Qwen3Config(**SMALL), Phi3Config(**SMALL),
    GemmaConfig(**SMALL, head_dim=8), GPTNeoXConfig(**SMALL),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_default_targets_of_common_families(config):
    model = llm(config)
    before = model(IDS).logits
    inject(model, LoraOptions(r=2))
    lora = PartialLora(model, "speech")
    assert len(lora.layers) == config.num_hidden_layers * len(default_targets(config))
    with lora.using(SPEECH, (2, 6)):
        torch.testing.assert_close(model(IDS).logits, before)  # B starts at zero


def test_an_unknown_target_names_those_there_are():
    with pytest.raises(RellmError, match=r"'c_attn' is no linear layer of this qwen2. Allowed: down_proj, gate_proj"):
        peft_config(LoraOptions(targets=("c_attn",)), llm())


def test_the_adapter_file_is_an_ordinary_peft_file(world, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = world.model(lora={"r": 4, "alpha": 8, "dropout": 0.0, "scope": "global"})
    model.save_pretrained(tmp_path / "checkpoint")
    bare = AutoModelForCausalLM.from_pretrained(world.llm)
    stock = PeftModel.from_pretrained(bare, tmp_path / "checkpoint").eval()
    ids = torch.tensor([tiny_world.tokenizer()("hello there")["input_ids"]])
    with torch.no_grad():
        expected, found = model(ids).logits, stock(ids).logits
        with stock.disable_adapter():
            assert (stock(ids).logits - found).abs().max() > 1e-3
    torch.testing.assert_close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("scope", ["speech", "text", "global"])
def test_a_pass_without_lora_calls_no_layer_of_it(scope, monkeypatch):
    """Decoding 24 tokens once went through 1,344 of them."""
    model, lora = adapted(scope)
    names, called = list(model.state_dict()), []
    plain = LoraLinear.forward
    monkeypatch.setattr(LoraLinear, "forward", lambda layer, *args: called.append(1) or plain(layer, *args))
    with lora.disabled():
        found = model(IDS).logits
        for layer in lora.layers:  # as PEFT itself leaves its branch out
            layer._disable_adapters = True
    assert not called and list(model.state_dict()) == names
    assert torch.equal(found, llm()(IDS).logits)
    with lora.using(SPEECH, (2, 6)):
        model(IDS)
    assert len(called) == len(lora.layers)


@torch.no_grad()
def test_a_layer_that_somebody_hooked_is_called_without_lora_too():
    model, lora = adapted("speech")
    expected = llm()
    for each in (model, expected):
        each.get_submodule("model.layers.0.self_attn.q_proj").register_forward_hook(lambda _m, _a, out: 0.5 * out)
    with lora.disabled():
        assert torch.equal(model(IDS).logits, expected(IDS).logits)
