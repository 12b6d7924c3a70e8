"""The convolutions in front of a wav2vec2 as products of matrices, for the CPU.

transformers goes [B, C, T] -> convolution -> [B, T, C] -> LayerNorm -> [B, C, T] seven times, and each change of layout
is a copy: half of the time of an emotion encoder. Here channels stay last. With stride s, s frames are one row of a
matrix without a copy, and a kernel of k frames is ceil(k / s) products, each with the rows moved on by one.

Shapes: B utterances, N samples, T frames, C channels.
"""

from __future__ import annotations

from math import prod
from typing import cast

from torch import Tensor, nn
from torch.nn.functional import pad


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
        layers = cast(nn.ModuleList, self.conv_layers)
        convolutions = [cast(nn.Conv1d, layer.conv) for layer in layers]
        frames = values.shape[1]
        for conv in convolutions:
            frames = (frames - conv.kernel_size[0]) // conv.stride[0] + 1
        # What stands behind an utterance's last frame, padding and the next one's first, reaches no frame that is kept.
        hidden = pad(values, (0, -values.shape[1] % prod(conv.stride[0] for conv in convolutions))).reshape(-1, 1)
        for layer, conv in zip(layers, convolutions, strict=True):
            norm, activation = cast(nn.LayerNorm, layer.layer_norm), cast(nn.Module, layer.activation)
            hidden = activation(norm(_convolved(hidden, conv)))
        return hidden.view(len(values), -1, hidden.shape[1])[:, :frames].transpose(1, 2)


def _convolved(hidden: Tensor, conv: nn.Conv1d) -> Tensor:
    """Frames [T, C] -> [T / stride, C'], all utterances in one; the last ones read nothing behind the end."""
    stride, kernel, width = conv.stride[0], conv.kernel_size[0], hidden.shape[1]
    weight = conv.weight.permute(2, 1, 0).reshape(kernel * width, -1)  # [k C, C']
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
