"""The CFormer adapter of BLSP-Emo's code: one speech token per transcript token, by continuous integrate-and-fire.

Shapes: B utterances, T encoder states, S speech tokens, C input channels, D LLM width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from re_llm.core.errors import RellmError
from re_llm.model.adapter import Subsampler
from re_llm.model.configuration import AdapterSettings
from re_llm.model.outputs import SpeechTokens, time_mask

HEADS = 8


class Shares(NamedTuple):
    """Encoder states and how they are dealt out to speech tokens."""

    states: Tensor  # [B, T, C - 1]
    weights: Tensor  # [B, T], summing up to `counts` in each row, zero behind an utterance
    counts: Tensor  # [B] speech tokens, long
    fired: Tensor  # [B], sum of the weights before they were scaled to `counts`


class CFormer(nn.Module):
    """Transformer layers, integrate-and-fire, transformer layers, and a projection to the LLM.

    The last channel of the first layers' output says, through a sigmoid, how much of a token a state carries. The
    other channels are summed up by that weight until it reaches one; then a token is complete.

    How many tokens there are depends on the recording: rows are laid out after `encode_speech`, from its lengths.
    """

    def __init__(self, in_width: int, out_width: int, settings: AdapterSettings):
        super().__init__()
        if in_width % HEADS:
            raise RellmError(f"a cformer adapter over {in_width} channels", allowed=f"multiples of {HEADS}")
        self.settings = settings
        self.layer_config = WhisperConfig(
            d_model=in_width, encoder_attention_heads=HEADS, encoder_ffn_dim=settings.feed_forward or 4 * in_width
        )
        self.layer_config._attn_implementation = "sdpa"
        self.pre_cif_layers = nn.ModuleList(WhisperEncoderLayer(self.layer_config) for _ in range(settings.pre_layers))
        self.cif_proj = nn.Linear(in_width - 1, in_width)
        self.post_cif_layers = nn.ModuleList(
            WhisperEncoderLayer(self.layer_config) for _ in range(settings.post_layers)
        )
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
        fractions = self.weigh(states, lengths, keep_padding=keep_padding, token_lengths=token_lengths)
        counts = fractions.counts
        hidden = self.cif_proj(integrate(fractions.states, fractions.weights, counts))
        hidden = self.token_embed_proj(self._layers(self.post_cif_layers, hidden, counts))
        mask = time_mask(counts, hidden.shape[1])[..., None]
        embeddings = hidden if keep_padding else hidden * mask
        return SpeechTokens(embeddings, counts, (hidden * mask).sum(1) / counts[:, None], fractions.fired)

    def weigh(
        self, states: Tensor, lengths: Tensor, *, keep_padding: bool = False, token_lengths: Tensor | None = None
    ) -> Shares:
        """How much of a token each encoder state carries; arguments as in `forward`."""
        hidden = states.to(self.dtype)
        if not keep_padding:
            hidden = hidden * time_mask(lengths, hidden.shape[1])[..., None]
        hidden = self._layers(self.pre_cif_layers, hidden, None if keep_padding else lengths)
        weights = torch.sigmoid(hidden[..., -1].float()) * time_mask(lengths, hidden.shape[1])
        fired = weights.sum(1)
        counts = fired.detach().round().long().clamp(min=1) if token_lengths is None else token_lengths
        return Shares(hidden[..., :-1], weights * (counts / fired)[:, None], counts, fired)

    def _layers(self, layers: nn.ModuleList, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        mask = None
        if lengths is not None:
            mask = create_bidirectional_mask(
                config=self.layer_config,
                inputs_embeds=hidden,
                attention_mask=time_mask(lengths, hidden.shape[1]),
            )
        for layer in layers:
            hidden = layer(hidden, mask)
        return hidden


def integrate(states: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Integrate-and-fire: each state is dealt out to the tokens whose unit of weight it falls into.

    Laid end to end, the weights of an utterance cover the line from 0 to its number of tokens; token k takes what lies
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


def make_adapter(in_width: int, out_width: int, settings: AdapterSettings) -> Subsampler | CFormer:
    """The adapter that the settings ask for."""
    return (CFormer if settings.kind == "cformer" else Subsampler)(in_width, out_width, settings)
