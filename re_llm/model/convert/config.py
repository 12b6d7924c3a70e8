"""The configs of the released formats, read and written: which one a folder is in, and what its options mean here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator
from transformers import PretrainedConfig, Qwen2Config

from re_llm.core.errors import RellmError
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.convert.names import LORA_TARGETS
from re_llm.model.hub import MAX_LAYERS
from re_llm.model.weights import Stored
from re_llm.recipe.options import AdapterOptions, LoraOptions, Options

# Order of the five outputs of hidden2emotion in the released code; it is not that of the prompt.
RELEASED_EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")
SCOPES = {"audio": "speech", "text": "text", "global": "global"}

Size = Annotated[int, Field(strict=True, ge=1, le=2**24)]
Layers = Annotated[int, Field(strict=True, ge=0, le=MAX_LAYERS)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Id = Annotated[int, Field(strict=True)]


class Released(Options):
    """Base of what a released config.json holds: our names, with theirs as aliases; other options mean nothing here."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, ours: object, where: str, **values: object) -> Self:
        """The options of a config or options of ours that has them under our names, but for `values` by theirs."""
        named = {field.alias or name: getattr(ours, name, None) for name, field in cls.model_fields.items()}
        return cls.read({name: value for name, value in (named | values).items() if value is not None}, where)


class QwenOptions(Released):
    """Qwen version 1 in the names of Qwen2. Literals: other values would be another model than was released."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Annotated[int, Field(strict=True, ge=2, le=2**25)]  # of up and gate together
    num_hidden_layers: Layers
    num_attention_heads: Size
    kv_channels: Size | None = None
    max_position_embeddings: Size = Field(alias="seq_length")
    rms_norm_eps: float = Field(default=1e-6, alias="layer_norm_epsilon")
    rope_theta: float = Field(default=10000, alias="rotary_emb_base")
    initializer_range: float = 0.02
    attention_dropout: Fraction = Field(default=0.0, alias="attn_dropout_prob")
    rotary_pct: Annotated[float, Field(ge=1.0, le=1.0)] = 1.0
    no_bias: Literal[True] = True
    scale_attn_weights: Literal[True] = True
    tie_word_embeddings: Literal[False] = False
    # What the original does beyond `seq_length`, where Qwen2 is refused; kept for the way back.
    use_dynamic_ntk: bool | None = None
    use_logn_attn: bool | None = None


class WhisperOptions(Released):
    """Whisper's config without what newer versions of transformers keep elsewhere."""

    d_model: Size
    encoder_layers: Layers
    encoder_attention_heads: Size
    encoder_ffn_dim: Size
    encoder_layerdrop: Fraction = 0.0
    num_mel_bins: Size
    max_source_positions: Size
    activation_function: str = "gelu"
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    activation_dropout: Fraction = 0.0
    scale_embedding: bool = False
    vocab_size: Size | None = None
    decoder_layers: Layers | None = None
    decoder_attention_heads: Size | None = None
    decoder_ffn_dim: Size | None = None
    max_target_positions: Size | None = None
    pad_token_id: Id | None = None
    bos_token_id: Id | None = None
    eos_token_id: Id | list[Id] | None = None
    decoder_start_token_id: Id | None = None


class PeftOptions(Released):
    """LoRA of linear layers alone."""

    r: Size
    alpha: Size = Field(alias="lora_alpha")
    dropout: Fraction = Field(default=0.0, alias="lora_dropout")
    target_modules: Annotated[tuple[Literal["c_attn", "c_proj", "w1", "w2"], ...], Field(min_length=1)]
    bias: Literal["none"] = "none"
    fan_in_fan_out: Literal[False] = False
    modules_to_save: None = None


