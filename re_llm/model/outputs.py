"""What the model's methods return.

Shapes: B utterances, R rows of a batch, T encoder states, S speech tokens, L row length, D LLM width, V vocabulary,
E emotions, Ds and De widths of speech and emotion states, K positions whose logits are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache
from transformers.utils import ModelOutput


@dataclass(frozen=True)
class EncodedAudio:
    """What the encoders make of a batch of utterances; it can be cached as long as they stay frozen."""

    speech_states: Tensor  # [B, T, Ds], zero behind each utterance
    speech_lengths: Tensor  # [B] states, long
    emotion_states: Tensor | None = None  # [B, De] pooled; [B, T, De] when the fusion is `frames`; None without fusion

    def to(self, target: torch.device | str | torch.dtype, *, non_blocking: bool = False) -> EncodedAudio:
        """The same on another device, or in another floating-point dtype."""
        states = self.speech_states.to(target, non_blocking=non_blocking)
        emotion = None if self.emotion_states is None else self.emotion_states.to(target, non_blocking=non_blocking)
        return EncodedAudio(states, self.speech_lengths.to(states.device), emotion)


@dataclass(frozen=True)
class SpeechTokens:
    """The adapter's output: what stands in the prompt in place of the placeholders."""

    embeddings: Tensor  # [B, S, D], zero behind each utterance
    lengths: Tensor  # [B] speech tokens, long
    pooled: Tensor | None = None  # [B, D], mean over the utterance's tokens; None when they were given, not encoded
    fired: Tensor | None = None  # [B], sum of the CFormer's weights: the number of tokens it expects
    units: Tensor | None = None  # [B, S, U + 1], logits of an adapter's intermediate prediction, the blank last
    heard: SpeechTokens | None = None  # all tokens, where these are some of them
    kept: Tensor | None = None  # [B, S of `heard`], true for these

    @property
    def all(self) -> SpeechTokens:
        """The tokens as the adapter made them."""
        return self if self.heard is None else self.heard

    def repeat(self, times: int) -> SpeechTokens:
        """Every row `times` times in a row, for beams and samples; without what the heads need."""
        return SpeechTokens(
            self.embeddings.repeat_interleave(times, dim=0), self.lengths.repeat_interleave(times, dim=0)
        )

    def mask(self) -> Tensor:
        """True where a speech token is real, [B, S]."""
        return time_mask(self.lengths, self.embeddings.shape[1])

    def flat(self) -> Tensor:
        """The real tokens one after the other, and copies of others behind them, [B S, D]."""
        count, width = self.embeddings.shape[:2]
        ends, number = self.lengths.cumsum(0), torch.arange(count * width, device=self.lengths.device)
        utterance = torch.searchsorted(ends, number, right=True).clamp(max=count - 1)
        place = (number - (ends - self.lengths)[utterance]).clamp(max=width - 1)
        return self.embeddings[utterance, place]


def time_mask(lengths: Tensor, length: int) -> Tensor:
    """True for the first `lengths[b]` of `length` positions, [B, length]."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


@dataclass
class ReLlmOutput(ModelOutput):
    """Output of `ReLlmForConditionalGeneration.forward`."""

    loss: Tensor | None = None  # scalar, cross-entropy of `labels`
    logits: Tensor | None = None  # [R, L, V]; [K, V] with `labels` or chosen positions, in row-major order
    past_key_values: Cache | None = None
    speech: SpeechTokens | None = None  # None in a pass without audio
    emotion_logits: Tensor | None = None  # [B, E]
    dimensions: Tensor | None = None  # [B, 3], in the order of DIMENSIONS
    output_states: Tensor | None = None  # [K, D], input of the output layer, in place of logits [K, V]
