"""The configs of the released formats, read and written: which one a folder is in, and what its options mean here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Qwen2Config, WhisperConfig

from re_llm.core.errors import RellmError
from re_llm.model.configuration import AdapterSettings, LoraSettings, ReLlmConfig
from re_llm.model.convert.names import LORA_TARGETS
from re_llm.model.stored import Stored

MAX_CONFIG_BYTES = 2**20
# A model is laid out before it is compared with the weights: a config may not ask for one that takes for ever.
MAX_SIZE, MAX_LAYERS = 2**24, 1024
# Order of the five outputs of hidden2emotion in the released code; it is not that of the prompt.
RELEASED_EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")
SCOPES = {"audio": "speech", "text": "text", "global": "global"}
KINDS = ("re-llm", "blsp-emo", "qwen")
_WHISPER = (
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "encoder_layerdrop", "num_mel_bins",
    "max_source_positions", "activation_function", "dropout", "attention_dropout", "activation_dropout",
    "scale_embedding", "vocab_size", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim",
    "max_target_positions", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
_WHISPER_SIZES = (
    "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins", "max_source_positions",
)  # fmt: skip
# Qwen version 1 has these switches; other values would be another model than the one that was released.
_FIXED = {"rotary_pct": 1.0, "no_bias": True, "scale_attn_weights": True, "tie_word_embeddings": False}


def read_json(path: Path) -> dict[str, Any]:
    """A config.json.

    Raises:
        RellmError: it is missing, too large, or no JSON object.
    """
    if not path.is_file():
        raise RellmError(f"there is no {path}", allowed="the folder of a model, with its config.json")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise RellmError(f"{path} has {path.stat().st_size} bytes", allowed=f"at most {MAX_CONFIG_BYTES}")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RellmError(f"{path} is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise RellmError(f"{path} holds no object", allowed="the config of a model")
    return given


def kind_of(config: Mapping[str, Any], where: Path) -> str:
    """`re-llm` (a checkpoint of ours), `blsp-emo` (released BLSP-Emo or RE-LLM), `qwen` (version 1, on its own), or
    `ctranslate2` (Whisper).

    Raises:
        RellmError: none of them.
    """
    if config.get("model_type") == ReLlmConfig.model_type:
        return "re-llm"
    if isinstance(config.get("qwen_config"), dict) and isinstance(config.get("whisper_config"), dict):
        return "blsp-emo"
    if config.get("model_type") == "qwen":
        return "qwen"
    if "model_type" not in config and (where.parent / "model.bin").is_file():
        return "ctranslate2"
    found = config.get("model_type") or ", ".join(config.get("architectures") or []) or "no model type"
    raise RellmError(
        f"{where} is the config of an unknown model ({found})",
        allowed="released checkpoints of BLSP-Emo and RE-LLM, Qwen version 1, Whisper of CTranslate2, GGUF files, "
        "checkpoints of re-llm",
    )


class Options:
    """Access to options of a released config, with errors that name the file and the option."""

    def __init__(self, given: Mapping[str, Any], where: str):
        self.given, self.where = given, where

    def whole(self, name: str, default: int | None = None, least: int = 1, most: int = MAX_SIZE) -> int:
        value = self.given.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise RellmError(f"{self.where}: {name} is {value!r}", allowed=f"a whole number, {least} to {most}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.given.get(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RellmError(f"{self.where}: {name} is {value!r}", allowed="a number")
        return float(value)

    def one_of(self, name: str, allowed: Mapping[str, str], default: str) -> str:
        value = self.given.get(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise RellmError(f"{self.where}: {name} is {value!r}", allowed=", ".join(allowed))
        return allowed[value]


def qwen2_config(given: Mapping[str, Any], where: str) -> Qwen2Config:
    """Qwen version 1 as Qwen2: the same function for rows of up to `seq_length` tokens.

    Beyond `seq_length` the original scales queries by log-n and rotary bases by the row's length (dynamic NTK), which
    Qwen2 does not; `max_position_embeddings` is set to it, and longer rows are refused.

    Raises:
        RellmError: an option that Qwen2 cannot express.
    """
    options = Options(given, where)
    for name, value in _FIXED.items():
        if given.get(name, value) != value:
            raise RellmError(f"{where}: {name} is {given[name]!r}", allowed=f"{value}, as in the released models")
    width, heads = options.whole("hidden_size"), options.whole("num_attention_heads")
    if width % heads or options.whole("kv_channels", width // heads) * heads != width:
        channels = given.get("kv_channels", f"{width}/{heads}")
        raise RellmError(f"{where}: kv_channels {channels} times {heads} attention heads is not {width}")
    return Qwen2Config(
        vocab_size=options.whole("vocab_size"),
        hidden_size=width,
        intermediate_size=options.whole("intermediate_size", least=2) // 2,
        num_hidden_layers=options.whole("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=options.whole("seq_length"),
        rms_norm_eps=options.number("layer_norm_epsilon", 1e-6),
        rope_theta=options.number("rotary_emb_base", 10000.0),
        initializer_range=options.number("initializer_range", 0.02),
        attention_dropout=options.number("attn_dropout_prob", 0.0),
        tie_word_embeddings=False,
        bos_token_id=None,
    )


def stored_dtype(given: Mapping[str, Any], sample: Stored) -> str:
    """The dtype a model is meant to run in: its config's, else that of its weights."""
    named = given.get("torch_dtype") or given.get("dtype")
    return str(named) if named in ("float32", "float16", "bfloat16") else str(sample.dtype).removeprefix("torch.")


