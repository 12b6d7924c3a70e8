"""The convolutions in front of a wav2vec2 as products of matrices, for the CPU.

transformers goes [B, C, T] -> convolution -> [B, T, C] -> LayerNorm -> [B, C, T] seven times, and each change of layout
is a copy: half of the time of an emotion encoder. Here channels stay last. With stride s, s frames are one row of a
matrix without a copy, and a kernel of k frames is ceil(k / s) products, each with the rows moved on by one. Two seconds
of one utterance go through all layers before the next one, so memory does not grow with batch and length.

Shapes: B utterances, N samples, T frames, C channels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

PIECE = 32_000  # samples that go through all layers before the next ones do: more need memory and are no faster


class ChannelsLast(nn.Module):
    """A wav2vec2's feature encoder with the same weights, under the same names; elsewhere than on a CPU it is the same.

    Args:
        original: with LayerNorm behind every convolution; see `fits`.
    """

    def __init__(self, original: nn.Module):
        super().__init__()
        self.conv_layers = original.conv_layers
        self._plain = original.forward

    def forward(self, values: Tensor) -> Tensor:
        """Frames [B, C, T] of samples [B, N]."""
        if values.device.type != "cpu":
            return cast(Tensor, self._plain(values))
        convolutions = [cast(nn.Conv1d, layer.conv) for layer in cast(nn.ModuleList, self.conv_layers)]
        weights = [conv.weight.permute(2, 1, 0).flatten(0, 1) for conv in convolutions]  # [k C, C'] each
        stride, reach, frames = 1, 1, values.shape[1]
        for conv in convolutions:
            reach += (conv.kernel_size[0] - 1) * stride
            stride *= conv.stride[0]
            frames = (frames - conv.kernel_size[0]) // conv.stride[0] + 1
        size = max(1, PIECE // stride)

        def whole(row: Tensor) -> Tensor:
            pieces = []
            for first in range(0, frames, size):
                samples = row[first * stride : (first + size - 1) * stride + reach]
                pieces.append(self._frames(samples, weights, stride)[: min(size, frames - first)])
            return torch.cat(pieces)

        return torch.stack([whole(row) for row in values]).transpose(1, 2)

    def _frames(self, samples: Tensor, weights: list[Tensor], stride: int) -> Tensor:
        """Frames [T, C] of samples [N]; those behind the last whole one are wrong."""
        hidden = pad(samples, (0, -len(samples) % stride))[:, None]
        for layer, weight in zip(cast(nn.ModuleList, self.conv_layers), weights, strict=True):
            norm, activation = cast(nn.LayerNorm, layer.layer_norm), cast(nn.Module, layer.activation)
            hidden = activation(norm(_convolved(hidden, cast(nn.Conv1d, layer.conv), weight)))
        return hidden


def _convolved(hidden: Tensor, conv: nn.Conv1d, weight: Tensor) -> Tensor:
    """Frames [T, C] -> [T / stride, C']; the last ones read nothing behind the end."""
    stride, kernel, width = conv.stride[0], conv.kernel_size[0], hidden.shape[1]
    rows = hidden.reshape(-1, stride * width)
    found = rows.new_zeros(len(rows), weight.shape[1]) if conv.bias is None else conv.bias.repeat(len(rows), 1)
    for shift, first in enumerate(range(0, kernel, stride)):
        taps = min(stride, kernel - first) * width
        found[: len(rows) - shift].addmm_(rows[shift:, :taps], weight[first * width : first * width + taps])
    return found


def fits(feature_encoder: nn.Module) -> bool:
    """Whether these convolutions are plain ones, each with LayerNorm over the channels and an activation behind it."""
    layers = getattr(feature_encoder, "conv_layers", ())
    return len(layers) > 0 and all(
        isinstance(getattr(layer, "conv", None), nn.Conv1d)
        and isinstance(getattr(layer, "layer_norm", None), nn.LayerNorm)
        and hasattr(layer, "activation")
        and (layer.conv.padding, layer.conv.dilation, layer.conv.groups) == ((0,), (1,), 1)
        for layer in layers
    )
