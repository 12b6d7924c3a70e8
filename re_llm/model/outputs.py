"""What the model's methods return.

Shapes: B utterances, R rows of a batch, T encoder states, S speech tokens, L row length, D LLM width, V vocabulary,
E emotions, Ds and De widths of speech and emotion states, K positions whose logits were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput


@dataclass(frozen=True)
class EncodedAudio:
    """What the encoders make of a batch of utterances; it can be cached as long as they stay frozen."""

    speech_states: Tensor  # [B, T, Ds], zero behind each utterance
    speech_lengths: Tensor  # [B] states, long
    emotion_states: Tensor | None = None  # [B, De] pooled; [B, T, De] when the fusion is `frames`; None without fusion

    def __len__(self) -> int:
        return len(self.speech_lengths)

    def to(self, *args: Any, **kwargs: Any) -> EncodedAudio:
        """The same on another device, or in another floating-point dtype."""
        emotion = None if self.emotion_states is None else self.emotion_states.to(*args, **kwargs)
        lengths = self.speech_lengths.to(self.speech_states.to(*args, **kwargs).device)
        return replace(
            self, speech_states=self.speech_states.to(*args, **kwargs), speech_lengths=lengths, emotion_states=emotion
        )

    def split(self) -> list[EncodedAudio]:
        """One EncodedAudio per utterance, without padding."""
        parts = []
        for i, length in enumerate(self.speech_lengths.tolist()):
            emotion = None if self.emotion_states is None else self.emotion_states[i : i + 1]
            if emotion is not None and emotion.dim() == 3:
                emotion = emotion[:, :length]
            parts.append(EncodedAudio(self.speech_states[i : i + 1, :length], self.speech_lengths[i : i + 1], emotion))
        return parts

    @classmethod
    def join(cls, parts: Sequence[EncodedAudio]) -> EncodedAudio:
        """A batch from parts of any lengths, padded with zeros to the longest."""
        longest = max(part.speech_states.shape[1] for part in parts)
        emotion = [part.emotion_states for part in parts]
        present = [e for e in emotion if e is not None]
        assert len(present) in (0, len(parts)), f"{len(present)} of {len(parts)} parts have emotion states"
        return cls(
            torch.cat([_pad_time(part.speech_states, longest) for part in parts]),
            torch.cat([part.speech_lengths for part in parts]),
            torch.cat([_pad_time(e, longest) if e.dim() == 3 else e for e in present]) if present else None,
        )


def _pad_time(states: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[1]))


@dataclass(frozen=True)
class SpeechTokens:
    """The adapter's output: what stands in the prompt in place of the placeholders."""

    embeddings: Tensor  # [B, S, D], zero behind each utterance
    lengths: Tensor  # [B] speech tokens, long
    pooled: Tensor  # [B, D], mean over the utterance's tokens
    fired: Tensor | None = None  # [B], sum of the CFormer's weights: the number of tokens it expects

    def mask(self) -> Tensor:
        """True where a speech token is real, [B, S]."""
        return time_mask(self.lengths, self.embeddings.shape[1])


def time_mask(lengths: Tensor, length: int) -> Tensor:
    """True for the first `lengths[b]` of `length` positions, [B, length]."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


@dataclass
class ReLlmOutput(ModelOutput):
    """Output of `ReLlmForConditionalGeneration.forward`."""

    loss: Tensor | None = None  # scalar, cross-entropy of `labels`
    logits: Tensor | None = None  # [R, L, V]; [K, V] with `logits_at` or `labels`, in row-major order
    past_key_values: Any = None
    speech: SpeechTokens | None = None  # None in a pass without audio
    emotion_logits: Tensor | None = None  # [B, E]
    dimensions: Tensor | None = None  # [B, 3], in the order of DIMENSIONS
