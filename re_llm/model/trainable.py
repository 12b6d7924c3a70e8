"""What of the model is trained, and how: LoRA layers, trainable parts, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from re_llm.core.errors import RellmError
from re_llm.model import partial_lora
from re_llm.model.configuration import LoraSettings
from re_llm.model.emotion_encoder import EmotionEncoder
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.speech_encoder import SpeechEncoder

TRAINABLE = ("adapter", "heads", "lora", "speech_encoder", "llm")


class TrainableModel(PreTrainedModel):
    """The training side of `ReLlmForConditionalGeneration`, which has the parts it works on."""

    supports_gradient_checkpointing = True
    speech_encoder: SpeechEncoder
    emotion_encoder: EmotionEncoder | SharedEmotionEncoder | None
    language_model: Any
    ctc_blank: nn.Parameter | None
    partial_lora: partial_lora.PartialLora
    component_sources: dict[str, str | None]

    @property
    def _hearing_is_trained(self) -> bool:
        return any(p.requires_grad for p in self.speech_encoder.parameters())

    def add_lora(self, settings: LoraSettings) -> None:
        """Puts LoRA layers into the LLM; they start as identity.

        Raises:
            RellmError: there are some already, or a target does not exist.
        """
        if self.config.lora is not None and self.partial_lora.layers:
            raise RellmError("this model has LoRA layers already")
        partial_lora.inject(self.language_model, settings)
        self.partial_lora = partial_lora.PartialLora(self.language_model, settings.scope)
        self.config.lora = settings.as_dict()

    def add_ctc_blank(self) -> None:
        """Adds the learned blank of the `adapter_ctc` loss, if there is none yet; it is trained with the adapter."""
        if self.ctc_blank is None:
            self.config.ctc_blank = True
            self.ctc_blank = nn.Parameter(torch.zeros(self.config.llm_width, device=self.device))

    def set_trainable(self, parts: Iterable[str]) -> None:
        """Exactly these parts of TRAINABLE need gradients; the emotion encoder never does.

        A component that is trained is stored in the checkpoint from then on.

        Raises:
            RellmError: an unknown part, or a speech encoder whose layers the emotion encoder reads.
        """
        chosen = set(parts)
        unknown = sorted(chosen - set(TRAINABLE))
        if unknown:
            raise RellmError(f"there is no part {unknown[0]!r} to train", allowed=", ".join(TRAINABLE))
        if "speech_encoder" in chosen and self.config.shares_hearing:
            raise RellmError(
                "the speech encoder cannot be trained: the emotion encoder reads its layers as they are",
                todo="Train it before, without an emotion encoder, or use an emotion encoder of its own",
            )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._part_of(name) in chosen)
        for part, component in (("llm", "llm"), ("speech_encoder", "speech_encoder")):
            if part in chosen:
                self.component_sources[component] = None
        self.train(self.training)

    @staticmethod
    def _part_of(name: str) -> str:
        if name.startswith("language_model."):
            return "lora" if ".lora_" in name else "llm"
        if name.startswith(("emotion_head.", "dimension_head.")):
            return "heads"
        if name == "speech_encoder.whisper.embed_positions.weight":
            return "fixed"  # Whisper's sinusoids
        if name == "ctc_blank":
            return "adapter"
        return name.split(".")[0]

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode; frozen encoders stay in eval mode."""
        super().train(mode)
        if mode and not self._hearing_is_trained:
            self.speech_encoder.eval()
        if mode and self.emotion_encoder is not None:
            self.emotion_encoder.eval()
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, **kwargs: Any
    ) -> None:
        if enable:
            if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant", False):
                raise RellmError(
                    "gradient checkpointing with use_reentrant=True recomputes without the LoRA mask",
                    todo="Set use_reentrant to false",
                )
            contexts = self._checkpoint_contexts
            gradient_checkpointing_func = partial(gradient_checkpointing_func, use_reentrant=False, context_fn=contexts)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def _checkpoint_contexts(self) -> Any:
        return self.partial_lora.checkpoint_contexts()

    def merge_lora(self) -> None:
        """Adds the LoRA weights to the LLM's own; only for LoRA of scope `global`."""
        settings = self.config.lora_settings
        if settings is not None:
            partial_lora.merge(self.language_model, settings.scope)
