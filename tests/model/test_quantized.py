"""The LLM in 8 or 4 bit: what is asked of bitsandbytes, what is refused, and with it installed a real answer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.model import ReLlmForConditionalGeneration, components, quantized
from re_llm.model.outputs import EncodedAudio

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda _: object())
    eight = quantized.quantization("8bit", torch.bfloat16)
    assert eight.load_in_8bit and not eight.load_in_4bit
    four = quantized.quantization("4bit", torch.bfloat16)
    assert four.load_in_4bit and four.bnb_4bit_quant_type == "nf4" and four.bnb_4bit_use_double_quant
    assert four.bnb_4bit_compute_dtype is torch.bfloat16


def test_what_is_missing_or_unknown_is_said_before_weights_are_read(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RellmError, match=r"quantize is '2bit'.*8bit, 4bit"):
        engine.load(tiny_checkpoint, device="cpu", quantize="2bit")
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)
    monkeypatch.setattr(components, "read_weights", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(RellmError, match=r'bitsandbytes, which is not installed.*pip install "re-llm\[quantize\]"'):
        engine.load(tiny_checkpoint, device="cpu", quantize="8bit")


def test_what_bitsandbytes_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    llm = tiny_world.save_llm(tmp_path / "llm")
    monkeypatch.setattr(components, "quantization", lambda *_: None)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("None of the available devices `available_devices = None` are supported")

    monkeypatch.setattr(components.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(RellmError, match=r"quantised to 4bit on cpu, cannot be used: None of the available.*use a GPU"):
        components.load_llm(llm, quantize="4bit", device=torch.device("cpu"))


@pytest.mark.skipif(not INSTALLED, reason="the extra `quantize` is not installed")
@pytest.mark.parametrize("kind", quantized.KINDS)
@pytest.mark.parametrize("self_contained", [False, True])
@torch.no_grad()
def test_the_llm_alone_is_quantised(tmp_path: Path, kind: str, self_contained: bool) -> None:
    parts = (tiny_world.save_llm(tmp_path / "llm", width=64, tied=False), tiny_world.save_whisper(tmp_path / "whisper"))
    torch.manual_seed(0)
    model = ReLlmForConditionalGeneration.from_components(*parts, adapter=tiny_world.ADAPTER, lora={"r": 4})
    model.save_pretrained(tmp_path / "saved", self_contained=self_contained)
    found = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "saved", quantize=kind)
    small = {torch.int8 if kind == "8bit" else torch.uint8}
    layers = found.language_model.model.layers
    assert {layer.self_attn.q_proj.base_layer.weight.dtype for layer in layers} == small
    others = [p for n, p in found.named_parameters() if not n.startswith("language_model.") or ".lora_" in n]
    assert {p.dtype for p in others} == {torch.float32}
    for name, parameter in model.adapter.named_parameters():
        assert torch.equal(parameter, found.adapter.get_parameter(name)), name
    states, lengths = torch.randn(1, 40, 16), torch.tensor([40])
    speech = model.adapter(states, lengths)
    row = torch.tensor([[5, *[model.config.speech_token_id] * int(speech.lengths[0]), 7, 9]])
    given = {"input_ids": row, "speech": speech}
    expected, logits = (each(**given).logits for each in (model, found))
    assert (logits - expected).norm() < (0.1 if kind == "8bit" else 0.6) * expected.norm()
    with pytest.raises(RellmError, match=f"quantised to {kind} is not saved"):
        found.save_pretrained(tmp_path / "again", self_contained=True)


@pytest.mark.skipif(not INSTALLED, reason="the extra `quantize` is not installed")
def test_what_stands_around_a_quantised_llm_is_trained_and_saved(tmp_path: Path) -> None:
    parts = (tiny_world.save_llm(tmp_path / "llm", width=64, tied=False), tiny_world.save_whisper(tmp_path / "whisper"))
    model = ReLlmForConditionalGeneration.from_components(
        *parts, adapter=tiny_world.ADAPTER, lora={"r": 4}, quantize="4bit"
    )
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    speech = EncodedAudio(torch.randn(1, 40, 16), torch.tensor([40]))
    count = model.config.adapter.token_count(40)
    row = torch.tensor([[5, *[model.config.speech_token_id] * count, 7, 9]])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        loss = model.train()(row, speech=speech, labels=row.masked_fill(row == model.config.speech_token_id, -100)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    model.save_pretrained(tmp_path / "saved")
    whole = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert not hasattr(whole.config.text_config, "quantization_config")
    assert whole.language_model.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.float32
    assert torch.equal(whole.adapter.up.weight, model.adapter.up.weight)
    lora = "model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert torch.equal(whole.language_model.get_parameter(lora), model.language_model.get_parameter(lora))
