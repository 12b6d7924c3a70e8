"""The CFormer adapter of BLSP-Emo's code: one speech token per transcript token, by continuous integrate-and-fire.

Shapes: B utterances, T encoder states, S speech tokens, C input channels, D LLM width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import WhisperConfig

from re_llm.model.adapter import EncoderLayers, Subsampler
from re_llm.model.outputs import SpeechTokens, time_mask
from re_llm.recipe.options import AdapterOptions


class Firing(NamedTuple):
    """Encoder states and the weights with which they are summed up to speech tokens."""

    states: Tensor  # [B, T, C - 1]
    weights: Tensor  # [B, T], summing up to `counts` in each row, zero behind an utterance
    counts: Tensor  # [B] speech tokens, long
    total: Tensor  # [B], sum of the weights before they were scaled to `counts`


class CFormer(nn.Module):
    """Transformer layers, integrate-and-fire, transformer layers, and a projection to the LLM.

    The last channel of the first layers' output says, through a sigmoid, how much of a token a state carries. The
    other channels are summed up by that weight until it reaches one; then a token is complete.

    How many tokens there are depends on the recording: rows are laid out after `encode_speech`, from its lengths.
    """

    def __init__(self, in_width: int, out_width: int, options: AdapterOptions, whisper: WhisperConfig):
        super().__init__()
        self.options = options
        self.pre_cif_layers = EncoderLayers(options.pre_layers, in_width, whisper)
        self.pre_cif_layer = None if options.pre_layers else nn.Linear(in_width, in_width)  # as the released code
        self.cif_proj = nn.Linear(in_width - 1, in_width)
        self.post_cif_layers = EncoderLayers(options.post_layers, in_width, whisper)
        self.token_embed_proj = nn.Linear(in_width, out_width)

    @property
    def dtype(self) -> torch.dtype:
        return self.token_embed_proj.weight.dtype

    def forward(
        self, states: Tensor, lengths: Tensor, *, keep_padding: bool = False, token_lengths: Tensor | None = None
    ) -> SpeechTokens:
        """Speech tokens of encoder states.

        Args:
            states: [B, T, C].
            lengths: [B], states of each utterance.
            keep_padding: let the first layers attend to what stands behind an utterance, as the released code does in
                a batch. By default it is masked, so that a batch equals its single items.
            token_lengths: [B], tokens of each transcript, while it is known (training); by default as many as the
                weights sum up to, and at least one.
        """
        firing = self.weigh(states, lengths, keep_padding=keep_padding, token_lengths=token_lengths)
        counts = firing.counts
        hidden = self.cif_proj(integrate(firing.states, firing.weights, counts))
        hidden = self.token_embed_proj(self.post_cif_layers(hidden, counts))
        mask = time_mask(counts, hidden.shape[1])[..., None]
        embeddings = hidden if keep_padding else hidden * mask
        return SpeechTokens(embeddings, counts, (hidden * mask).sum(1) / counts[:, None], firing.total)

    def weigh(
        self, states: Tensor, lengths: Tensor, *, keep_padding: bool = False, token_lengths: Tensor | None = None
    ) -> Firing:
        """How much of a token each encoder state carries; arguments as in `forward`."""
        hidden = states.to(self.dtype)
        if not keep_padding:
            hidden = hidden * time_mask(lengths, hidden.shape[1])[..., None]
        if self.pre_cif_layer is not None:
            hidden = self.pre_cif_layer(hidden)
        hidden = self.pre_cif_layers(hidden, None if keep_padding else lengths)
        weights = torch.sigmoid(hidden[..., -1].float()) * time_mask(lengths, hidden.shape[1])
        total = weights.sum(1)
        counts = total.detach().round().long().clamp(min=1) if token_lengths is None else token_lengths
        return Firing(hidden[..., :-1], weights * (counts / total)[:, None], counts, total)


def integrate(states: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Integrate-and-fire: each state is divided among the tokens whose unit of weight it falls into.

    Laid end to end, the weights of an utterance cover the line from 0 to its number of tokens; token k takes what is
    between k and k + 1. What rounding leaves beyond the end goes to the last token.

    Args:
        states: [B, T, C].
        weights: [B, T], summing up to `counts` in each row.
        counts: [B] tokens.

    Returns:
        [B, S, C], zero behind the tokens of an utterance.
    """
    ends = weights.cumsum(1)[:, None]
    begins = ends - weights[:, None]
    token = torch.arange(int(counts.max()), device=states.device)[None, :, None]
    last = token == counts[:, None, None] - 1
    upper = torch.where(last, ends, torch.minimum(ends, token + 1.0))
    fraction = (upper - torch.maximum(begins, token.to(begins.dtype))).clamp(min=0)
    fraction = fraction * (token < counts[:, None, None])
    return fraction.to(states.dtype) @ states


def make_adapter(
    in_width: int, out_width: int, options: AdapterOptions, whisper: WhisperConfig
) -> Subsampler | CFormer:
    """The adapter that the options ask for."""
    return (CFormer if options.kind == "cformer" else Subsampler)(in_width, out_width, options, whisper)