class ReleasedConfig(Released):
    """A checkpoint of BLSP-Emo or RE-LLM."""

    qwen_config: QwenOptions
    whisper_config: WhisperOptions
    kind: Literal["subsampler", "cformer"] = Field(default="subsampler", alias="adapter_type")
    hidden_layers: Layers = Field(default=0, alias="adapter_hidden_layers")
    bottleneck: Size = Field(default=512, alias="adapter_inner_dim")
    conv_kernel_sizes: str = "5,5,5"
    pre_layers: Layers = Field(default=4, alias="num_pre_cif_layers")
    post_layers: Layers = Field(default=4, alias="num_post_cif_layers")
    num_emotions: Size | None = None
    lora_config: PeftOptions | None = None
    lora_scope: Literal["audio", "text", "global"] = "audio"

    @field_validator("lora_config", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("conv_kernel_sizes", mode="before")
    @classmethod
    def _one_size(cls, value: object) -> str:
        sizes = str(value).replace(" ", "").split(",")
        if len(set(sizes)) != 1 or not (sizes[0].isascii() and sizes[0].isdigit() and len(sizes[0]) < 4):
            raise ValueError(f"{str(value)[:80]!r} is not one odd size for every layer, as in 5,5,5")
        return ",".join(sizes)

    def adapter(self, where: str) -> AdapterOptions:
        """Our options of its adapter."""
        if self.kind == "cformer":
            return AdapterOptions.read(self.model_dump(include={"kind", "pre_layers", "post_layers"}), where)
        sizes = self.conv_kernel_sizes.split(",")
        given = self.model_dump(include={"hidden_layers", "bottleneck"})
        return AdapterOptions.read({**given, "conv_layers": len(sizes), "kernel_size": int(sizes[0])}, where)

    def lora(self, where: str) -> LoraOptions | None:
        """Our options of its partial LoRA; None when there is none."""
        if self.lora_config is None:
            return None
        given = self.lora_config.model_dump(include={"r", "alpha", "dropout"})
        modules = self.lora_config.target_modules
        targets = [each for name in LORA_TARGETS if name in modules for each in LORA_TARGETS[name]]
        return LoraOptions.read({**given, "targets": targets, "scope": SCOPES[self.lora_scope]}, where)


def kind_of(config: Mapping[str, object], where: Path) -> str:
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
    found = config.get("model_type") or config.get("architectures") or "no model type"
    named = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    raise RellmError(
        f"{where} is the config of an unknown model ({named[:200]})",
        allowed="released checkpoints of BLSP-Emo and RE-LLM, Qwen version 1, Whisper of CTranslate2, GGUF files, "
        "checkpoints of re-llm",
    )


def qwen2_config(qwen: QwenOptions, where: str) -> Qwen2Config:
    """Qwen version 1 as Qwen2: the same function for rows of up to `seq_length` tokens.

    Beyond `seq_length` the original scales queries by log-n and rotary bases by the row's length (dynamic NTK), which
    Qwen2 does not; `max_position_embeddings` is set to it, and longer rows are refused.

    Raises:
        RellmError: the heads do not fill the width.
    """
    width, heads = qwen.hidden_size, qwen.num_attention_heads
    if width % heads or (qwen.kv_channels or width // heads) * heads != width:
        channels = qwen.kv_channels or f"{width}/{heads}"
        raise RellmError(f"{where}: kv_channels {channels} times {heads} attention heads is not {width}")
    given = qwen.model_dump(exclude={"kv_channels", "rotary_pct", "no_bias", "scale_attn_weights"}, exclude_none=True)
    halved = {"intermediate_size": qwen.intermediate_size // 2, "num_key_value_heads": heads, "bos_token_id": None}
    return Qwen2Config(**{**given, **halved})


def intended_dtype(given: Mapping[str, object], sample: Stored | None) -> str:
    """The dtype a model is meant to run in: its config's, else that of its weights."""
    named = given.get("torch_dtype") or given.get("dtype")
    if named not in ("float32", "float16", "bfloat16"):
        named = "float32" if sample is None else str(sample.dtype).removeprefix("torch.")
    return str(named)


def emotion_names(count: int) -> list[str]:
    """Names of the categorical head's outputs; the released checkpoints have five."""
    return list(RELEASED_EMOTIONS) if count == 5 else [f"emotion_{i}" for i in range(count)]


def released_config(config: ReLlmConfig, where: str) -> dict[str, object]:
    """A checkpoint's config as the released format spells it.

    Raises:
        RellmError: the LLM is no converted Qwen version 1, or the adapter or LoRA is of another kind.
    """
    adapter, lora, text = config.adapter, config.lora, config.text_config
    if adapter.stride != 2:
        raise RellmError(f"the adapter of {where} has the stride {adapter.stride}", allowed="2, as released")
    if adapter.units:
        raise RellmError(f"the adapter of {where} predicts units between its layers", allowed="none, as released")
    if adapter.spoken_only:
        raise RellmError(f"the LLM of {where} is not given all speech tokens", allowed="all, as released")
    released = ReleasedConfig.of(
        adapter,
        where,
        qwen_config=_released_qwen(text, where),
        whisper_config=WhisperOptions.of(config.speech_config, f"{where}, speech_config"),
        conv_kernel_sizes=",".join([str(adapter.kernel_size)] * adapter.conv_layers),
        num_emotions=len(config.emotions),
        lora_config=lora and PeftOptions.of(lora, where, target_modules=_released_targets(lora, where)),
        lora_scope=lora and next(theirs for theirs, ours in SCOPES.items() if ours == lora.scope),
    ).model_dump(mode="json", by_alias=True, exclude_none=True)
    switches = dict.fromkeys(("use_flash_attn", "bf16", "fp16", "fp32"), False)
    length = {"max_position_embeddings": text.max_position_embeddings}
    released["qwen_config"] |= {"model_type": "qwen", "use_cache": True, **length, **switches}
    released["whisper_config"]["model_type"] = "whisper"
    peft = {"inference_mode": False, "init_lora_weights": True, "peft_type": "LORA", "task_type": None}
    released["lora_config"] = {} if lora is None else {**released["lora_config"], **peft}
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    return {"architectures": ["Blsp2Model"], "kd_temperature": 2, "torch_dtype": dtype, **released}


def _released_qwen(text: PretrainedConfig, where: str) -> QwenOptions:
    grouped = getattr(text, "num_key_value_heads", None) != text.num_attention_heads
    if text.model_type != "qwen2" or grouped or text.tie_word_embeddings or getattr(text, "use_sliding_window", False):
        raise RellmError(
            f"the LLM of {where} is a {text.model_type} that Qwen version 1 cannot express",
            allowed="a converted Qwen version 1: qwen2, as many key as query heads, untied, no sliding window",
        )
    return QwenOptions.of(
        text,
        f"{where}, text_config",
        intermediate_size=2 * text.intermediate_size,
        kv_channels=text.hidden_size // text.num_attention_heads,
        rotary_emb_base=text.rope_parameters["rope_theta"],
    )


def _released_targets(lora: LoraOptions, where: str) -> list[str]:
    chosen = set(lora.targets or ())
    targets = [theirs for theirs, ours in LORA_TARGETS.items() if chosen.issuperset(ours)]
    if {each for theirs in targets for each in LORA_TARGETS[theirs]} != chosen or not targets:
        groups = "; ".join(" ".join(ours) for ours in LORA_TARGETS.values())
        raise RellmError(f"the LoRA of {where} is on {', '.join(sorted(chosen))}", allowed=f"whole groups of {groups}")
    return targets
