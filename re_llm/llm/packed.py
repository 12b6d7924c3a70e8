"""Linear layers of an LLM that answers on a CPU in bfloat16: weights packed once for oneDNN.

torch hands the weight of a linear layer to oneDNN as it lies, which packs it in every call; for the few rows of a step
of decoding that takes as long as the product itself (`benchmarks/packed_linear.py`). The packed form takes the place
of the weight, so it costs memory only where the weight is also that of the input embeddings. It gives the same bits.

O outputs, I inputs.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from re_llm.llm.device import can_pack


class _Packed:
    """A weight [O, I] as oneDNN multiplies it. Copies of a module share it; nobody can change it."""

    def __init__(self, weight: Tensor):
        with torch.no_grad():
            self.tensor: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
        self.requires_grad = weight.requires_grad

    def __deepcopy__(self, memo: object) -> _Packed:
        return self

    def __reduce__(self) -> tuple[type[_Packed], tuple[nn.Parameter]]:
        return _Packed, (self.plain(),)

    def plain(self) -> nn.Parameter:
        """The weight as it was."""
        return nn.Parameter(self.tensor.to_dense(), self.requires_grad)


class PackedLinear(nn.Linear):
    """A linear layer for inference whose weight is packed; made by `pack`.

    It is an ordinary layer again from the moment somebody asks for its `weight`, moves it or loads into it. Its state
    dict is that of the ordinary layer; `parameters()` leaves its weight out.
    """

    _packed: _Packed

    def forward(self, input: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        if input.dtype is not torch.bfloat16 or (input.requires_grad and torch.is_grad_enabled()):
            return nn.functional.linear(input, self.weight, self.bias)
        if torch.compiler.is_compiling():
            return _outside(self, input)
        return self._multiply(input)

    def _multiply(self, input: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(input, self._packed.tensor, self.bias, "none", [], "")
        return found

    def _unpack(self) -> nn.Linear:
        packed = self.__dict__.pop("_packed")
        self.__class__ = nn.Linear  # type: ignore[assignment]
        if "weight" not in self._parameters:
            self.register_parameter("weight", packed.plain())
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        return self._unpack()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._unpack()._load_from_state_dict(*args, **options)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if f"{prefix}weight" not in destination:
            weight = self._packed.plain()
            destination[f"{prefix}weight"] = weight if keep_vars else weight.detach()


@torch.compiler.disable
def _outside(layer: PackedLinear, input: Tensor) -> Tensor:
    """Between the parts of a compiled model: torch's compiler knows packed weights as constants of its own alone."""
    return layer._multiply(input)


# Not in the class: nn.Module answers for attributes that a class does not have, and type checkers know `weight`.
PackedLinear.weight = property(lambda self: self._unpack().weight)  # type: ignore[assignment]


def pack(model: nn.Module) -> int:
    """Packs the linear layers of a model that is not trained any further, but for LoRA's own.

    Returns:
        How many layers were packed: none where `can_pack` says no.
    """
    held = Counter(id(each) for module in model.modules() for each in module._parameters.values())
    found = [
        module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and "lora_" not in name and can_pack(module.weight)
    ]
    for layer in found:
        weight = layer.weight
        shared = held[id(weight)] > 1
        layer._packed = cast(Any, _Packed(weight))
        layer.__class__ = PackedLinear
        if not shared:
            del layer._parameters["weight"]
    if found:
        _trim()
    return len(found)


def _trim() -> None:
    """Gives the old weights' memory back: they lay between others, and glibc keeps such (190 MB of a SmolLM2-135M)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # where the C library is another one
        ctypes.CDLL(None).malloc_trim(0)
