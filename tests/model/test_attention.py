"""Attention implementations over padded rows: the mask keeps padding out in all of them."""

from __future__ import annotations

import importlib.util

import pytest
import tiny_world
import torch

WAVES = [tiny_world.wave(0.4), tiny_world.wave(0.73, 1), tiny_world.wave(2.3, 2)]
TEXTS = ["say <|speech|> now", "<|speech|>", "what did she say? <|speech|>!"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_sdpa_is_eager_on_padded_rows(world, side):
    """Logits of all real positions, and the gradients that reach adapter and LoRA."""
    batch = world.processor()(text=TEXTS, audio=WAVES, padding_side=side)
    real = batch["attention_mask"].bool()
    assert not real.all()
    found = []
    for kind in ("eager", "sdpa"):
        model = world.model(attn_implementation=kind)
        assert model.language_model.config._attn_implementation == kind
        logits = model(**batch).logits[real]
        logits.log_softmax(-1)[:, 5].mean().backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert any(".lora_A." in name for name in trained) and any(name.startswith("adapter") for name in trained)
        found.append((logits.detach(), trained))
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-3)


def test_sdpa_answers_as_eager_does(world):
    batch = world.processor()(text=TEXTS, audio=WAVES, padding_side="left")
    eager, sdpa = (
        world.model(attn_implementation=kind).generate(**batch, max_new_tokens=6, do_sample=False)
        for kind in ("eager", "sdpa")
    )
    assert torch.equal(eager, sdpa)


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("flash_attn") is None,
    reason="FlashAttention needs a GPU and the package flash-attn",
)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_flash_attention_is_sdpa_on_padded_rows(world, side):
    batch = world.processor()(text=TEXTS, audio=WAVES, padding_side=side)
    real, inputs = batch["attention_mask"].bool(), {name: each.cuda() for name, each in batch.items()}
    flash, sdpa = (
        world.model(attn_implementation=kind).to("cuda", torch.bfloat16)(**inputs).logits.float().cpu()[real]
        for kind in ("flash_attention_2", "sdpa")
    )
    torch.testing.assert_close(flash.log_softmax(-1), sdpa.log_softmax(-1), atol=0.1, rtol=0.05)
