"""What of the model is trained, and how: LoRA layers, trainable parts, gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from re_llm.core.errors import RellmError
from re_llm.model import partial_lora
from re_llm.model.emotion_encoder import EmotionEncoder
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.recipe.options import LoraOptions

LEARNED = ("adapter", "heads", "lora")  # what no component brings along
# Pieces of them that can be trained alone, and where their tensors are.
PIECES = {"emotion_head": "emotion_head.", "dimension_head": "dimension_head.", "adapter_input": "adapter.convs.0."}
TRAINABLE = (*LEARNED, "speech_encoder", "llm", *PIECES)


class TrainableModel(PreTrainedModel):
    """The training side of `ReLlmForConditionalGeneration`, which has the parts it works on."""

    supports_gradient_checkpointing = True
    speech_encoder: SpeechEncoder
    emotion_encoder: EmotionEncoder | SharedEmotionEncoder | None
    language_model: PreTrainedModel
    ctc_blank: nn.Parameter | None
    partial_lora: partial_lora.PartialLora
    component_sources: dict[str, str | None]

    @property
    def _speech_is_trained(self) -> bool:
        return any(p.requires_grad for p in self.speech_encoder.parameters())

    def add_lora(self, options: LoraOptions) -> None:
        """Puts LoRA layers into the LLM; they start as identity.

        Raises:
            RellmError: there are some already, or a target does not exist.
        """
        if self.config.lora is not None and self.partial_lora.layers:
            raise RellmError("this model has LoRA layers already")
        partial_lora.inject(self.language_model, options)
        self.partial_lora = partial_lora.PartialLora(self.language_model, options.scope)
        self.config.lora = options

    def add_ctc_blank(self) -> None:
        """Adds the learned blank of the `adapter_ctc` loss, if there is none yet; it is trained with the adapter."""
        if self.ctc_blank is None:
            self.config.ctc_blank = True
            self.ctc_blank = nn.Parameter(torch.zeros(self.config.llm_width, device=self.device))

    def set_trainable(self, parts: Iterable[str], *, dtype: torch.dtype | None = None) -> None:
        """Exactly these parts of TRAINABLE need gradients; the emotion encoder never does.

        A component that is trained is stored in the checkpoint from then on.

        Args:
            dtype: of these parts, float32 for the sake of the optimiser; None = as they are.

        Raises:
            RellmError: an unknown part, or a speech encoder whose layers the emotion encoder reads.
        """
        chosen = set(parts)
        unknown = sorted(chosen - set(TRAINABLE))
        if unknown:
            raise RellmError(f"there is no part {unknown[0]!r} to train", allowed=", ".join(TRAINABLE))
        if "speech_encoder" in chosen and self.config.shares_speech_encoder:
            raise RellmError(
                "the speech encoder cannot be trained: the emotion encoder reads its layers as they are",
                todo="Train it before, without an emotion encoder, or use an emotion encoder of its own",
            )
        pieces = tuple(PIECES[name] for name in PIECES if name in chosen)
        names = [name for name, _ in self.named_parameters()]
        if "adapter_input" in chosen and not any(name.startswith(PIECES["adapter_input"]) for name in names):
            raise RellmError("`adapter_input` is trained, and the adapter is a cformer", allowed="kind: subsampler")
        for name, parameter in self.named_parameters():
            part = self._part_of(name)
            trained = part in chosen or name.startswith(pieces)
            parameter.requires_grad_(trained)
            if dtype is not None and (trained or (part, "speech_encoder" in chosen) == ("fixed", True)):
                parameter.data = parameter.data.to(dtype)
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
        if mode and not self._speech_is_trained:
            self.speech_encoder.eval()
        if mode and self.emotion_encoder is not None:
            self.emotion_encoder.eval()
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., object] = checkpoint, **kwargs: object
    ) -> None:
        if enable:
            if getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant", False):
                raise RellmError(
                    "gradient checkpointing with use_reentrant=True recomputes without the LoRA mask",
                    todo="Set use_reentrant to false",
                )
            contexts = lambda: self.partial_lora.checkpoint_contexts()  # noqa: E731 - add_lora puts another in its place
            gradient_checkpointing_func = partial(gradient_checkpointing_func, use_reentrant=False, context_fn=contexts)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)

    def merge_lora(self) -> None:
        """Adds the LoRA weights to the LLM's own; only for LoRA of scope `global`."""
        if self.config.lora is not None:
            partial_lora.merge(self.language_model, self.config.lora.scope)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> object:
        """As torch's, and with the names of a checkpoint's files: transformers' Trainer resumes with them."""
        return super().load_state_dict(self.own_names(state_dict), strict=strict, assign=assign)

    def own_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The names of a checkpoint's files turned into this model's, where PEFT has wrapped linear layers."""
        own = {name.replace(".base_layer.", "."): name for name in self.state_dict() if ".base_layer." in name}
        return {own.get(name, name): value for name, value in weights.items()}
