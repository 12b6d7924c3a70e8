"""Whether memory and disk are enough to train a recipe, from the sizes in its parts' configs: nothing is loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from re_llm.recipe.config import Recipe, StageOptions

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


def feature_bytes(recipe: Recipe, folders: Mapping[str, Path], rows: Mapping[str, Mapping[str, int]]) -> int:
    """Disk that cached encoder states take, of the corpora that are trained on with a frozen speech encoder."""
    from re_llm.model.components import speech_config

    width = int(speech_config(folders[recipe.components.speech_encoder]).d_model)
    cached = {corpus for stage in recipe.stages.values() if _caches(stage) for corpus in stage.data}
    if any(system.per_corpus for system in recipe.systems.values()):
        cached |= {name for name, options in recipe.corpora.items() if options.evaluate}
    utterances = sum(count for name in cached for split, count in rows.get(name, {}).items() if split == "train")
    return int(utterances * SECONDS * STATES * width * STATE_BYTES)


def _caches(stage: StageOptions) -> bool:
    return "speech_encoder" not in stage.train and getattr(stage, "features", "disk") == "disk"


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
