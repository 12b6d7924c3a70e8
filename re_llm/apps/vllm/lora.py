"""Partial LoRA on vLLM's linear layers.

vLLM runs the rows of all requests as one list of tokens, and joins layers that PEFT knows apart (q, k and v; gate and
up). Their A's are stacked and their B's stand on a diagonal, so that the branch of a joined layer is one product more.

Shapes: L tokens of a step, r rank, k joined layers, I and O width of a layer's input and output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from re_llm.core.errors import RellmError
from re_llm.model.partial_lora import PEFT_PREFIX
from re_llm.recipe.options import LoraOptions


class SpeechMask(nn.Module):
    """Where the tokens of the current step pass through the LoRA branch.

    The mask lies in one buffer for all steps and layers: a CUDA graph is recorded with its address.

    Args:
        options: `scope` says which tokens: speech, text (all others), or all.
        most: tokens of the largest step.
    """

    mask: Tensor  # [most, 1]

    def __init__(self, options: LoraOptions, most: int):
        super().__init__()
        self.scope = options.scope
        self.register_buffer("mask", torch.zeros(most, 1), persistent=False)

    def set(self, speech: Tensor) -> None:
        """Of the tokens of the next pass, [L], True at speech tokens."""
        if self.scope == "global":
            self.mask.fill_(1)
        else:
            self.mask[: len(speech), 0] = speech if self.scope == "speech" else ~speech


class PartialLoraLinear(nn.Module):
    """W x + m s B A x of one of vLLM's linear layers, which gives its output and a bias that is not added.

    Args:
        linear: vLLM's layer.
        a: [k r, I], the joined layers' A.
        b: [O, k r], their B on a diagonal, times the scale s.
    """

    def __init__(self, linear: nn.Module, a: Tensor, b: Tensor, mask: SpeechMask):
        super().__init__()
        self.linear = linear
        self.a, self.b = nn.Parameter(a, requires_grad=False), nn.Parameter(b, requires_grad=False)
        self._mask = (mask,)  # in a tuple: one module of all layers, not a part of each

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        output, bias = self.linear(hidden)
        mask = self._mask[0].mask[: hidden.shape[0]].to(hidden.dtype)
        branch = nn.functional.linear(nn.functional.linear(hidden, self.a) * mask, self.b)
        return output + branch, bias


def wrap(
    language_model: nn.Module,
    weights: Mapping[str, Tensor],
    options: LoraOptions,
    joined: Mapping[str, Sequence[str]],
    mask: SpeechMask,
) -> list[str]:
    """Puts the branches of a PEFT adapter file around the layers they belong to, in place.

    Args:
        weights: by PEFT's names.
        joined: of vLLM's class: name of a joined layer -> names of its parts, in order.

    Returns:
        names of the wrapped layers.

    Raises:
        RellmError: this LLM has no such layer in vLLM.
    """
    wrapped = []
    for name, parts in _by_layer(weights, joined):
        parent_name, _, leaf = name.rpartition(".")
        try:
            parent = language_model.get_submodule(parent_name)
            linear = getattr(parent, leaf)
        except AttributeError:
            raise RellmError(
                f"LoRA acts on {name}, which vLLM's {type(language_model).__name__} has not",
                todo="Answer with `re-llm serve`",
            ) from None
        setattr(parent, leaf, PartialLoraLinear(linear, *_joined(linear, parts, options), mask))
        wrapped.append(name)
    return wrapped


def _by_layer(
    weights: Mapping[str, Tensor], joined: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, list[tuple[Tensor, Tensor] | None]]]:
    """vLLM's name of each layer with LoRA, and (A, B) of its parts; None = a part without LoRA."""
    places = {part: (whole, i, len(parts)) for whole, parts in joined.items() for i, part in enumerate(parts)}
    found: dict[str, list[tuple[Tensor, Tensor] | None]] = {}
    for key, a in weights.items():
        if not key.endswith(".lora_A.weight"):
            continue
        path = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
        parent, _, leaf = path.rpartition(".")
        whole, index, count = places.get(leaf, (leaf, 0, 1))
        parts = found.setdefault(f"{parent}.{whole}", [None] * count)
        parts[index] = (a, weights[key.replace(".lora_A.", ".lora_B.")])
    return iter(found.items())


def _joined(
    linear: nn.Module, parts: Sequence[tuple[Tensor, Tensor] | None], options: LoraOptions
) -> tuple[Tensor, Tensor]:
    """A [k r, I] and B [O, k r] of a layer, in the dtype and on the device of its weights."""
    sizes = list(getattr(linear, "output_sizes", ())) or [linear.output_size]
    if len(sizes) != len(parts):  # a layer that is one in PEFT as well
        sizes = [sum(sizes)]
    like = next(p for p in linear.parameters() if p.is_floating_point())
    found = [part for part in parts if part is not None]
    a = torch.cat([part[0] for part in found])
    b = a.new_zeros(sum(sizes), len(a))
    row = column = 0
    for size, part in zip(sizes, parts, strict=True):
        if part is not None:
            rank = part[1].shape[1]
            if part[1].shape[0] != size:
                raise RellmError(f"LoRA gives {part[1].shape[0]} outputs, and the layer has {size}")
            b[row : row + size, column : column + rank] = part[1] * (options.alpha / options.r)
            column += rank
        row += size
    return a.to(like.device, like.dtype), b.to(like.device, like.dtype)
