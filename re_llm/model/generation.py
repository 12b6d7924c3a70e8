"""generation_config.json of a checkpoint or an LLM, with the types that transformers would miss while decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, create_model
from transformers import GenerationConfig

from re_llm.model.hub import read_json, reading
from re_llm.recipe.options import Options

NAME = "generation_config.json"
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_COUNTS = (
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences",
    "no_repeat_ngram_size", "top_k", "pad_token_id",
)  # fmt: skip
_NUMBERS = (*(name for name in _SAMPLING if name not in _COUNTS), "max_time", "repetition_penalty")
_SWITCHES = (
    "do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "return_dict_in_generate",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
)  # fmt: skip
_IDS = ("bos_token_id", "eos_token_id", "suppress_tokens", "begin_suppress_tokens")
_Whole = Annotated[int, Field(strict=True, ge=0)]
_TYPES: dict[tuple[str, ...], object] = {
    _COUNTS: _Whole | None,
    _NUMBERS: Annotated[float, Field(ge=0.0)] | None,
    _SWITCHES: bool | None,
    _IDS: _Whole | Annotated[list[_Whole], Field(min_length=1)] | None,
}
_FIELDS: dict[str, Any] = {name: (kind, None) for names, kind in _TYPES.items() for name in names}
_Settings = create_model("_Settings", __base__=Options, **_FIELDS)  # the usual ones; transformers checks others


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
    _Settings.read({name: value for name, value in given.items() if name in _FIELDS}, str(path))
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
