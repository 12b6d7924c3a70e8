"""The adapter: from encoder states to speech tokens in the LLM's embedding space.

Shapes: B utterances, T encoder states, S speech tokens, C input channels (speech + emotion), D LLM width, U units.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, glu, linear, pad
from transformers import WhisperConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from re_llm.core.errors import RellmError
from re_llm.model.outputs import SpeechTokens, time_mask
from re_llm.recipe.options import AdapterOptions

HEADS = 8  # fixed in the released code


class EncoderLayers(nn.ModuleList):
    """Whisper encoder layers of another width, as the released code puts them into its adapters.

    Args:
        whisper: config of the speech encoder, which gives the inner width, the activation and the dropout.

    Raises:
        RellmError: the width is not a multiple of the attention heads.
    """

    def __init__(self, count: int, width: int, whisper: WhisperConfig):
        if count and width % HEADS:
            raise RellmError(f"encoder layers of {width} channels in the adapter", allowed=f"multiples of {HEADS}")
        config = WhisperConfig(**{**whisper.to_dict(), "d_model": width, "encoder_attention_heads": HEADS})
        config._attn_implementation = whisper._attn_implementation or "sdpa"
        super().__init__(WhisperEncoderLayer(config) for _ in range(count))
        self.config = config

    def forward(self, hidden: Tensor, lengths: Tensor | None, which: slice = slice(None)) -> Tensor:
        """States [B, T, C] through the layers `which`; attention keeps to `lengths` [B], or sees the padding too."""
        mask = None
        if lengths is not None:
            real = time_mask(lengths, hidden.shape[1])
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden, attention_mask=real)
        for layer in list(self)[which]:
            hidden = layer(hidden, mask)
        return hidden


class IntermediateUnits(nn.Module):
    """Which of a small vocabulary each state says, and states that know it.

    Hierarchical conditional CTC (Higuchi et al. 2022).

    The tokens of an LLM are tens of thousands, of which some dozen hours of speech say most only a few times, and CTC
    chooses each without its neighbours. Units are the pieces that they are made of, all of them said often; the layers
    behind read which of them were heard.
    """

    def __init__(self, width: int, units: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, units + 1)  # the blank is the last one
        self.back = nn.Linear(units + 1, width)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """States [B, S, C] -> states that know the prediction, and its logits [B, S, U + 1]."""
        logits = self.score(self.norm(hidden))
        return hidden + self.back(logits.softmax(-1)), logits


class StridedConv(nn.Conv1d):
    """A convolution that is trained in bfloat16 on a CPU as a product of matrices, its windows laid side by side.

    Forward and backward pass then take 0.6 to 0.9 of the time of oneDNN's; in float32, and for short kernels over many
    positions, they would take longer (`benchmarks/strided_conv.py`). The weights are those of the convolution.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, C, T] -> [B, O, T / stride]."""
        (kernel,), (stride,), (padding,) = self.kernel_size, self.stride, cast(tuple[int], self.padding)
        if not self._pays(hidden, kernel, stride):
            return super().forward(hidden)
        padded = pad(hidden.to(torch.bfloat16), (padding, padding)).transpose(1, 2)
        windows = padded.unfold(1, kernel, stride).flatten(2)  # [B, T / stride, C * kernel]
        return linear(windows, self.weight.flatten(1), self.bias).transpose(1, 2)

    def _pays(self, hidden: Tensor, kernel: int, stride: int) -> bool:
        if hidden.device.type != "cpu" or not torch.is_grad_enabled():
            return False
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else hidden.dtype
        positions = hidden.shape[0] * hidden.shape[2] // stride
        return dtype == torch.bfloat16 and (kernel >= 5 or 3 * positions <= self.out_channels)


class Subsampler(nn.Module):
    """Strided convolutions with GLU, then a residual bottleneck and LayerNorm (RE-LLM section II-A, BLSP).

    Every convolution but the last keeps the input width (2 C channels, halved by the GLU); the last one goes to D.
    """

    def __init__(self, in_width: int, out_width: int, options: AdapterOptions, whisper: WhisperConfig):
        super().__init__()
        self.options = options
        widths = [in_width] * options.conv_layers + [out_width]
        self.convs = nn.ModuleList(
            StridedConv(a, 2 * b, options.kernel_size, options.stride, options.kernel_size // 2)
            for a, b in pairwise(widths)
        )
        self.down = nn.Linear(out_width, options.bottleneck, bias=False)
        self.up = nn.Linear(options.bottleneck, out_width, bias=False)
        self.hidden_layers = EncoderLayers(options.hidden_layers, options.bottleneck, whisper)
        self.units = IntermediateUnits(options.bottleneck, options.units) if options.units else None
        self.norm = nn.LayerNorm(out_width, eps=1e-5)
        self.dropout = nn.Dropout(0.0)  # see `set_dropout`

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype

    def forward(self, states: Tensor, lengths: Tensor, *, keep_padding: bool = False) -> SpeechTokens:
        """Speech tokens of encoder states.

        Args:
            states: [B, T, C].
            lengths: [B], states of each utterance.
            keep_padding: let what stands behind an utterance leak into its tokens, as the released code does in a
                batch. By default it is zeroed before each convolution and masked in attention, so that a batch equals
                its single items.
        """
        hidden = states.to(self.dtype).transpose(1, 2)
        for conv in self.convs:
            if not keep_padding:
                hidden = hidden * time_mask(lengths, hidden.shape[2])[:, None]
            hidden = self.dropout(glu(conv(hidden), dim=1))
            lengths = torch.div(lengths - 1, self.options.stride, rounding_mode="floor") + 1
        hidden = hidden.transpose(1, 2)
        inner = self.down(hidden)
        within, units = None if keep_padding else lengths, None
        if self.units is not None:
            inner, units = self.units(self.hidden_layers(inner, within, slice(1)))
            inner = self.hidden_layers(inner, within, slice(1, None))
        else:
            inner = self.hidden_layers(inner, within) if self.hidden_layers else gelu(inner)
        hidden = self.norm(hidden + self.up(self.dropout(inner)))
        mask = time_mask(lengths, hidden.shape[1])[..., None]
        embeddings = hidden if keep_padding else hidden * mask
        pooled = (hidden * mask).sum(1) / lengths[:, None].clamp(min=1)
        return SpeechTokens(embeddings, lengths, pooled, units=units)


def set_dropout(adapter: nn.Module, probability: float) -> None:
    """Dropout of an adapter in training: behind its convolutions and bottleneck, and in its encoder layers behind
    attention and in the feed-forward part. Attention weights keep none: the fused kernels of a CPU know no dropout.

    Args:
        probability: in [0, 1).
    """
    for module in adapter.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, WhisperEncoderLayer):
            module.dropout = module.activation_dropout = probability


def copy_widened(source: Subsampler, target: Subsampler, *, scale: float = 0.1) -> None:
    """Starts a fused adapter from one that knows only the speech channels.

    The RE-LLM paper fine-tunes BLSP-Emo's adapter, whose input has no room for the emotion embedding, and does not say
    how.

    The inner width of the adapter equals its input width, so `target` has extra channels inside as well. They are
    placed behind the copied ones in each half of every GLU. A copied output sees the copied inputs through the
    copied weights and the extra inputs through fresh weights times `scale`. The value half of an extra output starts
    from the extra inputs alone and without bias: with emotion channels at zero it is zero, and the target's
    output equals the source's exactly. Nothing is frozen: training mixes the channels freely.

    Hidden layers beyond those of the source, and an intermediate prediction that it does not have, start without an
    effect on the output.

    Args:
        source: adapter over the speech channels alone.
        target: freshly initialised adapter over speech and emotion channels, in this order; changed in place.
        scale: factor on the fresh weights that lead from extra to copied channels; 0 makes the target's first
            output equal the source's for any emotion.

    Raises:
        RellmError: the two differ in more than the input width, more hidden layers, and units that are new.
    """
    old_options, new_options = source.options, target.options
    kept = new_options.model_copy(
        update={name: getattr(old_options, name) for name in ("hidden_layers", "units", "spoken_only")}
    )
    grows = 0 < old_options.hidden_layers <= new_options.hidden_layers or not new_options.hidden_layers
    fits = old_options == kept and grows and old_options.units in (0, new_options.units)
    if not fits or source.norm.weight.shape != target.norm.weight.shape:
        raise RellmError(
            f"an adapter {source.options} cannot start an adapter {target.options}",
            todo="Keep the adapter options and the LLM of the checkpoint, or start fresh",
        )
    with torch.no_grad():
        for old, new in zip(source.convs, target.convs, strict=True):
            _widen(cast(nn.Conv1d, old), cast(nn.Conv1d, new), scale)
        rest = {k: v for k, v in source.state_dict().items() if not k.startswith("convs.")}
        target.load_state_dict(rest, strict=False)
        for layer in list(target.hidden_layers)[len(source.hidden_layers) :]:
            assert isinstance(layer, WhisperEncoderLayer)
            _silence(layer.self_attn.out_proj)
            _silence(layer.fc2)
        if target.units is not None and source.units is None:
            _silence(target.units.back)


def _silence(layer: nn.Linear) -> None:
    layer.weight.zero_()
    layer.bias.zero_()


def _widen(old: nn.Conv1d, new: nn.Conv1d, scale: float) -> None:
    assert old.bias is not None and new.bias is not None
    inputs, outputs, wide = old.in_channels, old.out_channels // 2, new.out_channels // 2
    if inputs > new.in_channels or outputs > wide:
        raise RellmError(f"an adapter with {inputs} input channels cannot start one with {new.in_channels}")
    for half in (0, 1):  # a GLU multiplies the first half (values) by the sigmoid of the second (gates)
        copied = slice(half * wide, half * wide + outputs)
        extra = slice(half * wide + outputs, (half + 1) * wide)
        new.weight[copied, :inputs] = old.weight[half * outputs : (half + 1) * outputs]
        new.bias[copied] = old.bias[half * outputs : (half + 1) * outputs]
        new.weight[copied, inputs:] *= scale
        if half == 0:
            new.weight[extra, :inputs] = 0.0
            new.bias[extra] = 0.0