def whisper_config(given: Mapping[str, Any], where: str) -> WhisperConfig:
    """Whisper's config without what newer versions of transformers keep elsewhere.

    Raises:
        RellmError: a size that is not a whole number.
    """
    options = Options(given, where)
    for name in _WHISPER_SIZES:
        options.whole(name)
    return WhisperConfig(**{name: given[name] for name in _WHISPER if name in given})


def adapter_settings(given: Mapping[str, Any], where: str, feed_forward: int | None = None) -> AdapterSettings:
    """Options of the adapter.

    Args:
        feed_forward: inner width of a CFormer's layers, which only its weights tell.

    Raises:
        RellmError: another adapter than the released ones.
    """
    options = Options(given, where)
    if options.one_of("adapter_type", {"subsampler": "subsampler", "cformer": "cformer"}, "subsampler") == "cformer":
        return AdapterSettings(
            kind="cformer",
            pre_layers=options.whole("num_pre_cif_layers", 4, least=0),
            post_layers=options.whole("num_post_cif_layers", 4, least=0),
            feed_forward=feed_forward,
        )
    layers = options.whole("adapter_hidden_layers", 0, least=0)
    if layers:
        raise RellmError(
            f"{where}: adapter_hidden_layers is {layers}, and how such layers are named and masked there is not known",
            allowed="0, as in every released checkpoint",
        )
    text = str(given.get("conv_kernel_sizes", "5,5,5"))
    sizes = set(text.split(","))
    if len(sizes) != 1 or not next(iter(sizes)).strip().isdigit():
        raise RellmError(f"{where}: conv_kernel_sizes is {text!r}", allowed="one odd size for every layer, as in 5,5,5")
    return AdapterSettings(
        conv_layers=text.count(",") + 1,
        kernel_size=int(next(iter(sizes))),
        bottleneck=options.whole("adapter_inner_dim", 512),
    )


def lora_settings(given: Mapping[str, Any], where: str) -> LoraSettings | None:
    """Options of the partial LoRA; None when there is none.

    Raises:
        RellmError: a kind of LoRA that was never released.
    """
    lora = given.get("lora_config") or {}
    if not lora:
        return None
    if not isinstance(lora, dict):
        raise RellmError(f"{where}: lora_config is {lora!r}", allowed="an object, or nothing without LoRA")
    if lora.get("bias", "none") != "none" or lora.get("fan_in_fan_out") or lora.get("modules_to_save"):
        raise RellmError(f"{where}: lora_config trains biases or whole modules", allowed="plain LoRA of linear layers")
    targets = lora.get("target_modules") or "nothing"
    unknown = [name for name in targets if name not in LORA_TARGETS] if isinstance(targets, list) else targets
    if unknown:
        raise RellmError(f"{where}: LoRA on {unknown}", allowed=", ".join(LORA_TARGETS))
    options = Options(lora, f"{where}, lora_config")
    scope = Options(given, where).one_of("lora_scope", SCOPES, "audio")
    return LoraSettings(
        r=options.whole("r"),
        alpha=options.whole("lora_alpha"),
        dropout=options.number("lora_dropout", 0.0),
        targets=tuple(each for name in LORA_TARGETS if name in targets for each in LORA_TARGETS[name]),
        scope=scope,
    )


