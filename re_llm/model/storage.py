"""Checkpoint folders.

- `config.json`: ReLlmConfig; `components` says where the weights of the named components are.
- `model.safetensors`: adapter, heads, and the components that are not named.
- `adapter_config.json`, `adapter_model.safetensors`: LoRA as ordinary PEFT files, when there is LoRA.
- `generation_config.json`: the LLM's generation settings.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from re_llm.core.errors import RellmError
from re_llm.core.files import new_folder
from re_llm.llm.device import pick_device
from re_llm.model import components, partial_lora
from re_llm.model.components import PREFIXES
from re_llm.model.configuration import COMPONENTS, ReLlmConfig
from re_llm.model.generation import generation_config, read_generation
from re_llm.model.hub import locate, reading
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_speech_encoder
from re_llm.model.trainable import LEARNED
from re_llm.model.weights import (
    LORA_CONFIG,
    LORA_FOLDER,
    LORA_WEIGHTS,
    WEIGHTS,
    below,
    check_same,
    lora_weights,
    refuse_non_finite,
)

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration

_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")
_OWN = ("adapter.", "emotion_head.", "dimension_head.", "ctc_blank")  # what no component holds
_WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json", LORA_CONFIG, LORA_WEIGHTS)
# What AutoModel passes along and what has no meaning here.
_PASSED_OVER = {
    "_from_auto", "adapter_kwargs", "code_revision", "force_download", "low_cpu_mem_usage", "proxies",
    "trust_remote_code", "use_safetensors",
}  # fmt: skip


def save(
    model: ReLlmForConditionalGeneration,
    folder: str | os.PathLike[str],
    *,
    self_contained: bool = False,
    state_dict: Mapping[str, Tensor] | None = None,
    is_main_process: bool | None = None,
    max_shard_size: int | str = "50GB",
    push_to_hub: bool = False,
    **hub: Any,
) -> None:
    """Writes a checkpoint folder.

    Args:
        self_contained: store the named components too, so that the folder stands alone.
        state_dict: weights to write instead of the model's own, as transformers' Trainer gathers them.
        is_main_process: False writes nothing. Trainer gives it, and resumes from `model.safetensors` alone: when it is
            given, LoRA is in that file too.
        push_to_hub: upload the folder afterwards; `hub` goes to `push_to_hub` (repo_id, private, token ...).
    """
    target = Path(folder)
    named = {} if self_contained else {k: v for k, v in model.component_sources.items() if v is not None}
    if model.quantized and "llm" not in named:
        raise RellmError(
            f"an LLM that is quantised to {model.quantized} is not saved", todo="Load it without `quantize`"
        )
    if is_main_process is False:
        return
    state = model.state_dict() if state_dict is None else state_dict
    with new_folder(target) as new:  # a crash while writing leaves the former files whole
        weights = own_weights(model, state, named)
        if is_main_process:
            weights |= {name: value.contiguous() for name, value in state.items() if ".lora_" in name}
        save_torch_state_dict(weights, new, max_shard_size=max_shard_size, metadata={"format": "pt"})
        _save_lora(model, state, named, new, target)
        _save_config(model, named, new, target)
        _remove_others(new, target)
    if push_to_hub:
        push(model, hub.pop("repo_id", target.name), **hub)


def _remove_others(new: Path, target: Path) -> None:
    """Removes weights of a former save that the new one does not replace."""
    for pattern in _WEIGHT_FILES:
        for old in target.glob(pattern):
            if not (new / old.name).exists():
                old.unlink()


def push(
    model: ReLlmForConditionalGeneration,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Uploads a checkpoint to the hub; components that come from local folders are stored in it.

    The PEFT files go to the subfolder `lora`: at the top of a repository they would make AutoModel load the LLM that
    they name instead of the whole model. PEFT reads them with `subfolder="lora"`.

    Returns:
        the address of the commit.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    repo_id = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
    local = any(source is not None and os.path.isabs(source) for source in model.component_sources.values())
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, self_contained=local)
        _move_lora(Path(folder))
        message = commit_message or "Upload a RE-LLM checkpoint"
        return str(hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url)


def _move_lora(folder: Path) -> None:
    for name in (LORA_CONFIG, LORA_WEIGHTS):
        if (folder / name).is_file():
            (folder / LORA_FOLDER).mkdir(exist_ok=True)
            os.replace(folder / name, folder / LORA_FOLDER / name)


def _save_config(model: ReLlmForConditionalGeneration, named: Mapping[str, str], new: Path, target: Path) -> None:
    """Into the folder `new`, with relative paths as seen from `target`."""
    before = model.config.components
    model.config.components = {name: _relative(named.get(name), target) for name in before}
    model.config.architectures = [type(model).__name__]
    text = model.config.text_config
    how = text.__dict__.pop("quantization_config", None) if model.quantized else None  # of this run, not of the weights
    for part, config in _dtypes(model).items():
        config.dtype = str(part.dtype).removeprefix("torch.")
    try:
        model.config.save_pretrained(new)
    finally:
        model.config.components = before
        if how is not None:
            text.quantization_config = how
    model.generation_config.save_pretrained(new)


def _dtypes(model: ReLlmForConditionalGeneration) -> dict[nn.Module, PreTrainedConfig]:
    """Part -> the config that says its dtype."""
    found = {model.adapter: model.config, model.language_model: model.config.text_config}
    found[model.speech_encoder] = model.config.speech_config
    return found if model.emotion_encoder is None else {**found, model.emotion_encoder: model.config.emotion_config}


def _relative(source: str | None, target: Path) -> str | None:
    if source is None or not os.path.isabs(source):
        return source
    return Path(os.path.relpath(source, target.resolve())).as_posix()


def own_weights(
    model: ReLlmForConditionalGeneration, state: Mapping[str, Tensor], named: Mapping[str, str]
) -> dict[str, Tensor]:
    """What model.safetensors holds: no LoRA, no named component, no tensor twice."""
    skipped = tuple(PREFIXES[name] for name in named)
    bare, _ = partial_lora.split_weights(state)
    tied = tied_names(model)
    return {key: value.contiguous() for key, value in bare.items() if not key.startswith(skipped) and key not in tied}


def tied_names(model: ReLlmForConditionalGeneration) -> set[str]:
    """Names of weights that are another weight of the LLM (the output layer of many small ones)."""
    return {f"language_model.{key}" for key in getattr(model.language_model, "all_tied_weights_keys", None) or {}}


def _save_lora(
    model: ReLlmForConditionalGeneration,
    state: Mapping[str, Tensor],
    named: Mapping[str, str],
    new: Path,
    target: Path,
) -> None:
    if model.config.lora is None:
        return
    weights = partial_lora.split_weights(below(state, PREFIXES["llm"]))[1]
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    save_file(contiguous, new / LORA_WEIGHTS, metadata={"format": "pt"})
    partial_lora.save_config(model.language_model, new, _relative(named.get("llm"), target))


def load(
    cls: type[ReLlmForConditionalGeneration],
    name: str | os.PathLike[str],
    *,
    config: ReLlmConfig | None = None,
    dtype: torch.dtype | str | None = "auto",
    trainable_dtype: torch.dtype | None = None,
    device_map: str | int | torch.device | Mapping[str, str | int | torch.device] | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    quantize: str | None = None,
    **others: Any,
) -> ReLlmForConditionalGeneration:
    """The model of a checkpoint folder, in eval mode, nothing trainable but adapter, heads and LoRA.

    Args:
        name: folder or hub id.
        dtype: of everything; "auto" is what the config says of each part, else of the whole, else as it is stored.
        trainable_dtype: of adapter, heads and LoRA, when it differs (training over a 16-bit LLM).
        device_map: one device, or "auto" for the GPU if there is one.
        attn_implementation: of the LLM and the encoders, in transformers' names.
        allow_pickle: also read a named emotion encoder that is only there as `pytorch_model.bin`.
        quantize: `8bit` or `4bit`: the LLM alone, for answering; see `re_llm.model.quantized`.
        others: `revision`, `token`, `cache_dir`, `local_files_only` for the hub.

    Raises:
        RellmError: a file or tensor is missing, truncated, of another shape or not finite; names it.
    """
    dtype = others.pop("torch_dtype", dtype)
    download = {option: others.pop(option, None) for option in _HUB_OPTIONS}
    if unknown := sorted(set(others) - _PASSED_OVER):
        raise RellmError(f"from_pretrained takes no option {unknown[0]!r} here", todo="Leave it out")
    folder, where = locate(name, **download), _device(device_map)
    config = components.checkpoint_config(folder) if config is None else config
    if not isinstance(config, ReLlmConfig):
        raise RellmError(f"{folder} is a {config.model_type} model", allowed="a checkpoint of re-llm")
    if attn_implementation:
        config._attn_implementation = attn_implementation  # transformers hands it to the configs of the parts
    places = {p: folder if s is None else locate(s, folder, **download) for p, s in config.components.items()}
    llm = components.load_llm(
        places["llm"],
        config.text_config,
        dtype=_dtype(dtype, config.text_config, config),
        attn_implementation=attn_implementation,
        quantize=quantize,
        device=where or torch.device("cpu"),
    )
    model = _assemble(cls, config, folder, places, llm, dtype, allow_pickle)
    model.quantized = quantize
    _read_own(model, folder, _OWN)
    config.components.pop("adapter", None)  # whole now: saved, it needs no other
    if settings := read_generation(folder):
        model.generation_config = generation_config(folder, settings)
    learned = trainable_dtype or _dtype(dtype, config) or components.stored_dtype(folder, _OWN[0])
    model.set_trainable(LEARNED, dtype=learned)
    model.name_or_path = config.name_or_path = str(name)
    return model.to(where).eval()


def _assemble(
    cls: type[ReLlmForConditionalGeneration],
    config: ReLlmConfig,
    folder: Path,
    places: Mapping[str, Path],
    llm: PreTrainedModel,
    dtype: torch.dtype | str | None,
    allow_pickle: bool,
) -> ReLlmForConditionalGeneration:
    """The model with the weights of its components; adapter, heads and LoRA have none yet."""
    whisper, wav2vec2 = config.speech_config, config.emotion_config
    speech = components.load_speech_encoder(
        places["speech_encoder"], whisper, config.speech_window, _dtype(dtype, whisper, config)
    )
    emotion = None
    if wav2vec2 is not None:
        emotion = components.load_emotion_encoder(
            places["emotion_encoder"],
            _dtype(dtype, wav2vec2, config),
            config=wav2vec2,
            outputs=config.emotion_outputs,
            allow_pickle=allow_pickle,
        )
    if isinstance(emotion, SharedEmotionEncoder):
        check_speech_encoder(emotion.config, speech)
    lora, config.lora = config.lora, None
    with reading(folder / "config.json"), no_init_weights():
        model = cls(config, language_model=llm, speech_encoder=speech, emotion_encoder=emotion)
    if lora is not None:
        model.add_lora(lora)
    for part in COMPONENTS:
        source = config.components[part]
        if source is not None:
            named = (folder / source).is_dir()
            model.component_sources[part] = str(places[part].resolve()) if named else source
    return model


def load_trained(model: ReLlmForConditionalGeneration, folder: str | os.PathLike[str]) -> None:
    """Reads a checkpoint's own weights, in place: all but those of the named components. For resuming a training.

    Raises:
        RellmError: a file or tensor is missing, truncated, of another shape or not finite; names it.
    """
    _read_own(model, Path(folder), ("",))


def _read_own(model: ReLlmForConditionalGeneration, folder: Path, prefixes: tuple[str, ...]) -> None:
    """Checks all names and shapes, and reads the tensors below `prefixes`, and LoRA."""
    named = {part: source for part, source in model.component_sources.items() if source is not None}
    held = components.own_tensors(folder, model.config)
    stored = {name: each for name, each in held.items() if ".lora_" not in name}
    if model.quantized:
        named["llm"] = "read and quantised already"
        stored = {name: each for name, each in stored.items() if not name.startswith(PREFIXES["llm"])}
    where = folder / WEIGHTS
    expected = own_weights(model, model.state_dict(), named)
    check_same(expected, {name: each.meta() for name, each in stored.items()}, where)
    weights = {name: each.read() for name, each in stored.items() if name.startswith(prefixes)}
    refuse_non_finite(weights.items(), where)
    nn.Module.load_state_dict(model, model.own_names(weights), strict=False)
    if model.config.lora is not None:
        partial_lora.load_weights(model.language_model, *lora_weights(folder))


def _dtype(dtype: torch.dtype | str | None, *configs: PreTrainedConfig) -> torch.dtype | None:
    """The dtype that was asked for, or for "auto" that of the first config that names one; None = as stored."""
    if dtype in ("auto", None):
        dtype = next((config.dtype for config in configs if config.dtype is not None), None)
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise RellmError(f"dtype is {dtype!r}", allowed="auto, float32, bfloat16, float16")
    return found


def _device(
    device_map: str | int | torch.device | Mapping[str, str | int | torch.device] | None,
) -> torch.device | None:
    if device_map is None:
        return None
    if device_map == "auto":
        return pick_device()
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        device_map = device_map[""]
    if isinstance(device_map, str | int | torch.device):
        return torch.device(device_map)
    raise RellmError(f"device_map is {device_map!r}", allowed="one device, or auto")
