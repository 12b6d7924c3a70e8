"""Whether memory and disk are enough to train a recipe, from the sizes in its parts' configs: nothing is loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from re_llm.recipe.config import Recipe
from re_llm.recipe.stages import StageOptions

TRAINED_BYTES = 16  # of a trained parameter: float32 weight and gradient, two moments of AdamW
FROZEN_BYTES = 2  # of a frozen one, in bfloat16
BESIDE = 2_000_000_000  # activations of a batch, CUDA's context
BESIDE_SMALL = 400_000_000  # of models below 100 million parameters
STATES = 50  # encoder states a second
STATE_BYTES = 2
SECONDS = 4.5  # mean length of an utterance, where the corpus does not say
RESERVE = 2_000_000_000  # of a disk: logs, replies, reports


def room(
    recipe: Recipe, folders: Mapping[str, Path], rows: Mapping[str, Mapping[str, int]], out: Path | None
) -> Iterator[tuple[str, str, str]]:
    """What there is no room for: (part, what, what to do).

    Args:
        folders: where the recipe's components lie. rows: utterances of each corpus by split.
        out: folder of the run.
    """
    sizes = part_parameters(recipe, folders)
    have, where = _memory(recipe.device)
    for name, stage in recipe.stages.items():
        need = training_bytes(sizes, stage) * (recipe.workers if where == "memory" else 1)
        if need > have:
            todo = "lower `workers`, choose a smaller LLM, or use a larger device"
            yield f"stage {name}", f"about {need / 1e9:.1f} GB of {where} to train, {have / 1e9:.1f} GB here", todo
    need = RESERVE + feature_bytes(recipe, folders, rows)
    free = _free(out)
    if need > free:
        yield (
            "disk",
            f"about {need / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free",
            "set features: none, or another --out",
        )


def part_parameters(recipe: Recipe, folders: Mapping[str, Path]) -> dict[str, int]:
    """Parameters by part of the model that the recipe trains, built without weights."""
    import torch

    from re_llm.model.components import read_config, speech_config
    from re_llm.model.configuration import ReLlmConfig
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.sizes import part_sizes

    parts, options = recipe.components, recipe.model
    emotion = parts.emotion_encoder if options.fusion != "none" else None
    config = ReLlmConfig(
        text_config=read_config(folders[parts.llm]),
        speech_config=speech_config(folders[parts.speech_encoder]),
        emotion_config=read_config(folders[emotion]) if emotion else None,
        adapter=options.adapter,
    )
    with torch.device("meta"):
        model = ReLlmForConditionalGeneration(config)
        if options.lora is not None:
            model.add_lora(options.lora)
    return part_sizes(model)


def training_bytes(sizes: Mapping[str, int], stage: StageOptions) -> int:
    """Memory of one training process: frozen parts in bfloat16, trained ones with gradient and moments."""
    trained = sum(count for part, count in sizes.items() if part in stage.train)
    frozen = sum(sizes.values()) - trained
    beside = BESIDE if sum(sizes.values()) > 1e8 else BESIDE_SMALL
    return trained * TRAINED_BYTES + frozen * FROZEN_BYTES + beside


def feature_bytes(
    recipe: Recipe, folders: Mapping[str, Path], rows: Mapping[str, Mapping[str, int]], choice: str = "disk"
) -> int:
    """Disk that the states of frozen encoders take, or would take.

    Args:
        choice: count what stages with this `features` train on.
    """
    from re_llm.model.components import read_config, speech_config

    width = int(speech_config(folders[recipe.components.speech_encoder]).d_model)
    if recipe.model.fusion == "frames" and recipe.components.emotion_encoder is not None:
        width += int(read_config(folders[recipe.components.emotion_encoder]).hidden_size)
    read: set[tuple[str, str]] = set()
    for corpora, stage in _trainings(recipe):
        if "speech_encoder" not in stage.train and stage.features == choice:
            held_out = stage.validation.split if stage.validation is not None else None
            read |= {(corpus, split) for corpus in corpora for split in ("train", held_out or "train")}
    utterances = sum(rows.get(corpus, {}).get(split, 0) for corpus, split in read)
    return int(utterances * SECONDS * STATES * width * STATE_BYTES)


def feature_notes(recipe: Recipe, folders: Mapping[str, Path], rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """How large the store of encoder states is, or would be, where that is more than a gigabyte."""
    size, spared = (feature_bytes(recipe, folders, rows, choice) / 1e9 for choice in ("disk", "none"))
    if size >= 1:
        yield f"encoder states take about {size:.1f} GB of disk; a stage with `features: none` writes none"
    if spared >= 1:
        yield f"`features: none` spares about {spared:.1f} GB of disk, and encodes anew in every step"


def _trainings(recipe: Recipe) -> Iterator[tuple[list[str], StageOptions]]:
    """(corpora, options) of every training of the recipe."""
    for stage in recipe.stages.values():
        yield list(stage.data), stage
    for system in recipe.systems.values():
        if system.per_corpus:
            yield [name for name, corpus in recipe.corpora.items() if corpus.evaluate], recipe.stage_for(system)


def _memory(device: str) -> tuple[int, str]:
    """Bytes of the device that trains, and what it is called."""
    from re_llm.llm.device import pick_device

    place = pick_device(device)
    if place.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(place).total_memory), str(place)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "memory"


def _free(out: Path | None) -> int:
    place = (out or Path()).resolve()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
