"""What decides the outcome of a training: the content of its rows, recordings and models, and its options."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from re_llm.audio.content import place_hash, recording_hash
from re_llm.audio.source import split_member
from re_llm.cluster.work import batched, ordered_map
from re_llm.core.assets import component_hash
from re_llm.core.files import file_hash, hash_of, known_hashes, remember_hashes, write_json
from re_llm.core.product import Product
from re_llm.recipe.stages import StageOptions
from re_llm.train.examples import Example, Examples
from re_llm.train.plan import Plan
from re_llm.train.processes import Processes

STAGE = "train 1"  # the number rises when the same plan begins to give other weights
READ_AHEAD = 4096  # utterances whose recordings are hashed at a time
HASHES = ".hashes.json"  # of recordings, so that they are read again only when they have changed
# What a training writes into its folder, beside the encoder states.
PARTS = ("config.json", "*.safetensors", "checkpoints", "log.jsonl", "report.json", "recipe.resolved.yaml")
# At their defaults, as before there were any.
_LATER = (
    "exchange",
    "donors",
    "unanswered",
    "augment",
    "time_mask",
    "adapter_dropout",
    "validation",
    "features",
    "teacher_top_k",
    "ctc_sample",
    "ctc_text",
)
# Options that decide nothing: where things lie, who wrote the rows, how often the state is kept, which kernel runs.
_NOT_DECIDING = {"start", "data", "model", "save_every", "continuation_llm", "attention"}


class SegmentIds:
    """Ids of 32 hexadecimal digits of the segments of utterances, in 40 bytes each.

    Args:
        digests: the ids as bytes, in the order of the examples: [N, 16].
    """

    def __init__(self, examples: Examples, digests: bytes):
        self._examples = examples
        self._of_place = np.zeros((int(examples.places.max(initial=-1)) + 1, 2), dtype=">u8")
        self._of_place[examples.places] = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)

    def make_index(self) -> None:
        """See `Examples.make_index`."""
        self._examples.make_index()

    def __getitem__(self, key: str) -> str:
        index = self._examples.find(key)
        if index is None:
            raise KeyError(key)
        return self._of_place[self._examples.places[index]].tobytes().hex()

    def of(self, examples: Examples) -> Iterator[str]:
        """Of these examples, in their order."""
        ids = self._of_place[examples.places].tobytes()
        return (ids[16 * i : 16 * i + 16].hex() for i in range(len(examples)))

    def different(self, examples: Examples) -> np.ndarray:
        """For each different id, in the order in which they come first, the place of the last example that has it."""
        words = self._of_place[examples.places]
        order = np.lexsort(words.T)
        new = (words[order[1:]] != words[order[:-1]]).any(axis=1)  # where another id begins
        first, last = np.flatnonzero([True, *new]), np.flatnonzero([*new, True])
        return order[last][np.argsort(order[first])]


def segment_ids(examples: Sequence[Example], memory: Path, processes: Processes | None = None) -> SegmentIds:
    """A hash of the recording that each utterance is in, and of its place in it.

    Args:
        memory: folder where hashes are kept for the next time.
        processes: the first of them reads the recordings.

    Raises:
        RellmError: a recording is missing or cannot be read; names it.
    """
    found = Examples.of(examples)
    if processes is None:
        return SegmentIds(found, _digests(found, memory))
    return SegmentIds(found, processes.from_first(lambda: _digests(found, memory)))


def _digests(examples: Examples, memory: Path) -> bytes:
    digests = bytearray()
    with _remembered(memory) as hashes:
        for some in batched(examples.sources(), READ_AHEAD):
            places = [split_member(source.audio) for source in some]
            new = list(dict.fromkeys(name for name, _, _ in places if name not in hashes))
            # Threads serve here: hashing leaves the interpreter lock.
            hashed = ordered_map(lambda name: recording_hash(Path(name)), new, min(8, os.cpu_count() or 1))
            hashes.update(zip(new, hashed, strict=True))
            for source, (name, offset, length) in zip(some, places, strict=True):
                digests += bytes.fromhex(place_hash(hashes[name], offset, length, source.start, source.duration))
    return bytes(digests)


@contextmanager
def _remembered(memory: Path) -> Iterator[dict[str, str]]:
    """Hashes of recordings by name, to be filled; those unchanged since the last time are not read again."""
    file = memory / HASHES
    try:
        known = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        known = {}
    remember_hashes(known)
    hashes: dict[str, str] = {}
    yield hashes
    now = known_hashes(map(Path, hashes))
    if now.keys() - known.keys():
        write_json(file, known | now, indent=None)


def training_product(plan: Plan, out: Path, examples: Examples, segments: SegmentIds) -> Product:
    """The checkpoint folder of a plan, and everything that decides what is in it.

    Args:
        examples: of the plan.
        segments: what `segment_ids` gave of them.
    """
    parts = {role: name for role, name in plan.parts().items() if name is not None}
    rows = {f"data {number}": file_hash(path) for number, path in enumerate(plan.data, 1)}
    return Product(
        out,
        STAGE,
        inputs={
            **rows,
            "recordings": recordings_hash(examples, segments),
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


def recordings_hash(examples: Examples, segments: SegmentIds) -> str:
    """One hash of which utterances there are and what is heard in them."""
    pairs = zip(examples.sources(), segments.of(examples), strict=True)
    return hash_of(f"{source.key} {segment}" for source, segment in pairs)


def plan_settings(plan: Plan) -> dict[str, Any]:
    """The options that decide the outcome, as plain values."""
    unset = {name for name in _LATER if getattr(plan.stage, name) == StageOptions.model_fields[name].default}
    stage = json.loads(plan.stage.model_dump_json(exclude=_NOT_DECIDING | unset))
    for task in stage["tasks"]:
        if task["history"] == "none":  # as before there was any
            del task["history"], task["history_tokens"]
        if task["weight"] == 1.0:  # likewise
            del task["weight"]
    model = json.loads(plan.model.model_dump_json(exclude=None if plan.model.quantize else {"quantize"}))
    if not plan.model.adapter.units:
        del model["adapter"]["units"]  # likewise
    if not plan.model.adapter.spoken_only:
        del model["adapter"]["spoken_only"]  # likewise
    return {"stage": stage, "model": model, "emotions": list(plan.emotions), "seed": plan.seed}
