"""Ready-made components: reading a chat LLM, a Whisper and an emotion encoder, and joining them to a fresh model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.models.whisper.modeling_whisper import sinusoids

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.model import partial_lora
from re_llm.model.adapter import copy_widened
from re_llm.model.configuration import AdapterSettings, LoraSettings, ReLlmConfig
from re_llm.model.emotion_encoder import EmotionEncoder, checkpoint_weights, head_outputs, make_emotion_encoder
from re_llm.model.hub import locate
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_hearing
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.weights import load_into, lora_weights, read_weights

log = logging.getLogger(__name__)
Name = str | os.PathLike[str]
# Where Whisper's encoder lies: in a complete Whisper, in a bare one, in a checkpoint of ours.
_WHISPER_PREFIXES = ("model.encoder.", "encoder.", "speech_encoder.whisper.")


def read_config(folder: Path) -> Any:
    """The config.json of a folder, as transformers reads it.

    Raises:
        RellmError: it is missing or broken, or its model type is unknown.
    """
    if not (folder / "config.json").is_file():
        raise RellmError(
            f"{folder} holds no config.json", todo="Give the folder of a finished checkpoint; a training writes it last"
        )
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise RellmError(f"{folder}/config.json cannot be used: {error}") from error


def speech_config(folder: Path) -> Any:
    """The Whisper config in a folder of Whisper or of a checkpoint of ours."""
    config = read_config(folder)
    config = config.speech_config if isinstance(config, ReLlmConfig) else config
    if config.model_type != "whisper":
        raise RellmError(f"{folder} holds a {config.model_type} model", allowed="a Whisper as speech encoder")
    return config


def _model_type(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # transformers will say what is wrong


def load_llm(folder: Path, config: Any = None, **options: Any) -> Any:
    """A causal LM from a folder.

    Args:
        options: `dtype`, `attn_implementation` of transformers.

    Raises:
        RellmError: weights are missing, truncated or of another shape.
    """
    if _model_type(folder) == "qwen":
        raise RellmError(
            f"the LLM in {folder} is a Qwen version 1, which transformers no longer reads",
            todo=f"Convert it once, and name the result instead: re-llm convert {folder} FOLDER",
        )
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise RellmError(f"the LLM in {folder} cannot be read: {error}") from error
    model, found = read
    if found["missing_keys"]:
        raise RellmError(f"the LLM in {folder} lacks the tensor {sorted(found['missing_keys'])[0]}")
    return model


def load_speech_encoder(folder: Path, config: Any, window: str, dtype: torch.dtype) -> SpeechEncoder:
    """Whisper's encoder from a folder; its decoder is not read.

    Raises:
        RellmError: weights are missing, truncated or of another shape.
    """
    with no_init_weights():
        encoder = SpeechEncoder(config, window).to(dtype)
    weights = read_weights(folder, _WHISPER_PREFIXES)
    prefix = next((p for p in _WHISPER_PREFIXES if any(key.startswith(p) for key in weights)), "")
    named = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    # Whisper's positions are fixed sinusoids; a small checkpoint may leave them out.
    named.setdefault("embed_positions.weight", sinusoids(config.max_source_positions, config.d_model).to(dtype))
    load_into(encoder.whisper, named, f"the speech encoder in {folder}")
    return encoder


def load_emotion_encoder(
    folder: Path,
    dtype: torch.dtype,
    *,
    config: Any = None,
    outputs: Sequence[str] | None = None,
    allow_pickle: bool = False,
) -> EmotionEncoder | SharedEmotionEncoder:
    """An emotion encoder from a folder, with its regression head if it has one in audeering's format.

    One that shares the hearing (`SharedEmotionConfig`) is read by the same name.

    Args:
        config, outputs: what a checkpoint recorded about it; by default they are read from the folder.

    Raises:
        RellmError: weights are missing, truncated or of another shape.
    """
    weights = read_weights(folder, allow_pickle=allow_pickle)
    if config is None:
        config = read_config(folder)
        outputs = head_outputs(config, weights)
    with no_init_weights():
        encoder = make_emotion_encoder(config, outputs)
    if isinstance(encoder, SharedEmotionEncoder):
        load_into(encoder, weights, f"the emotion encoder in {folder}")
        return encoder
    encoder = encoder.to(dtype)
    own = encoder.state_dict()
    named = {key: value for key, value in checkpoint_weights(weights).items() if key in own}
    # SpeechAugment's mask vector is only used in training; not every checkpoint has it.
    load_into(encoder, named, f"the emotion encoder in {folder}", optional=("backbone.masked_spec_embed",))
    return encoder


def _source(name: Name, folder: Path) -> str:
    """How a checkpoint will refer to a component: a local folder by its absolute path, else by its hub id."""
    given = Path(os.fspath(name)).expanduser()
    return str(folder.resolve()) if given.is_dir() else os.fspath(name)


def build(
    cls: Any,
    llm: Name,
    speech_encoder: Name,
    emotion_encoder: Name | None = None,
    *,
    emotions: Sequence[str] = PROMPT_EMOTIONS,
    fusion: str | None = None,
    speech_window: str = "full",
    adapter: AdapterSettings | dict[str, Any] | None = None,
    lora: LoraSettings | dict[str, Any] | None = None,
    init_adapter_from: Name | None = None,
    init_adapter: str = "copy",
    copy_scale: float = 0.1,
    dtype: torch.dtype = torch.float32,
    trainable_dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
) -> Any:
    """A fresh model over ready-made components, with their weights frozen and everything else trainable.

    Args:
        llm, speech_encoder, emotion_encoder: folders or hub ids. Without an emotion encoder the fusion is `none`.
        emotions: classes of the categorical head.
        init_adapter_from: a checkpoint to continue from. Its heads and LoRA are taken over where this model has the
            same; its adapter is copied (`init_adapter="copy"`, widened when emotion channels are new, see
            `copy_widened`) or left out (`fresh`).
        copy_scale: factor on the fresh weights of new emotion channels.
        dtype: of the components. trainable_dtype: of adapter, heads and LoRA.
        allow_pickle: also read an emotion encoder that is only there as `pytorch_model.bin`.

    Raises:
        RellmError: a component cannot be read, or options contradict each other.
    """
    if init_adapter not in ("copy", "fresh"):
        raise RellmError(f"init_adapter is {init_adapter!r}", allowed="copy, fresh")
    if (emotion_encoder is None) != ((fusion or ("none" if emotion_encoder is None else "pooled")) == "none"):
        raise RellmError(f"fusion is {fusion!r} and the emotion encoder {emotion_encoder!r}", todo="Change one of them")
    folders = {"llm": locate(llm), "speech_encoder": locate(speech_encoder)}
    names: dict[str, Name] = {"llm": llm, "speech_encoder": speech_encoder}
    emotion = None
    if emotion_encoder is not None:
        folders["emotion_encoder"], names["emotion_encoder"] = locate(emotion_encoder), emotion_encoder
        emotion = load_emotion_encoder(folders["emotion_encoder"], dtype, allow_pickle=allow_pickle)
    options: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    language_model = load_llm(folders["llm"], dtype=dtype, **options)
    whisper = speech_config(folders["speech_encoder"])
    config = ReLlmConfig(
        text_config=language_model.config,
        speech_config=whisper,
        emotion_config=emotion.config if emotion is not None else None,
        emotion_outputs=emotion.outputs if emotion is not None else None,
        adapter=adapter,
        fusion=fusion,
        emotions=emotions,
        speech_token_id=_speech_token_id(folders["llm"]),
        speech_window=speech_window,
        dtype=dtype,
    )
    speech = load_speech_encoder(folders["speech_encoder"], whisper, speech_window, dtype)
    if isinstance(emotion, SharedEmotionEncoder):
        check_hearing(emotion.config, speech)
        emotion.config.speech_encoder = None  # in this model it is the speech encoder beside it
    model = cls(config, language_model=language_model, speech_encoder=speech, emotion_encoder=emotion)
    model.component_sources.update({part: _source(names[part], folder) for part, folder in folders.items()})
    adopt_generation_config(model)
    if lora is not None:
        model.add_lora(LoraSettings.read(lora))
    for name, parameter in model.named_parameters():
        if model._part_of(name) in ("adapter", "heads", "lora"):
            parameter.data = parameter.data.to(trainable_dtype)
    if init_adapter_from is not None:
        continue_from(model, locate(init_adapter_from), fresh_adapter=init_adapter == "fresh", scale=copy_scale)
    model.set_trainable(("adapter", "heads", "lora"))
    return model.eval()


def _speech_token_id(folder: Path) -> int:
    from re_llm.model.processing import load_tokenizer

    return int(load_tokenizer(folder).convert_tokens_to_ids("<|speech|>"))


def adopt_generation_config(model: Any) -> None:
    """The LLM's own generation settings; the placeholder is never generated."""
    generation = model.language_model.generation_config
    if model.config.speech_token_id is not None and model.config.speech_token_id < model.config.text_config.vocab_size:
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or []), model.config.speech_token_id})
    model.generation_config = generation


