"""Whisper's encoder for utterances of any length.

Shapes: B utterances, N windows, M mel bins, F mel frames (100 a second), T states (50 a second), Ds width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, pad
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from re_llm.core.errors import RellmError
from re_llm.model.outputs import time_mask

FRAMES_PER_STATE = 2  # stride of Whisper's second convolution


class SpeechEncoder(nn.Module):
    """Whisper's encoder, run over windows of at most 30 s.

    Args:
        config: Whisper's own; `max_source_positions` states are one window.
        window: `full` runs every window at its whole length, padding included, as Whisper was trained; `trimmed`
            runs the real frames only, with an attention mask in a batch. Hugging Face's forward refuses shorter
            input, so convolutions, positions and layers are called here.
    """

    def __init__(self, config: WhisperConfig, window: str):
        super().__init__()
        self.config, self.window = config, window
        self.whisper = WhisperEncoder(config)

    @property
    def window_frames(self) -> int:
        """Mel frames of one window (3000 = 30 s in every released Whisper)."""
        return int(self.config.max_source_positions) * FRAMES_PER_STATE

    @property
    def dtype(self) -> torch.dtype:
        return self.whisper.conv1.weight.dtype

    def forward(self, features: Tensor, lengths: Tensor, *, keep_padding: bool = False) -> tuple[Tensor, Tensor]:
        """States of a batch of utterances.

        Args:
            features: [B, M, F] log-mel frames.
            lengths: [B] real frames of each utterance.
            keep_padding: leave the states behind an utterance as the encoder made them, instead of zero.

        Returns:
            states [B, T, Ds], and their number in each utterance [B].

        Raises:
            RellmError: another number of mel bins, an utterance without frames, or features that do not fill the
                window when it is `full`.
        """
        (hidden,), state_lengths = self._run(features, lengths, ())
        if not keep_padding:
            hidden = hidden * time_mask(state_lengths, hidden.shape[1])[..., None]
        return hidden, state_lengths

    def with_layers(self, features: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, with the states of some layers of the same pass.

        Args:
            layers: 0 stands in front of the first layer (convolutions and positions), i behind the i-th.

        Returns:
            states [B, T, Ds], their number in each utterance [B], and states of K layers [B, T, K, Ds].

        Raises:
            RellmError: also when there is no such layer.
        """
        (*kept, hidden), state_lengths = self._run(features, lengths, layers)
        mask = time_mask(state_lengths, hidden.shape[1])[..., None]
        return hidden * mask, state_lengths, torch.stack(kept, dim=2) * mask[..., None]

    def only_layers(self, features: Tensor, lengths: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The states of some layers [B, T, K, Ds] and their number in each utterance [B]; later layers are not run."""
        kept, state_lengths = self._run(features, lengths, layers, only=True)
        mask = time_mask(state_lengths, kept[0].shape[1])[..., None, None]
        return torch.stack(kept, dim=2) * mask, state_lengths

    def _run(
        self, features: Tensor, lengths: Tensor, layers: Sequence[int], *, only: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """States of the wanted layers and, unless `only` these are wanted, of the whole encoder; each [B, T, Ds]."""
        counts = lengths.tolist()
        self._check(features, counts)
        unknown = [layer for layer in layers if not 0 <= layer <= len(self.whisper.layers)]
        if unknown:
            raise RellmError(f"there is no layer {unknown[0]}", allowed=f"0 to {len(self.whisper.layers)}")
        windows, real = self._cut(features.to(self.dtype), counts)
        found = self._encode(windows, real, layers, only=only)
        state_lengths = torch.div(lengths - 1, FRAMES_PER_STATE, rounding_mode="floor") + 1
        return [self._join(hidden, counts, int(state_lengths.max())) for hidden in found], state_lengths

    def _check(self, features: Tensor, counts: list[int]) -> None:
        if features.shape[1] != self.config.num_mel_bins:
            raise RellmError(
                f"features have {features.shape[1]} mel bins",
                allowed=f"{self.config.num_mel_bins}, as this Whisper was trained",
                todo="Make the features with the checkpoint's own processor",
            )
        if min(counts) < 1 or max(counts) > features.shape[2]:
            raise RellmError(f"feature_lengths {counts} do not fit features of {features.shape[2]} frames")
        if self.window == "full" and features.shape[2] % self.window_frames:
            raise RellmError(
                f"features have {features.shape[2]} frames, but speech_window is `full`",
                allowed=f"multiples of {self.window_frames} frames",
                todo="Make the features with the checkpoint's own processor",
            )

    def _cut(self, features: Tensor, counts: list[int]) -> tuple[Tensor, Tensor]:
        """Windows [N, M, F'] of all utterances one after the other, and their real frames [N]."""
        size = self.window_frames
        cuts = [(row, start) for row, count in enumerate(counts) for start in range(0, count, size)]
        real = [min(counts[row] - start, size) for row, start in cuts]
        width = size if self.window == "full" else max(real)
        pieces = [features[row, :, start : start + width] for row, start in cuts]
        windows = torch.stack([pad(piece, (0, width - piece.shape[1])) for piece in pieces])
        return windows, torch.tensor(real, device=features.device)

    def _encode(self, windows: Tensor, real: Tensor, layers: Sequence[int], *, only: bool) -> list[Tensor]:
        """Whisper's own layers over windows [N, M, F'] -> [N, T', Ds]: those of `layers`, and the last, normalised."""
        whisper, training = self.whisper, self.training
        trimmed = self.window == "trimmed"
        hidden = windows * time_mask(real, windows.shape[2])[:, None] if trimmed else windows
        hidden = gelu(whisper.conv1(hidden))
        if trimmed:  # what the convolution wrote behind an utterance would reach its last state
            hidden = hidden * time_mask(real, hidden.shape[2])[:, None]
        hidden = gelu(whisper.conv2(hidden)).transpose(1, 2)
        hidden = hidden + whisper.embed_positions.weight[: hidden.shape[1]]
        hidden = dropout(hidden, p=self.config.dropout, training=training)
        mask = None
        if trimmed:
            states = torch.div(real - 1, FRAMES_PER_STATE, rounding_mode="floor") + 1
            mask = create_bidirectional_mask(
                config=whisper.config, inputs_embeds=hidden, attention_mask=time_mask(states, hidden.shape[1])
            )
        drop = self.config.encoder_layerdrop if training else 0.0
        kept = {0: hidden} if 0 in layers else {}
        for number, layer in enumerate(whisper.layers[: max(layers) if only else None], start=1):
            if not drop or torch.rand(()) >= drop:
                hidden = layer(hidden, mask)
            if number in layers:
                kept[number] = hidden
        return [kept[layer] for layer in layers] + ([] if only else [whisper.layer_norm(hidden)])

    def _join(self, hidden: Tensor, counts: list[int], longest: int) -> Tensor:
        """States of the windows [N, T', Ds] put together by utterance, [B, T, Ds]."""
        if len(hidden) == len(counts):
            return hidden[:, :longest]
        per_row = [-(-count // self.window_frames) for count in counts]
        rows = [torch.cat(list(part))[:longest] for part in torch.split(hidden, per_row)]
        return torch.stack([pad(row, (0, 0, 0, longest - row.shape[0])) for row in rows])
