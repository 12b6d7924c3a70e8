"""config.json of an emotion encoder that reads the speech encoder's layers. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError


class SharedEmotionConfig(PretrainedConfig):
    """Configuration of a `SharedEmotionEncoder`.

    Args:
        speech_encoder: the Whisper whose layers it reads: hub id, component name, or folder (relative to this one).
        speech_signature: some of that Whisper's weights; another one of the same size is refused by them.
        speech_width: width of its states. speech_window: how it was run in training.
        layers: whose states are read; 0 stands in front of the first layer, i behind the i-th.
        pool: states (20 ms) in a window.
        attention_size: of the attention over windows.
        hidden_size: width of the utterance embedding.
        emotions: categories, in the order of the outputs.
        logit_scale: times the logits gives probabilities that are calibrated, on the validation speakers.
        unsure_below: probability of the likeliest category under which the encoder is unsure.
        label_sets: which of the categories each corpus of the training names.

    Raises:
        RellmError: options that contradict each other.
    """

    model_type = "re_llm_shared_emotion"

    def __init__(
        self,
        speech_encoder: str | None = None,
        speech_signature: Sequence[float] | None = None,
        speech_width: int = 512,
        speech_window: str = "trimmed",
        layers: Sequence[int] = (2, 3, 4),
        pool: int = 20,
        attention_size: int = 16,
        hidden_size: int = 256,
        emotions: Sequence[str] = PROMPT_EMOTIONS,
        logit_scale: float = 1.0,
        unsure_below: float = 0.0,
        label_sets: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.speech_encoder = speech_encoder
        self.speech_signature = list(speech_signature) if speech_signature is not None else None
        self.speech_width, self.speech_window = speech_width, speech_window
        self.layers, self.pool = list(layers), pool
        self.attention_size, self.hidden_size = attention_size, hidden_size
        self.emotions = list(emotions)
        self.logit_scale, self.unsure_below = logit_scale, unsure_below
        self.label_sets = {name: list(labels) for name, labels in (label_sets or {}).items()}
        self._check()

    def _check(self) -> None:
        if not self.layers or sorted(set(self.layers)) != self.layers or self.layers[0] < 0:
            raise RellmError(f"layers is {self.layers}", allowed="different layers from 0 on, in their order")
        for name in ("pool", "attention_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise RellmError(f"{name} is {getattr(self, name)}", allowed="1 or more")
        if len(set(self.emotions)) != len(self.emotions) or len(self.emotions) < 2:
            raise RellmError(f"emotions is {self.emotions}", allowed="at least two names, none of them twice")
        if not self.logit_scale > 0:
            raise RellmError(f"logit_scale is {self.logit_scale}", allowed="above 0")


def is_shared(folder: Path) -> bool:
    """Whether a folder holds an emotion encoder of this kind."""
    try:
        return bool(json.loads((folder / "config.json").read_bytes())["model_type"] == SharedEmotionConfig.model_type)
    except (OSError, ValueError, KeyError, TypeError):
        return False


AutoConfig.register(SharedEmotionConfig.model_type, SharedEmotionConfig, exist_ok=True)
