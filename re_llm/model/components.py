"""Ready-made components: reading a chat LLM, a Whisper and an emotion encoder, and joining them to a fresh model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, WhisperConfig
from transformers.initialization import no_init_weights
from transformers.models.whisper.modeling_whisper import sinusoids

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.model.configuration import SPEECH_TOKEN, ReLlmConfig
from re_llm.model.emotion_encoder import EmotionEncoder, checkpoint_weights, head_outputs, make_emotion_encoder
from re_llm.model.generation import generation_config, read_generation
from re_llm.model.hub import locate, read_json, reading
from re_llm.model.inputs import load_tokenizer
from re_llm.model.quantized import quantization
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_speech_encoder
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.trainable import LEARNED
from re_llm.model.weights import (
    Stored,
    below,
    load_into,
    quiet_loading,
    read_weights,
    refuse_non_finite,
    stored_tensors,
)
from re_llm.recipe.options import AdapterOptions, LoraOptions

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration

Name = str | os.PathLike[str]
# Where the tensors of each component are in a checkpoint of ours.
PREFIXES = {"llm": "language_model.", "speech_encoder": "speech_encoder.", "emotion_encoder": "emotion_encoder."}
# Where Whisper's encoder is in a complete Whisper, in a bare one, in a checkpoint of ours.
_WHISPER_PREFIXES = ("model.encoder.", "encoder.", "speech_encoder.whisper.")
_POSITIONS = "embed_positions.weight"


def read_config(folder: Path) -> PretrainedConfig:
    """The config.json of a folder, as transformers reads it.

    Raises:
        RellmError: it is missing or broken, or its model type is unknown.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RellmError(
            f"{folder} holds no config.json", todo="Give the folder of a finished checkpoint; a training writes it last"
        )
    read_json(path)
    with reading(path):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def checkpoint_config(folder: Path) -> ReLlmConfig:
    """The config of a checkpoint of ours.

    Raises:
        RellmError: see `read_config`; or it is the config of another model.
    """
    config = read_config(folder)
    if not isinstance(config, ReLlmConfig):
        raise RellmError(f"{folder} is a {config.model_type} model", allowed="a checkpoint of re-llm")
    return config


def stored_config(name: Name) -> ReLlmConfig:
    """The config of a checkpoint folder, or of one of the hub."""
    return checkpoint_config(locate(name))


def own_tensors(folder: Path, config: ReLlmConfig) -> dict[str, Stored]:
    """Name -> tensor of a checkpoint of ours, those of its adapter that another checkpoint holds among them.

    Raises:
        RellmError: see `stored_tensors`, of either checkpoint.
    """
    stored, other = stored_tensors(folder, allow_pickle=False), config.components.get("adapter")
    if other is None:
        return stored
    held = stored_tensors(locate(other, folder), allow_pickle=False)
    return {name: each for name, each in held.items() if name.startswith("adapter.")} | stored


def speech_config(folder: Path) -> WhisperConfig:
    """The Whisper config in a folder of Whisper or of a checkpoint of ours."""
    config = read_config(folder)
    if isinstance(config, ReLlmConfig):
        config = config.speech_config
    if config.model_type != "whisper":
        raise RellmError(f"{folder} holds a {config.model_type} model", allowed="a Whisper as speech encoder")
    return config


def stored_dtype(folder: Path, prefix: str = "", *, allow_pickle: bool = False) -> torch.dtype:
    """The dtype of a folder's weights below `prefix`: that of their first floating-point tensor."""
    held = stored_tensors(folder, allow_pickle=allow_pickle)
    dtypes = (each.dtype for name, each in held.items() if name.startswith(prefix) and each.dtype.is_floating_point)
    return next(dtypes, torch.float32)


