"""Opens the parts of a recipe as a run would, without loading a weight: config, tokenizer, processor, file headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from re_llm.core.errors import RellmError


def kind_of_folder(folder: Path) -> str | None:
    """`re-llm`, `blsp-emo` or `qwen` as `re-llm convert` names them; None for another model."""
    from re_llm.model.convert.config import kind_of
    from re_llm.model.hub import read_json

    try:
        return kind_of(read_json(folder / "config.json"), folder / "config.json")
    except RellmError:
        return None


def _open_llm(folder: Path) -> int:
    """Width of the LLM, whose tokenizer knows words and has a chat template that fits a conversation."""
    from transformers import AutoTokenizer

    from re_llm.llm.prompts import get_prompt, split_chat
    from re_llm.llm.vocabulary import require_words
    from re_llm.model.components import read_config

    config = read_config(folder).get_text_config()
    tokenizer = require_words(AutoTokenizer.from_pretrained(folder), folder)
    split_chat(tokenizer, get_prompt("chat"))
    require_weights(folder)
    return int(config.hidden_size)


def _open_speech_encoder(folder: Path) -> int:
    """Width of the speech encoder, which comes with the feature extractor that it was trained with."""
    from transformers import AutoFeatureExtractor

    from re_llm.model.components import speech_config

    config = speech_config(folder)
    bins = getattr(AutoFeatureExtractor.from_pretrained(folder), "feature_size", config.num_mel_bins)
    if bins != config.num_mel_bins:
        raise RellmError(
            f"{folder}: its feature extractor makes {bins} mel bins, its encoder takes {config.num_mel_bins}"
        )
    require_weights(folder)
    return int(config.d_model)


def _open_emotion_encoder(folder: Path) -> int:
    from re_llm.model.components import read_config
    from re_llm.model.inputs import emotion_input_kind

    config = read_config(folder)
    emotion_input_kind(folder)
    require_weights(folder, pickle=True)
    return int(config.hidden_size)


OPEN: dict[str, Callable[[Path], int]] = {
    "llm": _open_llm,
    "speech_encoder": _open_speech_encoder,
    "emotion_encoder": _open_emotion_encoder,
}


def require_weights(folder: Path, *, pickle: bool = False) -> None:
    """Every weight file is there and whole: a truncated one is found by its header."""
    from re_llm.model.weights import stored_tensors

    if not pickle and not any(folder.glob("*.safetensors")):
        raise RellmError(f"{folder} has no weights as safetensors")
    stored_tensors(folder)
