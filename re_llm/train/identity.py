"""What decides the outcome of a training: the content of its rows, recordings and models, and its options."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from re_llm.audio.content import place_hash, recording_hash
from re_llm.audio.source import split_member
from re_llm.cluster.work import ordered_map
from re_llm.core.assets import component_hash
from re_llm.core.files import file_hash, hash_of, known_hashes, remember_hashes, write_json
from re_llm.core.product import Product
from re_llm.recipe.stages import StageOptions
from re_llm.train.plan import Plan
from re_llm.train.rows import Example

STAGE = "train 1"  # the number rises when the same plan begins to give other weights
HASHES = ".hashes.json"  # of recordings, so that they are read again only when they have changed
# What a training writes into its folder, beside the encoder states.
PARTS = ("config.json", "*.safetensors", "checkpoints", "log.jsonl", "report.json", "recipe.resolved.yaml")
# Options that decide nothing: where things lie, who wrote the rows, and how often the state is kept.
_LATER = ("exchange", "donors", "validation", "features")  # at their defaults, as before there were any
_NOT_DECIDING = {"start", "data", "model", "save_every", "continuation_llm"}


def segment_ids(examples: Sequence[Example], memory: Path) -> dict[str, str]:
    """By key, a hash of the recording that each utterance is in, and of its place in it.

    Args:
        memory: folder where hashes are kept for the next time.

    Raises:
        RellmError: a recording is missing or cannot be read; names it.
    """
    names = dict.fromkeys(split_member(example.audio)[0] for example in examples)
    with _remembered(list(map(Path, names)), memory):
        # Threads serve here: hashing leaves the interpreter lock.
        hashed = ordered_map(lambda name: recording_hash(Path(name)), names, min(8, os.cpu_count() or 1))
        hashes = dict(zip(names, hashed, strict=True))

    def segment(example: Example) -> str:
        name, offset, length = split_member(example.audio)
        return place_hash(hashes[name], offset, length, example.start, example.duration)

    return {example.key: segment(example) for example in examples}


@contextmanager
def _remembered(paths: Sequence[Path], memory: Path) -> Iterator[None]:
    """Recordings that have not changed since the last time are not read again."""
    file = memory / HASHES
    try:
        known = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        known = {}
    remember_hashes(known)
    yield
    now = known_hashes(paths)
    if now.keys() - known.keys():
        write_json(file, known | now, indent=None)


def training_product(plan: Plan, out: Path, segments: Mapping[str, str]) -> Product:
    """The checkpoint folder of a plan, and everything that decides what is in it.

    Args:
        segments: what `segment_ids` gave of the plan's examples.
    """
    parts = {role: name for role, name in plan.parts().items() if name is not None}
    rows = {f"data {number}": file_hash(path) for number, path in enumerate(plan.data, 1)}
    return Product(
        out,
        STAGE,
        inputs={
            **rows,
            "recordings": hash_of(f"{key} {segment}" for key, segment in segments.items()),
            **{role: component_hash(name) for role, name in parts.items()},
        },
        settings=plan_settings(plan),
        names={
            **{f"data {number}": str(path) for number, path in enumerate(plan.data, 1)},
            **{role: f"{role} ({name})" for role, name in parts.items()},
            "recordings": "a recording, or which rows there are,",
        },
        parts=PARTS,
        beside=(out / "dropped.jsonl",),
    )


def plan_settings(plan: Plan) -> dict[str, Any]:
    """The options that decide the outcome, as plain values."""
    unset = {name for name in _LATER if getattr(plan.stage, name) == StageOptions.model_fields[name].default}
    stage = json.loads(plan.stage.model_dump_json(exclude=_NOT_DECIDING | unset))
    for task in stage["tasks"]:
        if task["history"] == "none":  # as before there was any
            del task["history"], task["history_tokens"]
    model = json.loads(plan.model.model_dump_json(exclude=None if plan.model.quantize else {"quantize"}))
    return {"stage": stage, "model": model, "emotions": list(plan.emotions), "seed": plan.seed}
