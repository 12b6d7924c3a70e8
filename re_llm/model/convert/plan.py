"""A conversion that is fully decided before its first byte is written: which tensor is made of which, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.model.convert.names import Layout, Piece
from re_llm.model.weights import LORA_WEIGHTS, WEIGHTS_INDEX, Stored, grouped_reasons, refuse_non_finite

SHARD_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Target:
    """How one tensor of the result is made.

    Attributes:
        sources: tensors of the source it is made of; none for one that the source has not.
        make: the result's tensor from those.
        nbytes: of the result.
    """

    sources: tuple[str, ...]
    make: Callable[..., Tensor]
    nbytes: int = 0


@dataclass
class ConvertReport:
    """What became of a checkpoint.

    Attributes:
        source, target: formats: `blsp-emo`, `re-llm (released)`, `qwen`, `ctranslate2`, `gguf`; `re-llm`, `blsp-emo`,
            or a model type of transformers.
        tensors: written to the weight files; lora: written to the PEFT file.
        left_out: tensor of the source -> why it has no place in the result.
        added: tensor of the result that the source has not -> what it holds.
        notes: what else a user should know.
    """

    source: str
    target: str
    folder: Path = Path()
    tensors: int = 0
    lora: int = 0
    gigabytes: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """For a person."""
        lora = f" and {self.lora} of LoRA" if self.lora else ""
        count = f"{self.tensors} tensors{lora}, {self.gigabytes:.3g} GB"
        lines = [f"{self.source} -> {self.target}: {count}, {self.folder}", *grouped_reasons(self.left_out)]
        lines += [f"added: {name} ({what})" for name, what in self.added.items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n  ".join(lines)


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that is decided before the first byte is written.

    Attributes:
        report: as far as it is known before the conversion.
        stored: tensors of the source by name.
        model: name in the new weight file -> how it is made.
        finish: writes what is not weights into the new folder.
        lora: as `model`, for the PEFT file.
    """

    report: ConvertReport
    stored: dict[str, Stored]
    model: dict[str, Target]
    finish: Callable[[Path], None]
    lora: dict[str, Target] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Of the weight files."""
        return sum(target.nbytes for target in self.model.values())


def write(plan: ConversionPlan, folder: Path, progress: bool) -> None:
    """Weights, shard by shard, and LoRA: a model of any size passes through.

    Tensors come in the order in which the source's files hold what they are made of. Memory: one shard.

    Raises:
        RellmError: a tensor of the source holds NaN or infinite values.
    """
    place = {name: i for i, name in enumerate(plan.stored)}
    order = sorted(plan.model, key=lambda name: place[plan.model[name].sources[0]] if plan.model[name].sources else -1)
    shards = split_state_dict_into_shards_factory(
        {name: plan.model[name].nbytes for name in order},
        get_storage_size=lambda nbytes: nbytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    files = [(file, plan.model, names) for file, names in shards.filename_to_tensors.items()]
    files += [(LORA_WEIGHTS, plan.lora, list(plan.lora))] if plan.lora else []
    last: tuple[tuple[str, ...], list[Tensor]] = ((), [])  # q, k and v come out of one tensor
    with progress_bar("convert", len(plan.model) + len(plan.lora), unit="tensors", show=progress) as advance:
        for file, targets, names in files:
            made: dict[str, Tensor] = {}
            for name in names:
                sources = targets[name].sources
                if last[0] != sources:
                    last = (sources, [plan.stored[source].read() for source in sources])
                    refuse_non_finite(zip(sources, last[1], strict=True), "the checkpoint to convert")
                made[name] = targets[name].make(*last[1])
                advance(1)
            _save(made, folder / file)
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": dict(sorted(shards.tensor_to_filename.items()))}
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file.

    Raises:
        OSError: it cannot be written; names it and its first tensor.
    """
    places: set[int] = set()
    own = {}
    for name, tensor in tensors.items():  # tensors of one memory (parts of one, tied ones) are refused by safetensors
        memory = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if memory in places else tensor.contiguous()
        places.add(memory)
    try:
        save_file(own, path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path.name}, with {next(iter(tensors))} and {len(tensors) - 1} more: {error}") from error


def pieces(
    expected: Mapping[str, Tensor], find: Callable[[str], Piece], stored: Mapping[str, Stored], where: Path
) -> dict[str, Target]:
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
        found[name] = Target((piece.name,), piece.cut, value.numel() * held.dtype.itemsize)
    return found


def left_out(stored: Mapping[str, Stored], used: Mapping[str, Target], layout: Layout) -> dict[str, str]:
    """Tensors of the source that nothing is made of, and why."""
    taken = {source for target in used.values() for source in target.sources}
    return {name: layout.why_left_out(name) for name in stored if name not in taken}
