"""generation_config.json and the switches of Qwen's attention, on their way from and to the released formats."""

import json
import shutil

import golden_world as golden
import pytest
import test_tokenizer
import torch
from safetensors.torch import save_file
from test_convert import config_of, small_qwen
from transformers import AutoModelForCausalLM, GenerationConfig

from re_llm.core.errors import RellmError
from re_llm.model import ReLlmForConditionalGeneration
from re_llm.model.convert.run import convert

A = "blsp_a_nolora"
ranks = test_tokenizer.ranks
NAME = "generation_config.json"
# As it is published with Qwen-7B-Chat; the ids are those of the tokenizer at hand.
PUBLISHED = {
    "chat_format": "chatml", "max_window_size": 6144, "max_new_tokens": 512, "do_sample": True, "top_k": 0,
    "top_p": 0.8, "repetition_penalty": 1.1,
}  # fmt: skip


@pytest.fixture
def source(ranks, tmp_path):
    """A released BLSP-Emo with a vocabulary and settings of generation."""
    folder = tmp_path / "source"
    tensors, size = small_qwen(ranks, folder)
    given = golden.config(A)
    (folder / "config.json").write_text(
        json.dumps({**given, "qwen_config": {**given["qwen_config"], "vocab_size": size}})
    )
    rest = {name: value for name, value in golden.weights(A).items() if not name.startswith("qwen_model.")}
    save_file({**rest, **{f"qwen_model.{k}": v for k, v in tensors.items()}}, folder / "model.safetensors")
    end = {"eos_token_id": len(ranks), "pad_token_id": len(ranks)}
    (folder / NAME).write_text(json.dumps({**PUBLISHED, **end, "transformers_version": "4.31.0"}))
    return folder


def both_ways(source, tmp_path):
    convert(source, tmp_path / "ours", progress=False)
    convert(tmp_path / "ours", tmp_path / "back", to="blsp-emo", progress=False)
    return tmp_path / "ours", tmp_path / "back"


def test_the_settings_of_generation_are_kept_both_ways(source, ranks, tmp_path):
    ours, back = both_ways(source, tmp_path)
    made = GenerationConfig.from_pretrained(ours)
    assert {name: getattr(made, name) for name in PUBLISHED} == PUBLISHED
    assert made.eos_token_id == [len(ranks) + 2, len(ranks) + 1, len(ranks)] and made.pad_token_id == len(ranks)
    model = ReLlmForConditionalGeneration.from_pretrained(ours)
    assert made.suppress_tokens == [model.config.speech_token_id]
    original = json.loads((source / NAME).read_text())
    original.pop("transformers_version")
    assert json.loads((back / NAME).read_text()) == original


def test_what_the_original_code_asks_for_is_there_without_a_file(source, ranks, tmp_path):
    """It reads the chat format, whose stop words end an answer, and the id that fills rows."""
    (source / NAME).unlink()
    _, back = both_ways(source, tmp_path)
    found, length = json.loads((back / NAME).read_text()), golden.config(A)["qwen_config"]["seq_length"]
    assert found == {"chat_format": "chatml", "max_window_size": length, "do_sample": False,
                     "eos_token_id": len(ranks), "pad_token_id": len(ranks)}  # fmt: skip
    convert(golden.FOLDER / A, tmp_path / "bare", progress=False)
    report = convert(tmp_path / "bare", tmp_path / "bare_back", to="blsp-emo", progress=False)
    assert json.loads((tmp_path / "bare_back" / NAME).read_text())["chat_format"] == "chatml"
    assert any("pad_token_id" in note for note in report.notes)  # nobody knows it without a tokenizer


def test_a_broken_file_of_settings_is_named(source, tmp_path):
    for content, said in (("{", " is no JSON"), ('{"temperature": "hot"}', ": temperature is 'hot'")):
        (source / NAME).write_text(content)
        with pytest.raises(RellmError, match=rf"generation_config\.json{said}"):
            convert(source, tmp_path / "ours", progress=False)


@pytest.mark.parametrize("switches", [{}, {"use_dynamic_ntk": False, "use_logn_attn": False},
                                      {"use_dynamic_ntk": True, "use_logn_attn": False}])  # fmt: skip
def test_switches_of_long_rows_come_back_as_they_were(source, tmp_path, switches):
    given = json.loads((source / "config.json").read_text())["qwen_config"]
    kept = {name: value for name, value in given.items() if name not in ("use_dynamic_ntk", "use_logn_attn")}
    config_of(source, qwen_config={**kept, **switches})
    _, back = both_ways(source, tmp_path)
    found = json.loads((back / "config.json").read_text())["qwen_config"]
    assert {name: found[name] for name in ("use_dynamic_ntk", "use_logn_attn") if name in found} == switches


def test_an_llm_that_was_converted_on_its_own_keeps_them_too(source, ranks, tmp_path):
    tensors, _ = small_qwen(ranks, tmp_path / "qwen")
    torch.save(tensors, tmp_path / "qwen" / "pytorch_model.bin")
    shutil.copy(source / NAME, tmp_path / "qwen")
    config_of(tmp_path / "qwen", use_logn_attn=False)
    convert(tmp_path / "qwen", tmp_path / "qwen2", progress=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "qwen2")
    assert (model.config.use_dynamic_ntk, model.config.use_logn_attn) == (True, False)
    assert model.generation_config.top_p == 0.8 and model.generation_config.chat_format == "chatml"
