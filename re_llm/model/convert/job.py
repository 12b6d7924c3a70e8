"""A conversion that is fully decided before its first byte is written: which tensor is made of which, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.model.convert.files import ShardWriter, save_tensors
from re_llm.model.convert.names import Layout, Piece
from re_llm.model.stored import Stored
from re_llm.model.weights import LORA_WEIGHTS


@dataclass(frozen=True)
class Recipe:
    """How one tensor of the result is made.

    Attributes:
        sources: tensors of the source it is made of.
        make: the result's tensor from those.
        nbytes: of the result.
    """

    sources: tuple[str, ...]
    make: Callable[..., Tensor]
    nbytes: int = 0


@dataclass
class Job:
    """Everything that is decided before the first byte is written.

    Attributes:
        stored: tensors of the source by name.
        model: name in the new weight file -> how it is made.
        lora: the same for the PEFT file.
        added: tensors that the source has not.
        finish: writes what is not weights into the new folder.
    """

    source: str
    target: str
    stored: dict[str, Stored]
    model: dict[str, Recipe]
    finish: Callable[[Path], None]
    lora: dict[str, Recipe] = field(default_factory=dict)
    added: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write(job: Job, folder: Path, progress: bool) -> int:
    """Weights and LoRA, in the order in which the source's files hold what they are made of. Returns bytes."""
    place = {name: i for i, name in enumerate(job.stored)}
    makes = sorted([*job.model.items(), *job.lora.items()], key=lambda each: place[each[1].sources[0]])
    writer, lora = ShardWriter(folder), {}
    read: tuple[tuple[str, ...], list[Tensor]] = ((), [])  # q, k and v come out of one tensor
    with progress_bar("convert", len(makes), unit="tensors", show=progress) as advance:
        for name, recipe in makes:
            if read[0] != recipe.sources:
                read = (recipe.sources, [job.stored[source].read() for source in recipe.sources])
            value = recipe.make(*read[1])
            if name in job.lora:
                lora[name] = value.clone()
            else:
                writer.add(name, value)
            advance(1)
    for name, value in job.added.items():
        writer.add(name, value)
    writer.close()
    if lora:
        save_tensors(lora, folder / LORA_WEIGHTS)
    return writer.total


def pieces(
    expected: Mapping[str, Tensor], find: Callable[[str], Piece], stored: Mapping[str, Stored], where: Path
) -> dict[str, Recipe]:
    """How each tensor of a model is cut out of the source.

    Args:
        expected: names and shapes of the new model.
        find: name in the new model -> piece of the source.

    Raises:
        RellmError: the source lacks a tensor, or has it in another shape or type; names file and tensor.
    """
    found = {}
    for name, value in expected.items():
        piece = find(name)
        held = stored.get(piece.name)
        if held is None:
            raise RellmError(f"{where} lacks the tensor {piece.name}", todo="Copy or download the whole folder again")
        shape = list(value.shape)
        if piece.part is not None:
            shape[0] *= 3
        if list(held.shape) != shape:
            raise RellmError(f"{held.file}: {piece.name} has shape {list(held.shape)}, its config needs {shape}")
        if not held.dtype.is_floating_point:
            raise RellmError(f"{held.file}: {piece.name} is {held.dtype}", allowed="weights that are not quantised")
        found[name] = Recipe((piece.name,), piece.cut, value.numel() * held.dtype.itemsize)
    return found


def rest(stored: Mapping[str, Stored], used: Mapping[str, Recipe], layout: Layout) -> dict[str, str]:
    """Tensors of the source that nothing is made of, and why."""
    taken = {source for recipe in used.values() for source in recipe.sources}
    return {name: layout.why_left_out(name) for name in stored if name not in taken}
