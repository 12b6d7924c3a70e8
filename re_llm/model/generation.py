"""generation_config.json of a checkpoint or an LLM, with the types that transformers would miss while decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from transformers import GenerationConfig

from re_llm.model.hub import read_json, reading
from re_llm.recipe.options import Options

NAME = "generation_config.json"
Count = Annotated[int, Field(strict=True, ge=0)] | None
Number = Annotated[float, Field(ge=0.0)] | None
Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1)] | None
Id = Annotated[int, Field(strict=True)] | Ids

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


class _Settings(Options):
    """The usual settings; others are checked by transformers."""

    model_config = ConfigDict(extra="allow")

    max_length: Count = None
    max_new_tokens: Count = None
    min_length: Count = None
    min_new_tokens: Count = None
    num_beams: Count = None
    num_return_sequences: Count = None
    no_repeat_ngram_size: Count = None
    top_k: Count = None
    max_time: Number = None
    temperature: Number = None
    top_p: Number = None
    min_p: Number = None
    typical_p: Number = None
    epsilon_cutoff: Number = None
    eta_cutoff: Number = None
    repetition_penalty: Number = None
    length_penalty: float | None = None
    do_sample: bool | None = None
    use_cache: bool | None = None
    renormalize_logits: bool | None = None
    remove_invalid_values: bool | None = None
    return_dict_in_generate: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    bos_token_id: Id = None
    eos_token_id: Id = None
    pad_token_id: Annotated[int, Field(strict=True)] | None = None
    suppress_tokens: Ids = None
    begin_suppress_tokens: Ids = None


def read_generation(folder: Path) -> dict[str, object]:
    """The settings of a folder, without the version that wrote them; empty without a file.

    Raises:
        RellmError: the file is broken; names it and the setting.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    given = read_json(path)
    given.pop("transformers_version", None)
    _Settings.read(given, str(path))
    return given


def generation_config(folder: Path, given: dict[str, object]) -> GenerationConfig:
    """transformers' config of settings that came from a folder; those of sampling only where it samples.

    transformers reads settings without effect, and refuses to write them: at the end of a training.

    Raises:
        RellmError: they contradict each other.
    """
    kept = given if given.get("do_sample") else {k: v for k, v in given.items() if k not in _SAMPLING}
    with reading(folder / NAME):
        made = GenerationConfig(**kept)
        made.validate(strict=True)
    return made