def load_llm(
    folder: Path,
    config: PretrainedConfig | None = None,
    *,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    quantize: str | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """A causal LM from its own folder, or from a checkpoint of ours that holds it.

    Args:
        config: what a checkpoint recorded about it; by default it is read from the folder.
        dtype: None = as stored.
        quantize: `8bit` or `4bit`, on `device`; see `re_llm.model.quantized`.

    Raises:
        RellmError: weights are missing, truncated, of another shape or not finite.
    """
    kind = read_json(folder / "config.json").get("model_type")
    if kind == "qwen":
        raise RellmError(
            f"the LLM in {folder} is a Qwen version 1, which transformers no longer reads",
            todo=f"Convert it once, and name the result instead: re-llm convert {folder} FOLDER",
        )
    inside = kind == ReLlmConfig.model_type
    settings = read_generation(folder)
    prefix = PREFIXES["llm"] if inside else ""
    dtype = dtype or stored_dtype(folder, prefix)
    options: dict[str, object] = {"dtype": dtype, "output_loading_info": True, "trust_remote_code": False}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    where, todo = f"the LLM in {folder}", None
    if quantize is not None:
        options |= {"quantization_config": quantization(quantize, dtype), "device_map": {"": device}}
        where, todo = f"{where}, quantised to {quantize} on {device},", "Leave out quantize, or use a GPU"
    with reading(where, todo), quiet_loading():
        if inside:
            config = config or checkpoint_config(folder).text_config
            made_by, state = AutoModelForCausalLM._model_mapping[type(config)], below(read_weights(folder), prefix)
            model, found = made_by.from_pretrained(None, config=config, state_dict=state, **options)
        else:
            model, found = AutoModelForCausalLM.from_pretrained(folder, config=config, use_safetensors=True, **options)
    if found["missing_keys"]:
        raise RellmError(f"{where} lacks the tensor {sorted(found['missing_keys'])[0]}")
    refuse_non_finite(model.named_parameters(), where)
    if settings:
        model.generation_config = generation_config(folder, settings)
    return model


def load_speech_encoder(
    folder: Path, config: WhisperConfig, window: str, dtype: torch.dtype | None = None
) -> SpeechEncoder:
    """Whisper's encoder from a folder of Whisper or a checkpoint of ours; its decoder is not read.

    Args:
        dtype: None = as stored.

    Raises:
        RellmError: weights are missing, truncated, of another shape or not finite.
    """
    weights = read_weights(folder, _WHISPER_PREFIXES)
    prefix = next((p for p in _WHISPER_PREFIXES if any(key.startswith(p) for key in weights)), "")
    named, where = below(weights, prefix), f"the speech encoder in {folder}"
    with reading(f"{where} or its config"), no_init_weights():
        encoder = SpeechEncoder(config, window).to(dtype or next((w.dtype for w in named.values()), None))
    load_into(encoder.whisper, named, where, optional=(_POSITIONS,))
    if _POSITIONS not in named:  # fixed sinusoids, which a small checkpoint may leave out
        encoder.whisper.embed_positions.weight.data.copy_(sinusoids(config.max_source_positions, config.d_model))
    return encoder


def load_emotion_encoder(
    folder: Path,
    dtype: torch.dtype | None = None,
    *,
    config: PretrainedConfig | None = None,
    outputs: Sequence[str] | None = None,
    allow_pickle: bool = False,
) -> EmotionEncoder | SharedEmotionEncoder:
    """An emotion encoder from a folder, with its regression head if it has one in audeering's format.

    One that shares the speech encoder (`SharedEmotionConfig`) is float32 whatever the dtype.

    Args:
        dtype: None = as stored.
        config, outputs: what a checkpoint recorded about it; by default they are read from the folder.

    Raises:
        RellmError: weights are missing, truncated, of another shape or not finite.
    """
    inside = any(name.startswith(PREFIXES["emotion_encoder"]) for name in stored_tensors(folder))
    prefix = PREFIXES["emotion_encoder"] if inside else ""
    weights = below(read_weights(folder, (prefix,), allow_pickle=allow_pickle), prefix)
    if config is None:
        config = read_config(folder)
        outputs = head_outputs(config, weights)
    where = f"the emotion encoder in {folder}"
    with reading(f"{where} or its config"), no_init_weights():
        encoder = make_emotion_encoder(config, outputs)
    if isinstance(encoder, SharedEmotionEncoder):
        load_into(encoder, weights, where)
        return encoder
    encoder = encoder.to(dtype or next((w.dtype for w in weights.values()), None))
    own = encoder.state_dict()
    named = {key: value for key, value in checkpoint_weights(weights).items() if key in own}
    # SpecAugment's mask vector is only used in training; not every checkpoint has it.
    load_into(encoder, named, where, optional=("backbone.masked_spec_embed",))
    return encoder


def build(
    cls: type[ReLlmForConditionalGeneration],
    llm: Name,
    speech_encoder: Name,
    emotion_encoder: Name | None = None,
    *,
    emotions: Sequence[str] = PROMPT_EMOTIONS,
    fusion: str | None = None,
    speech_window: str = "full",
    adapter: AdapterOptions | Mapping[str, object] | None = None,
    lora: LoraOptions | Mapping[str, object] | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    quantize: str | None = None,
    device: torch.device | None = None,
) -> ReLlmForConditionalGeneration:
    """A fresh model over ready-made components, with their weights frozen and everything else trainable.

    Args:
        llm, speech_encoder, emotion_encoder: folders or hub ids. Without an emotion encoder the fusion is `none`.
        emotions: classes of the categorical head.
        dtype: of the components; `auto` = as each is stored, float16 as float32, whose range gradients need.
            Adapter, heads and LoRA are always float32.
        allow_pickle: also read an emotion encoder that is only there as `pytorch_model.bin`.
        quantize: `8bit` or `4bit`: the LLM alone, on `device`; see `re_llm.model.quantized`.

    Raises:
        RellmError: a component cannot be read, or options contradict each other.
    """
    if (emotion_encoder is None) != ((fusion or ("none" if emotion_encoder is None else "pooled")) == "none"):
        raise RellmError(f"fusion is {fusion!r} and the emotion encoder {emotion_encoder!r}", todo="Change one of them")
    given = {"llm": llm, "speech_encoder": speech_encoder, "emotion_encoder": emotion_encoder}
    names = {part: name for part, name in given.items() if name is not None}
    folders = {part: locate(name) for part, name in names.items()}
    kinds = {part: _frozen_dtype(folder, dtype, allow_pickle) for part, folder in folders.items()}
    emotion = _emotion_encoder(folders, kinds, allow_pickle)
    language_model = load_llm(
        folders["llm"], dtype=kinds["llm"], attn_implementation=attn_implementation, quantize=quantize,
        device=device or torch.device("cpu"),
    )  # fmt: skip
    whisper = speech_config(folders["speech_encoder"])
    config = ReLlmConfig(
        text_config=language_model.config, speech_config=whisper, adapter=adapter, fusion=fusion, emotions=emotions,
        emotion_config=None if emotion is None else emotion.config,
        emotion_outputs=None if emotion is None else emotion.outputs,
        speech_token_id=int(load_tokenizer(folders["llm"]).convert_tokens_to_ids(SPEECH_TOKEN)),
        speech_window=speech_window,
    )  # fmt: skip
    speech = load_speech_encoder(folders["speech_encoder"], whisper, speech_window, kinds["speech_encoder"])
    _refuse_other_whisper(emotion, speech)
    with reading(folders["speech_encoder"] / "config.json"):  # its options go into the adapter as well
        model = cls(config, language_model=language_model, speech_encoder=speech, emotion_encoder=emotion)
    model.component_sources.update({part: _source(names[part], folder) for part, folder in folders.items()})
    adopt_generation_config(model)
    if lora is not None:
        model.add_lora(LoraOptions.read(lora, "lora"))
    model.set_trainable(LEARNED, dtype=torch.float32)
    model.quantized = quantize
    return model.eval()


def _emotion_encoder(
    folders: Mapping[str, Path], kinds: Mapping[str, torch.dtype], allow_pickle: bool
) -> EmotionEncoder | SharedEmotionEncoder | None:
    part = "emotion_encoder"
    return load_emotion_encoder(folders[part], kinds[part], allow_pickle=allow_pickle) if part in folders else None


def _refuse_other_whisper(emotion: EmotionEncoder | SharedEmotionEncoder | None, speech: SpeechEncoder) -> None:
    if isinstance(emotion, SharedEmotionEncoder):
        check_speech_encoder(emotion.config, speech)
        emotion.config.speech_encoder = None  # in this model it is the speech encoder beside it


def _frozen_dtype(folder: Path, dtype: torch.dtype | Literal["auto"], allow_pickle: bool) -> torch.dtype:
    if dtype != "auto":
        return dtype
    found = stored_dtype(folder, allow_pickle=allow_pickle)
    return torch.float32 if found == torch.float16 else found


def _source(name: Name, folder: Path) -> str:
    """How a checkpoint will refer to a component: a local folder by its absolute path, else by its hub id."""
    given = Path(os.fspath(name)).expanduser()
    return str(folder.resolve()) if given.is_dir() else os.fspath(name)


def adopt_generation_config(model: ReLlmForConditionalGeneration) -> None:
    """The LLM's own generation settings; the placeholder is never generated."""
    generation = model.language_model.generation_config
    if model.config.speech_token_id is not None and model.config.speech_token_id < model.config.text_config.vocab_size:
        generation.suppress_tokens = sorted({*(generation.suppress_tokens or []), model.config.speech_token_id})
    model.generation_config = generation
