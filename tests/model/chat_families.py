"""Tiny chat LLMs of the common families: random weights, and tokenizers whose chat templates differ as theirs do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
WINDOW = 16  # of sliding attention: shorter than any row here

_CHATML = """{%- for m in messages -%}
{{ '<|im_start|>' + m['role'] + '\n' }}
{%- if think and m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif -%}
{{ m['content'] + '<|im_end|>\n' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""
_QWEN3 = (
    "{%- set think = true -%}" + _CHATML + "{%- if add_generation_prompt and enable_thinking is defined and "
    "enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
)
_LLAMA = """{{- bos_token -}}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif -%}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim -%}
{%- set messages = messages[1:] -%}{%- else %}{%- set system = '' %}{%- endif -%}
{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- for m in messages -%}
{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"""
_GEMMA2 = """{{- bos_token -}}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif -%}
{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim }}
{{- '<end_of_turn>\n' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
_GEMMA3 = """{{- bos_token -}}{%- set prefix = '' -%}
{%- if messages[0]['role'] == 'system' %}{%- set prefix = messages[0]['content'] + '\n\n' -%}
{%- set messages = messages[1:] -%}{%- endif -%}
{%- for m in messages -%}
{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + (prefix if loop.first else '') }}
{{- m['content'] | trim + '<end_of_turn>\n' }}{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif -%}"""
_MISTRAL = """{{- bos_token -}}
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{%- endif -%}
{%- if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}
{%- else %}{{ m['content'] + eos_token }}{%- endif -%}{%- endfor -%}"""


@dataclass(frozen=True)
class Family:
    """What is particular to a family.

    Attributes:
        special: tokens that stand for themselves.
        named: which of them are the tokenizer's bos, eos, pad.
        end: tokens that close the assistant's turn in training.
        opens: what the assistant's turn begins with.
        options: of its config. targets: linear layers that LoRA goes to.
    """

    config: type
    template: str
    special: tuple[str, ...]
    named: dict[str, str]
    end: tuple[str, ...]
    opens: str
    options: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")


_ML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ML_NAMES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_ML_END = ("<|im_end|>", "\N{LATIN CAPITAL LETTER C WITH DOT ABOVE}", "<|endoftext|>")  # between them a line end
_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_GEMMA_NAMES = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
_SLIDING = {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}
FAMILIES = {
    "qwen2": Family(
        Qwen2Config, _CHATML, _ML, _ML_NAMES, _ML_END, "<|im_start|>assistant\n", {"tie_word_embeddings": True}
    ),
    "qwen3": Family(
        Qwen3Config, _QWEN3, (*_ML, "<think>", "</think>"), _ML_NAMES, _ML_END,
        "<|im_start|>assistant\n<think>\n\n</think>\n\n", {"tie_word_embeddings": False},
    ),
    "llama": Family(
        LlamaConfig, _LLAMA,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},  # no padding token
        ("<|eot_id|>",), "<|start_header_id|>assistant<|end_header_id|>\n\n",
        {"tie_word_embeddings": False, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "gemma2": Family(
        Gemma2Config, _GEMMA2, _GEMMA, _GEMMA_NAMES, ("<end_of_turn>",), "<start_of_turn>model\n", _SLIDING
    ),
    "gemma3_text": Family(
        Gemma3TextConfig, _GEMMA3, _GEMMA, _GEMMA_NAMES, ("<end_of_turn>",), "<start_of_turn>model\n", _SLIDING
    ),
    "mistral": Family(
        MistralConfig, _MISTRAL, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, ("</s>",), "[/INST]",
        {"sliding_window": WINDOW, "tie_word_embeddings": False},
    ),
}  # fmt: skip


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the family's special tokens."""
    family = FAMILIES[name]
    letters = [*family.special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(family.special))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **family.named)
    made.chat_template = family.template
    return made


def save_llm(name: str, folder: Path) -> Path:
    """A chat LLM of the family as a folder."""
    family, own = FAMILIES[name], tokenizer(name)
    options = {**SMALL, **family.options}
    options |= {f"{each}_id": getattr(own, f"{each}_id") for each in ("bos_token", "eos_token", "pad_token")}
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(family.config(vocab_size=len(own), **options))
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder
