"""Checkpoint folders.

- `config.json`: ReLlmConfig; `components` says where the weights of the named components are.
- `model.safetensors`: adapter, heads, and the components that are not named.
- `adapter_config.json`, `adapter_model.safetensors`: LoRA as ordinary PEFT files, when there is LoRA.
- `generation_config.json`: the LLM's generation settings.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.initialization import no_init_weights

from re_llm.core.errors import RellmError
from re_llm.llm.device import pick_device
from re_llm.model import components, partial_lora
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.emotion_encoder import make_emotion_encoder
from re_llm.model.hub import locate
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_hearing
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.weights import LORA_CONFIG, LORA_FOLDER, LORA_WEIGHTS, check_same, lora_weights, read_weights

_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")
_PREFIXES = {"llm": "language_model.", "speech_encoder": "speech_encoder.", "emotion_encoder": "emotion_encoder."}
_BESIDE_LLM = ("adapter.", "emotion_head.", "dimension_head.", "ctc_blank", "speech_encoder.", "emotion_encoder.")
_WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json", LORA_CONFIG, LORA_WEIGHTS)
# What AutoModel passes along and what has no meaning here.
_PASSED_OVER = {
    "_from_auto", "adapter_kwargs", "code_revision", "force_download", "low_cpu_mem_usage", "proxies",
    "trust_remote_code", "use_safetensors",
}  # fmt: skip


def save(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    self_contained: bool = False,
    state_dict: Mapping[str, Tensor] | None = None,
    is_main_process: bool = True,
    max_shard_size: int | str = "50GB",
    push_to_hub: bool = False,
    **hub: Any,
) -> None:
    """Writes a checkpoint folder.

    Args:
        self_contained: store the named components too, so that the folder stands alone.
        state_dict: weights to write instead of the model's own (transformers' Trainer gathers them).
        push_to_hub: upload the folder afterwards; `hub` goes to `push_to_hub` (repo_id, private, token ...).
    """
    target = Path(folder)
    if model.quantized:
        raise RellmError(
            f"a model whose LLM is quantised to {model.quantized} is not saved", todo="Load it without `quantize`"
        )
    if not is_main_process:
        return
    target.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state_dict is None else state_dict
    named = {} if self_contained else {k: v for k, v in model.component_sources.items() if v is not None}
    with tempfile.TemporaryDirectory(dir=target) as new:  # a crash while writing leaves the former files whole
        weights = own_weights(model, state, named)
        save_torch_state_dict(weights, new, max_shard_size=max_shard_size, metadata={"format": "pt"})
        _save_lora(model, state, named, Path(new), target)
        _replace(Path(new), target)
    _save_config(model, named, target)
    if push_to_hub:
        push(model, hub.pop("repo_id", target.name), **hub)


def _replace(new: Path, target: Path) -> None:
    """Moves written files into their place; those of a former save that had more of them go."""
    written = {path.name for path in new.iterdir()}
    for pattern in _WEIGHT_FILES:
        for old in target.glob(pattern):
            if old.name not in written:
                old.unlink()
    for name in written:
        os.replace(new / name, target / name)


def push(
    model: Any,
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


def _save_config(model: Any, named: Mapping[str, str], target: Path) -> None:
    before = model.config.components
    model.config.components = {name: _relative(named.get(name), target) for name in before}
    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.adapter.dtype).removeprefix("torch.")
    try:
        model.config.save_pretrained(target)
    finally:
        model.config.components = before
    model.generation_config.save_pretrained(target)


def _relative(source: str | None, target: Path) -> str | None:
    if source is None or not os.path.isabs(source):
        return source
    return Path(os.path.relpath(source, target.resolve())).as_posix()


def own_weights(model: Any, state: Mapping[str, Tensor], named: Mapping[str, str]) -> dict[str, Tensor]:
    """What model.safetensors holds: no LoRA, no named component, no tensor twice."""
    skipped = tuple(_PREFIXES[name] for name in named)
    bare, _ = partial_lora.split_weights(state)
    tied = tied_names(model)
    return {key: value.contiguous() for key, value in bare.items() if not key.startswith(skipped) and key not in tied}


def tied_names(model: Any) -> set[str]:
    """Names of weights that are another weight of the LLM (the output layer of many small ones)."""
    return {f"language_model.{key}" for key in getattr(model.language_model, "all_tied_weights_keys", None) or {}}


def _save_lora(model: Any, state: Mapping[str, Tensor], named: Mapping[str, str], new: Path, target: Path) -> None:
    if model.config.lora is None:
        return
    below = {k.removeprefix("language_model."): v for k, v in state.items() if k.startswith("language_model.")}
    weights = {key: value.contiguous() for key, value in partial_lora.split_weights(below)[1].items()}
    save_file(weights, new / LORA_WEIGHTS, metadata={"format": "pt"})
    config = copy.copy(model.language_model.peft_config[partial_lora.ADAPTER_NAME])
    config.inference_mode = True
    config.base_model_name_or_path = _relative(named.get("llm"), target)
    config.save_pretrained(new)


def load(
    cls: Any,
    name: str | os.PathLike[str],
    *,
    config: ReLlmConfig | None = None,
    dtype: torch.dtype | str | None = "auto",
    trainable_dtype: torch.dtype | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
    quantize: str | None = None,
    **kwargs: Any,
) -> Any:
    """The model of a checkpoint folder, in eval mode, nothing trainable but adapter, heads and LoRA.

    Args:
        name: folder or hub id.
        dtype: of everything; "auto" is what the checkpoint was trained in.
        trainable_dtype: of adapter, heads and LoRA, when it differs (training over a 16-bit LLM).
        device_map: one device, or "auto" for the GPU if there is one.
        allow_pickle: also read a named emotion encoder that is only there as `pytorch_model.bin`.
        quantize: `8bit` or `4bit`: the LLM alone, for answering; see `re_llm.model.quantized`.
        kwargs: `revision`, `token`, `cache_dir`, `local_files_only` for the hub.

    Raises:
        RellmError: a file or tensor is missing, truncated or of another shape; names it.
    """
    unknown = sorted(set(kwargs) - _PASSED_OVER - set(_HUB_OPTIONS) - {"torch_dtype"})
    if unknown:
        raise RellmError(f"from_pretrained takes no option {unknown[0]!r} here", todo="Leave it out")
    dtype = kwargs.get("torch_dtype", dtype)
    download: dict[str, Any] = {key: kwargs.get(key) for key in _HUB_OPTIONS}
    folder = locate(name, **download)
    config = config if config is not None else components.read_config(folder)
    if not isinstance(config, ReLlmConfig):
        raise RellmError(f"{folder} is a {config.model_type} model", allowed="a checkpoint of re-llm")
    if attn_implementation:
        config._attn_implementation = attn_implementation
    kind = _dtype(dtype if dtype is not None else "auto", config)
    where = _device(device_map)
    llm = None if quantize is None else _quantized(config, folder, quantize, kind, where, download)
    model = _assemble(cls, config, folder, kind, allow_pickle, download, llm)
    model.quantized = quantize
    settings = config.lora_settings
    if settings is not None:
        config.lora = None
        model.add_lora(settings)
    load_trained(model, folder)
    for key, parameter in model.named_parameters():  # not the buffers: rotary frequencies stay exact
        learns = trainable_dtype is not None and model._part_of(key) in ("adapter", "heads", "lora")
        if parameter.is_floating_point():  # quantised weights are whole numbers
            parameter.data = parameter.data.to(trainable_dtype if learns else kind)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    model.set_trainable(("adapter", "heads", "lora"))
    model.name_or_path = config.name_or_path = str(name)
    return model.to(where).eval()


def _quantized(
    config: ReLlmConfig, folder: Path, kind: str, dtype: torch.dtype, where: torch.device | None, download: Any
) -> Any:
    """The LLM of a checkpoint, named or stored in it, quantised on its device."""
    from re_llm.model.quantized import load_quantized, quantization

    quantization(kind, dtype)  # what cannot be is said before gigabytes are read
    name = config.components.get("llm")
    source: Path | dict[str, Tensor]
    if name is not None:
        source = locate(name, folder, **download)
    else:
        stored = read_weights(folder, (_PREFIXES["llm"],))
        source = {key.removeprefix(_PREFIXES["llm"]): value for key, value in stored.items()}
    return load_quantized(source, config.text_config, kind, dtype, where or torch.device("cpu"))


def _assemble(
    cls: Any, config: ReLlmConfig, folder: Path, dtype: torch.dtype, pickle: bool, download: Any, llm: Any = None
) -> Any:
    """The model with its named components read, and the others still without weights."""
    places = {k: locate(v, folder, **download) for k, v in config.components.items() if v is not None}
    if llm is None and "llm" in places:
        llm = components.load_llm(places["llm"], config.text_config, dtype=dtype)
    elif llm is None:
        with no_init_weights():
            llm = AutoModelForCausalLM.from_config(config.text_config, dtype=dtype)
    if "speech_encoder" in places:
        speech = components.load_speech_encoder(
            places["speech_encoder"], config.speech_config, config.speech_window, dtype
        )
    else:
        with no_init_weights():
            speech = SpeechEncoder(config.speech_config, config.speech_window)
    emotion = None
    if config.emotion_config is not None and "emotion_encoder" in places:
        emotion = components.load_emotion_encoder(
            places["emotion_encoder"],
            dtype,
            config=config.emotion_config,
            outputs=config.emotion_outputs,
            allow_pickle=pickle,
        )
    elif config.emotion_config is not None:
        with no_init_weights():
            emotion = make_emotion_encoder(config.emotion_config, config.emotion_outputs)
    if isinstance(emotion, SharedEmotionEncoder) and "speech_encoder" in places:
        check_hearing(config.emotion_config, speech)
    model = cls(config, language_model=llm, speech_encoder=speech, emotion_encoder=emotion)
    for part, place in places.items():
        given = str(config.components[part])
        model.component_sources[part] = str(place.resolve()) if (folder / given).is_dir() else given
    return model


def load_trained(model: Any, folder: str | os.PathLike[str]) -> None:
    """Reads a checkpoint's own weights, in place: all but those of the named components.

    Raises:
        RellmError: a file or tensor is missing, truncated or of another shape; names it.
    """
    place = Path(folder)
    named = {k: v for k, v in model.component_sources.items() if v is not None}
    if model.quantized:
        named["llm"] = "read, and quantised, already"
    weights = read_weights(place, _BESIDE_LLM if model.quantized else ("",))
    expected = own_weights(model, model.state_dict(), named)
    check_same(expected, weights, place / "model.safetensors")
    model.load_state_dict(_with_lora_names(model, weights), strict=False)
    model.language_model.tie_weights()
    if model.config.lora is not None:
        partial_lora.load_weights(model.language_model, *lora_weights(place))


def _with_lora_names(model: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bare names turned into those of a model whose linear layers PEFT has wrapped."""
    own = {key.replace(".base_layer.", "."): key for key in model.state_dict() if ".lora_" not in key}
    return {own[key]: value for key, value in weights.items()}


def _dtype(dtype: torch.dtype | str, config: ReLlmConfig) -> torch.dtype:
    if dtype == "auto":
        dtype = config.dtype or torch.float32
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise RellmError(f"dtype is {dtype!r}", allowed="auto, float32, bfloat16, float16")
    return found


def _device(device_map: Any) -> torch.device | None:
    if device_map is None:
        return None
    if device_map == "auto":
        return pick_device()
    if isinstance(device_map, str | int | torch.device):
        return torch.device(device_map)
    if isinstance(device_map, Mapping) and set(device_map) == {""}:
        return torch.device(device_map[""])
    raise RellmError(f"device_map is {device_map!r}", allowed="one device, or auto")