def emotion_names(count: int) -> list[str]:
    """Names of the categorical head's outputs; the released checkpoints have five."""
    return list(RELEASED_EMOTIONS) if count == 5 else [f"emotion_{i}" for i in range(count)]


def released_config(config: ReLlmConfig, where: str) -> dict[str, Any]:
    """A checkpoint's config as the released format spells it.

    Raises:
        RellmError: the LLM is no Qwen version 1 in Qwen2's clothes, or the adapter or LoRA is of another kind.
    """
    text = config.text_config
    grouped = getattr(text, "num_key_value_heads", None) != text.num_attention_heads
    if text.model_type != "qwen2" or grouped or text.tie_word_embeddings or getattr(text, "use_sliding_window", False):
        raise RellmError(
            f"the LLM of {where} is a {text.model_type} that Qwen version 1 cannot express",
            allowed="a converted Qwen version 1: qwen2, as many key as query heads, untied, no sliding window",
        )
    whisper = config.speech_config.to_dict()
    return {
        "adapter_type": config.adapter["kind"],
        **_released_adapter(config.adapter_settings, where),
        "architectures": ["Blsp2Model"],
        "kd_temperature": 2,
        "lora_config": _released_lora(config.lora_settings, where),
        "lora_scope": next(k for k, v in SCOPES.items() if v == (config.lora or {"scope": "speech"})["scope"]),
        "num_emotions": len(config.emotions),
        "qwen_config": _released_qwen(text),
        "torch_dtype": str(config.dtype or "float32").removeprefix("torch."),
        "whisper_config": {"model_type": "whisper", **{name: whisper[name] for name in _WHISPER if name in whisper}},
    }


def _released_adapter(settings: AdapterSettings, where: str) -> dict[str, Any]:
    if settings.kind == "cformer":
        return {"num_pre_cif_layers": settings.pre_layers, "num_post_cif_layers": settings.post_layers}
    if settings.hidden_layers or settings.stride != 2:
        raise RellmError(f"the adapter of {where} is {settings}", allowed="stride 2, no hidden layers, as released")
    return {
        "adapter_hidden_layers": 0,
        "adapter_inner_dim": settings.bottleneck,
        "conv_kernel_sizes": ",".join([str(settings.kernel_size)] * settings.conv_layers),
    }


def _released_lora(settings: LoraSettings | None, where: str) -> dict[str, Any]:
    if settings is None:
        return {}
    chosen = set(settings.targets or ())
    targets = [theirs for theirs, ours in LORA_TARGETS.items() if chosen.issuperset(ours)]
    if {each for theirs in targets for each in LORA_TARGETS[theirs]} != chosen:
        groups = "; ".join(" ".join(ours) for ours in LORA_TARGETS.values())
        raise RellmError(f"the LoRA of {where} is on {', '.join(sorted(chosen))}", allowed=f"whole groups of {groups}")
    return {
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": False,
        "init_lora_weights": True,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "peft_type": "LORA",
        "r": settings.r,
        "target_modules": targets,
        "task_type": None,
    }


def _released_qwen(text: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen",
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": 2 * text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "kv_channels": text.hidden_size // text.num_attention_heads,
        "seq_length": text.max_position_embeddings,
        "max_position_embeddings": text.max_position_embeddings,
        "layer_norm_epsilon": text.rms_norm_eps,
        "rotary_emb_base": int(text.rope_parameters["rope_theta"]),
        "initializer_range": text.initializer_range,
        "attn_dropout_prob": text.attention_dropout,
        "emb_dropout_prob": 0.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "use_cache": True,
        "use_flash_attn": False,
        "bf16": False,
        "fp16": False,
        "fp32": False,
        **_FIXED,
    }