def continue_from(model: Any, folder: Path, *, fresh_adapter: bool = False, scale: float = 0.1) -> None:
    """Takes over what an earlier stage's checkpoint has learned, in place: adapter (its CTC blank too), heads, LoRA.

    Raises:
        RellmError: the adapter options, the LLM or the LoRA options of the two differ.
    """
    config = read_config(folder)
    if not isinstance(config, ReLlmConfig):
        raise RellmError(f"{folder} is a {config.model_type} model", allowed="a checkpoint of re-llm to continue from")
    weights = read_weights(folder, ("adapter.", "emotion_head.", "dimension_head.", "ctc_blank"))
    if not fresh_adapter:
        _continue_adapter(model, config, weights, folder, scale)
    same = sorted(config.emotions) == sorted(model.config.emotions)
    if same and "emotion_head.weight" in weights:  # in another order, as in the released checkpoints
        rows = [config.emotions.index(name) for name in model.config.emotions]
        weights["emotion_head.weight"] = weights["emotion_head.weight"][rows]
    heads = ["dimension_head"] + ["emotion_head"] * same
    for head in heads:
        load_into(getattr(model, head), _below(weights, f"{head}."), f"{folder}: {head}")
    if len(heads) == 1:
        log.warning("the categorical head starts fresh: %s has the emotions %s", folder, config.emotions)
    if "ctc_blank" in weights and not fresh_adapter:  # it belongs to what the adapter has learned
        model.add_ctc_blank()
        model.ctc_blank.data.copy_(weights["ctc_blank"])
    if model.config.lora is not None and config.lora is not None:
        partial_lora.load_weights(model.language_model, *lora_weights(folder))


def _continue_adapter(model: Any, config: ReLlmConfig, weights: dict[str, Tensor], folder: Path, scale: float) -> None:
    settings, given = config.adapter_settings, _below(weights, "adapter.")
    width = config.speech_width + config.emotion_width
    if width == model.config.speech_width + model.config.emotion_width and settings == model.config.adapter_settings:
        load_into(model.adapter, given, f"{folder}: adapter")
        return
    if "cformer" in (settings.kind, model.config.adapter_settings.kind):
        raise RellmError(
            f"the adapter of {folder} cannot start this one: {settings}, {width} channels",
            todo="Keep the adapter and the encoders of the checkpoint, or start fresh",
        )
    source = type(model.adapter)(width, config.llm_width, settings)
    load_into(source, given, f"{folder}: adapter")
    copy_widened(source, model.adapter, scale=scale)


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
