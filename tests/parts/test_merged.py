"""A LoRA merged into its LLM gives the LLM with the LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import ship_small
import tiny_world
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from re_llm.core.errors import RellmError
from re_llm.parts.merged import merge_lora


def test_a_merged_llm_answers_as_with_its_lora(tmp_path: Path) -> None:
    base = tiny_world.save_llm(tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "lora")
    merge_lora(base, tmp_path / "lora", tmp_path / "merged")
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "lora")(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
        before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    file = tmp_path / "lora" / "adapter_model.safetensors"
    ship_small.put_lora(tmp_path / "lora", tmp_path / "shipped")
    assert (tmp_path / "shipped" / file.name).stat().st_size < 0.7 * file.stat().st_size
    merge_lora(base, tmp_path / "shipped", tmp_path / "rounded")
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded")(ids).logits
    assert 0 < (rounded - found).abs().max() < 0.05 * (found - before).abs().max()


def test_a_lora_of_another_llm_is_refused(tmp_path: Path) -> None:
    base = tiny_world.save_llm(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "lora")
    held = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    save_file({name.replace("layers.0", "layers.7"): value for name, value in held.items()},
              tmp_path / "lora" / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(RellmError, match=r"does not fit the LLM .*layers\.7"):
        merge_lora(base, tmp_path / "lora", tmp_path / "merged")
