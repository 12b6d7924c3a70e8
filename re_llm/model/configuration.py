"""What a checkpoint's config.json says: the three components, the adapter between them, LoRA, emotions.

No torch here: the processor and `re-llm doctor` read it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.model.shared_emotion_config import SharedEmotionConfig

SPEECH_TOKEN = "<|speech|>"
# The order of every [.., 3] tensor of emotion dimensions in this package; other orders are mapped by name.
DIMENSIONS = ("valence", "arousal", "dominance")
COMPONENTS = ("llm", "speech_encoder", "emotion_encoder")
FUSIONS = ("pooled", "frames", "none")
WINDOWS = ("full", "trimmed")
SCOPES = ("speech", "text", "global")

SettingsType = TypeVar("SettingsType", bound="_Settings")


def _require(option: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise RellmError(f"{option} is {value!r}", allowed=", ".join(map(str, allowed)))


@dataclass(frozen=True)
class _Settings:
    """Base of the option groups that config.json holds as plain objects."""

    @classmethod
    def read(cls: type[SettingsType], value: SettingsType | Mapping[str, Any] | None) -> SettingsType:
        """Settings from a config.json object, a pydantic model, or themselves; None gives the defaults.

        Raises:
            RellmError: an unknown key or a contradiction.
        """
        if isinstance(value, cls):
            return value
        dump = getattr(value, "model_dump", None)
        given: dict[str, Any] = dump() if dump is not None else dict(value or {})  # type: ignore[arg-type]
        known = [f.name for f in fields(cls)]
        unknown = [name for name in given if name not in known]
        if unknown:
            raise RellmError(f"unknown option {unknown[0]!r} of {cls.__name__}", allowed=", ".join(known))
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class AdapterSettings(_Settings):
    """The adapter between the encoders and the LLM (RE-LLM section II-A; widths from the released code).

    Attributes:
        kind: `subsampler`, or `cformer` (BLSP-Emo's code), whose number of tokens depends on the recording.
        conv_layers: number of convolutions, each followed by a GLU and shortening the sequence by `stride`.
        kernel_size: odd; the padding is kernel_size // 2.
        bottleneck: width of the residual bottleneck behind the convolutions.
        hidden_layers: Whisper encoder layers inside the bottleneck, in place of its GELU.
        pre_layers, post_layers: of a cformer, layers in front of integrate-and-fire and behind it.
        feed_forward: of a cformer, inner width of these layers; None = four times their width.
    """

    kind: str = "subsampler"
    conv_layers: int = 3
    kernel_size: int = 5
    stride: int = 2
    bottleneck: int = 512
    hidden_layers: int = 0
    pre_layers: int = 4
    post_layers: int = 4
    feed_forward: int | None = None

    def __post_init__(self) -> None:
        _require("adapter.kind", self.kind, ("subsampler", "cformer"))
        if self.kernel_size % 2 == 0:
            raise RellmError(f"adapter.kernel_size is {self.kernel_size}", allowed="odd numbers")
        for name in ("conv_layers", "kernel_size", "stride", "bottleneck"):
            if getattr(self, name) < 1:
                raise RellmError(f"adapter.{name} is {getattr(self, name)}", allowed="1 or more")
        for name in ("hidden_layers", "pre_layers", "post_layers"):
            if getattr(self, name) < 0:
                raise RellmError(f"adapter.{name} is {getattr(self, name)}", allowed="0 or more")

    @property
    def counts_beforehand(self) -> bool:
        """Whether the length of a recording alone tells how many speech tokens it will give."""
        return self.kind != "cformer"

    def token_count(self, states: int) -> int:
        """Speech tokens that `states` encoder states give: floor((L - 1) / stride) + 1 per convolution.

        Raises:
            RellmError: the adapter is a cformer, and the number depends on the recording.
        """
        if not self.counts_beforehand:
            raise RellmError(
                "the number of speech tokens of a cformer adapter depends on the recording",
                todo="Call the model's encode_speech first, and lay out the rows by its lengths",
            )
        for _ in range(self.conv_layers):
            states = (states - 1) // self.stride + 1
        return states


@dataclass(frozen=True)
class LoraSettings(_Settings):
    """Partial LoRA (BLSP-Emo section 3).

    Attributes:
        targets: names of the linear layers; None = attention and MLP up/gate of the LLM (`default_targets`).
        scope: positions that pass through the LoRA branch: `speech` tokens, `text` (all others), or `global`.
    """

    r: int = 16
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None
    scope: str = "speech"

    def __post_init__(self) -> None:
        _require("lora.scope", self.scope, SCOPES)
        if self.r < 1:
            raise RellmError(f"lora.r is {self.r}", allowed="1 or more", todo="To train without LoRA set lora to null")
        if not 0.0 <= self.dropout < 1.0:
            raise RellmError(f"lora.dropout is {self.dropout}", allowed="0 or more, below 1")
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(self.targets))


def _sub_config(value: Any, option: str) -> Any:
    """A component's config from what config.json holds."""
    if value is None or isinstance(value, PretrainedConfig):
        return value
    given = dict(value)
    name = given.pop("model_type", None)
    if not name:
        raise RellmError(f"{option} names no model_type", todo="Take the component's own config.json")
    try:
        return AutoConfig.for_model(name, **given)
    except ValueError as error:
        raise RellmError(f"{option}: model type {name!r} is not known to this transformers", todo=str(error)) from error


class ReLlmConfig(PretrainedConfig):
    """Configuration of a RE-LLM checkpoint.

    Args:
        text_config: config of the chat LLM (any causal LM).
        speech_config: config of the Whisper whose encoder hears the words.
        emotion_config: config of the emotion encoder (wav2vec2, HuBERT, WavLM ..., or `SharedEmotionConfig` for one
            that reads the speech encoder's layers); None = there is none.
        emotion_outputs: names of the outputs of the emotion encoder's own regression head, in the order of its
            weights (audeering: arousal, dominance, valence); None = it has no such head.
        components: name -> where its weights are read from: a hub id, or a path relative to the checkpoint folder.
            A component that is None is stored in the checkpoint itself.
        adapter: `AdapterSettings`.
        fusion: `pooled` repeats the utterance's emotion embedding over time and concatenates it to every speech
            state (RE-LLM eq. 3), `frames` aligns frame by frame, `none` leaves the emotion encoder out.
        emotions: names of the classes of the categorical head, in the order of its outputs.
        speech_token_id: id of the placeholder that stands for one speech token.
        speech_window: `full` pads the spectrogram to 30 s, `trimmed` encodes only the real frames.
        lora: `LoraSettings`, or None.
        ctc_blank: the checkpoint holds the learned blank of the `adapter_ctc` loss.

    Raises:
        RellmError: options that contradict each other.
    """

    model_type = "re_llm"
    sub_configs: ClassVar[dict[str, Any]] = {
        "text_config": AutoConfig,
        "speech_config": WhisperConfig,
        "emotion_config": AutoConfig,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        text_config: Any = None,
        speech_config: Any = None,
        emotion_config: Any = None,
        emotion_outputs: Sequence[str] | None = None,
        components: Mapping[str, str | None] | None = None,
        adapter: AdapterSettings | Mapping[str, Any] | None = None,
        fusion: str | None = None,
        emotions: Sequence[str] = PROMPT_EMOTIONS,
        speech_token_id: int | None = None,
        speech_window: str = "full",
        lora: LoraSettings | Mapping[str, Any] | None = None,
        ctc_blank: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)  # first: it would reset the attention implementation of ready components
        self.text_config = _sub_config(text_config, "text_config")
        self.speech_config = _sub_config(speech_config, "speech_config")
        self.emotion_config = _sub_config(emotion_config, "emotion_config")
        self.emotion_outputs = list(emotion_outputs) if emotion_outputs is not None else None
        self.components = {name: (components or {}).get(name) for name in COMPONENTS}
        self.adapter = AdapterSettings.read(adapter).as_dict()
        self.fusion = fusion or ("pooled" if self.emotion_config is not None else "none")
        self.emotions = list(emotions)
        self.speech_token_id = speech_token_id
        self.speech_window = speech_window
        self.lora = LoraSettings.read(lora).as_dict() if lora is not None else None
        self.ctc_blank = ctc_blank
        self._check(components or {})

    def _check(self, components: Mapping[str, str | None]) -> None:
        _require("fusion", self.fusion, FUSIONS)
        _require("speech_window", self.speech_window, WINDOWS)
        for name in components:
            _require("a name in components", name, COMPONENTS)
        if self.text_config is None and self.speech_config is None:
            return  # transformers compares a config with an empty one when it saves
        if (self.fusion == "none") != (self.emotion_config is None):
            state = "missing" if self.emotion_config is None else "set"
            raise RellmError(
                f"fusion is {self.fusion!r}, but emotion_config is {state}",
                allowed="fusion `none` without an emotion encoder; `pooled` or `frames` with one",
            )
        if self.shares_hearing and self.fusion == "frames":
            raise RellmError(
                "fusion is 'frames', but the emotion encoder reads the speech encoder's layers", allowed="pooled"
            )
        if len(set(self.emotions)) != len(self.emotions) or not self.emotions:
            raise RellmError(f"emotions is {self.emotions}", allowed="at least one name, none of them twice")
        if self.emotion_outputs is not None and set(self.emotion_outputs) != set(DIMENSIONS):
            raise RellmError(f"emotion_outputs is {self.emotion_outputs}", allowed=f"the names {', '.join(DIMENSIONS)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the folders that the components were once read from."""
        found = super().to_dict()
        for name in self.sub_configs:
            if isinstance(found.get(name), dict):
                found[name].pop("_name_or_path", None)
        return found

    @property
    def adapter_settings(self) -> AdapterSettings:
        return AdapterSettings.read(self.adapter)

    @property
    def lora_settings(self) -> LoraSettings | None:
        return LoraSettings.read(self.lora) if self.lora is not None else None

    @property
    def speech_width(self) -> int:
        """Width of a speech encoder state."""
        return int(self.speech_config.d_model)

    @property
    def shares_hearing(self) -> bool:
        """Whether the emotion encoder reads the speech encoder's layers instead of the waveform."""
        return isinstance(self.emotion_config, SharedEmotionConfig)

    @property
    def emotion_width(self) -> int:
        """Width of an emotion state; 0 when there is no emotion encoder."""
        return int(self.emotion_config.hidden_size) if self.emotion_config is not None else 0

    @property
    def llm_width(self) -> int:
        """Width of the LLM's embeddings."""
        return int(self.text_config.get_text_config().hidden_size)


AutoConfig.register(ReLlmConfig.model_type, ReLlmConfig, exist_ok=True)
