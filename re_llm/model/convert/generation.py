"""generation_config.json on its way from and to the released formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from re_llm.model.convert.tokenizer import END_OF_TEXT, IM_END, IM_START
from re_llm.model.generation import generation_config, read_generation

CHAT_FORMAT = "chatml"  # the original code asks for it, and stops without it
WINDOW = 6144  # tokens of a conversation that the original code keeps, as published with Qwen-7B-Chat


def converted_generation(
    source: Path, tokenizer: PreTrainedTokenizerBase | None, text: PretrainedConfig
) -> GenerationConfig:
    """The source's settings, else greedy; answers end at ChatML's marks. The ids are also set in the LLM's config.

    Raises:
        RellmError: the source's file is broken.
    """
    given = read_generation(source) or {"do_sample": False}
    if tokenizer is not None:
        stops = tokenizer.convert_tokens_to_ids([IM_END, IM_START, END_OF_TEXT])
        text.eos_token_id, text.pad_token_id = stops[0], stops[-1]
        given |= {"eos_token_id": stops, "pad_token_id": stops[-1]}
    return generation_config(source, given)


def released_generation(
    source: Path, tokenizer: PreTrainedTokenizerBase | None, config: Mapping[str, object], speech_token: int | None
) -> dict[str, object]:
    """The same file as the original code reads it: one end token, and the chat format that names the others.

    Args:
        config: the released config.json.
        speech_token: our placeholder, which the original has not.
    """
    given = read_generation(source) or {"do_sample": False}
    suppressed = given.pop("suppress_tokens", None)
    kept = [token for token in suppressed if token != speech_token] if isinstance(suppressed, list) else []
    if kept:
        given["suppress_tokens"] = kept
    if tokenizer is not None:
        end = int(tokenizer.convert_tokens_to_ids(END_OF_TEXT))
        given |= {"eos_token_id": end, "pad_token_id": end}
    qwen = config["qwen_config"]
    assert isinstance(qwen, Mapping)
    return {"chat_format": CHAT_FORMAT, "max_window_size": min(WINDOW, qwen["seq_length"]), **given}
