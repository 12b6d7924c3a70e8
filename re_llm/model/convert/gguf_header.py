"""The header of a GGUF file, read and checked before transformers is let at the file.

Versions 2 and 3, little endian: magic, version, number of tensors and of options; options as name, type, value; for
each tensor its name, sizes (fastest first), type and place; then the data, aligned.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from re_llm.core.errors import MissingExtra
from re_llm.model.convert.binary import Walk

MAGIC, VERSIONS, ALIGNMENT, MAX_RANK = b"GGUF", (2, 3), 32, 4
# Numbers of the types of options: letters of `struct`; beside them texts and arrays.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
Value = int | float | bool | str


@dataclass
class GgufHeader:
    """What a file says about itself.

    Attributes:
        options: scalars and texts by name; arrays (the vocabulary) are checked and left out.
        values: name -> how many numbers the tensor holds.
        kinds: name -> type of the tensor, as `F16`, `Q4_1`.
    """

    options: dict[str, Value] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """An option that is a text; empty when it is not there."""
        value = self.options.get(name)
        return value if isinstance(value, str) else ""


def read_header(path: Path) -> GgufHeader:
    """Options and tensors of a GGUF file.

    Raises:
        MissingExtra: the package gguf, which knows the sizes of the types, is not installed.
        RellmError: no GGUF, another version, a truncated file, sizes that contradict each other.
    """
    found = GgufHeader()
    with path.open("rb") as file:
        walk = Walk(file, path, "GGUF file")
        if walk.take(4) != MAGIC:
            raise walk.wrong("it does not begin with GGUF")
        version = walk.number("I")
        if version not in VERSIONS:
            raise walk.wrong(f"its version is {version}")
        tensors, options = walk.number("Q"), walk.number("Q")
        for _ in range(options):
            name = walk.name(walk.number("Q"))
            if name in found.options:
                raise walk.wrong(f"{name} is there twice")
            value = _value(walk, walk.number("I"))
            if value is not None:
                found.options[name] = value
        places = [_tensor(walk, found) for _ in range(tensors)]
        alignment = found.options.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment % 8:
            raise walk.wrong(f"its alignment is {alignment}")
        begin = -(-walk.at // alignment) * alignment
        for name, (place, size) in zip(found.values, places, strict=True):
            if begin + place + size > walk.size:
                raise walk.wrong(f"it ends at byte {walk.size}, within {name}")
    return found


def _value(walk: Walk, kind: int) -> Value | None:
    """One option's value; None for an array, whose lengths are checked."""
    if kind in _SCALARS:
        letter = _SCALARS[kind]
        (value,) = struct.unpack(f"<{letter}", walk.take(struct.calcsize(f"<{letter}")))
        return value
    if kind == _TEXT:
        return walk.text(walk.number("Q"))
    if kind != _ARRAY:
        raise walk.wrong(f"an option of the unknown type {kind}")
    inner, count = walk.number("I"), walk.number("Q")
    if inner in _SCALARS:
        walk.skip(count * struct.calcsize(f"<{_SCALARS[inner]}"))
    elif inner == _TEXT:
        for _ in range(count):
            walk.skip(walk.number("Q"))
    else:
        raise walk.wrong(f"an array of the type {inner}")
    return None


def _tensor(walk: Walk, found: GgufHeader) -> tuple[int, int]:
    """Notes one tensor; returns where its data begins, counted from all data, and its bytes."""
    sizes, names = _types()
    name = walk.name(walk.number("Q"))
    if name in found.values:
        raise walk.wrong(f"the tensor {name} is there twice")
    rank = walk.number("I")
    if not 1 <= rank <= MAX_RANK:
        raise walk.wrong(f"the tensor {name} has {rank} dimensions")
    shape = [walk.number("Q") for _ in range(rank)]
    kind, place = walk.number("I"), walk.number("Q")
    if kind not in sizes:
        raise walk.wrong(f"the tensor {name} is of the unknown type {kind}")
    block, block_bytes = sizes[kind]
    if shape[0] % block or not prod(shape):
        raise walk.wrong(f"the tensor {name} has the shape {shape} in blocks of {block}")
    found.values[name], found.kinds[name] = prod(shape), names[kind]
    return place, prod(shape) // block * block_bytes


def _types() -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
    """Type -> numbers in a block and bytes of it; type -> name."""
    with MissingExtra.unless("gguf", "small", "Reading a GGUF file"):
        from gguf import GGML_QUANT_SIZES
    return {int(k): v for k, v in GGML_QUANT_SIZES.items()}, {int(k): k.name for k in GGML_QUANT_SIZES}
