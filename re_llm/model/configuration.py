"""What a checkpoint's config.json says: the three components, the adapter between them, LoRA, emotions.

No torch here: the processor and `re-llm doctor` read it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from transformers import AutoConfig, PretrainedConfig, WhisperConfig

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.model.shared_emotion_config import SharedEmotionConfig
from re_llm.recipe.options import AdapterOptions, LoraOptions, Options

SPEECH_TOKEN = "<|speech|>"
# The order of every [.., 3] tensor of emotion dimensions in this package; other orders are mapped by name.
DIMENSIONS = ("valence", "arousal", "dominance")
COMPONENTS = ("llm", "speech_encoder", "emotion_encoder")
WINDOWS = ("full", "trimmed")


class _Own(Options):
    """What a config.json says besides the configs of the components."""

    components: dict[Literal["llm", "speech_encoder", "emotion_encoder", "adapter"], str | None]
    adapter: AdapterOptions
    fusion: Literal["pooled", "frames", "none"]
    emotions: tuple[str, ...]
    emotion_outputs: tuple[str, ...] | None
    speech_token_id: Annotated[int, Field(strict=True, ge=0)] | None
    speech_window: Literal["full", "trimmed"]
    lora: LoraOptions | None
    ctc_blank: bool
    trained_seconds: Annotated[float, Field(gt=0)] | None

    @model_validator(mode="after")
    def _names(self) -> Self:
        if len(set(self.emotions)) != len(self.emotions) or not self.emotions:
            raise ValueError(f"emotions is {self.emotions}; allowed: at least one name, none of them twice")
        if self.emotion_outputs is not None and sorted(self.emotion_outputs) != sorted(DIMENSIONS):
            raise ValueError(f"emotion_outputs is {self.emotion_outputs}; allowed: {', '.join(DIMENSIONS)}")
        return self


def _sub_config(value: PretrainedConfig | Mapping[str, object] | None, option: str) -> Any:
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
        speech_config: config of the Whisper whose encoder is used.
        emotion_config: config of the emotion encoder (wav2vec2, HuBERT, WavLM ..., or `SharedEmotionConfig` for one
            that reads the speech encoder's layers); None = there is none.
        emotion_outputs: names of the outputs of the emotion encoder's own regression head, in the order of its
            weights (audeering: arousal, dominance, valence); None = it has no such head.
        components: name -> where its weights are read from: a hub id, or a path relative to the checkpoint folder.
            A component that is None is stored in the checkpoint itself. `adapter` names another checkpoint: what
            this one's file lacks of the adapter is that of the other.
        adapter: `AdapterOptions`.
        fusion: `pooled` repeats the utterance's emotion embedding over time and concatenates it to every speech
            state (RE-LLM eq. 3), `frames` aligns frame by frame, `none` leaves the emotion encoder out.
        emotions: names of the classes of the categorical head, in the order of its outputs.
        speech_token_id: id of the placeholder that stands for one speech token.
        speech_window: `full` pads the spectrogram to 30 s, `trimmed` encodes only the real frames.
        lora: `LoraOptions`, or None.
        ctc_blank: the checkpoint holds the learned blank of the `adapter_ctc` loss.
        trained_seconds: longest utterance of the training; None when it is not known.

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
        text_config: PretrainedConfig | Mapping[str, object] | None = None,
        speech_config: PretrainedConfig | Mapping[str, object] | None = None,
        emotion_config: PretrainedConfig | Mapping[str, object] | None = None,
        emotion_outputs: Sequence[str] | None = None,
        components: Mapping[str, str | None] | None = None,
        adapter: AdapterOptions | Mapping[str, object] | None = None,
        fusion: str | None = None,
        emotions: Sequence[str] = PROMPT_EMOTIONS,
        speech_token_id: int | None = None,
        speech_window: str = "full",
        lora: LoraOptions | Mapping[str, object] | None = None,
        ctc_blank: bool = False,
        trained_seconds: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)  # first: it would reset the attention implementation of ready components
        self.text_config = _sub_config(text_config, "text_config")
        self.speech_config = _sub_config(speech_config, "speech_config")
        self.emotion_config = _sub_config(emotion_config, "emotion_config")
        own = _Own.read(
            {
                "components": dict.fromkeys(COMPONENTS) | dict(components or {}),
                "adapter": AdapterOptions() if adapter is None else adapter,
                "fusion": fusion or ("pooled" if self.emotion_config is not None else "none"),
                "emotions": emotions,
                "emotion_outputs": emotion_outputs,
                "speech_token_id": speech_token_id,
                "speech_window": speech_window,
                "lora": lora,
                "ctc_blank": ctc_blank,
                "trained_seconds": trained_seconds,
            },
            "the model's config",
        )
        self.components: dict[str, str | None] = dict(own.components.items())
        self.adapter, self.fusion, self.lora = own.adapter, own.fusion, own.lora
        self.emotions, self.ctc_blank = list(own.emotions), own.ctc_blank
        self.trained_seconds = own.trained_seconds
        self.emotion_outputs = None if own.emotion_outputs is None else list(own.emotion_outputs)
        self.speech_token_id, self.speech_window = own.speech_token_id, own.speech_window
        self._check()

    def _check(self) -> None:
        if self.text_config is None and self.speech_config is None:
            return  # transformers compares a config with an empty one when it saves
        if (self.fusion == "none") != (self.emotion_config is None):
            state = "missing" if self.emotion_config is None else "set"
            raise RellmError(
                f"fusion is {self.fusion!r}, but emotion_config is {state}",
                allowed="fusion `none` without an emotion encoder; `pooled` or `frames` with one",
            )
        if self.shares_speech_encoder and self.fusion == "frames":
            raise RellmError(
                "fusion is 'frames', but the emotion encoder reads the speech encoder's layers", allowed="pooled"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the folders that the components were once read from."""
        found = super().to_dict()
        for name in ("adapter", "lora"):
            options = getattr(self, name, None)
            found[name] = options.model_dump(mode="json") if options is not None else None
        for name in self.sub_configs:
            if isinstance(found.get(name), dict):
                found[name].pop("_name_or_path", None)
        return found

    @property
    def speech_width(self) -> int:
        """Width of a speech encoder state."""
        return int(self.speech_config.d_model)

    @property
    def shares_speech_encoder(self) -> bool:
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
