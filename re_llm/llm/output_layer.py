"""The output layer of an LLM reads whole rows of memory.

B rows, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn


def read_contiguous(output_layer: nn.Module | None) -> None:
    """Has the layer see its input with the strides of a tensor of its own.

    Behind a prompt transformers multiplies the last states [B, 1, D], which are a view of [B, L, D]. With such strides
    (also for B = 1, which counts as contiguous) torch multiplies row by row, and on a CPU it copies a frozen weight
    [V, D] for each row before.
    """
    if output_layer is not None:
        output_layer.register_forward_pre_hook(_contiguous)


def _contiguous(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    states = args[0]
    return (states.contiguous().view(-1).view(states.shape), *args[1:])
