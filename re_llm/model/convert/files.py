"""Tensors written shard by shard: a model of any size passes through. Memory: one unfinished shard at most."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from re_llm.model.stored import WEIGHTS, WEIGHTS_INDEX

SHARD_BYTES = 2 * 2**30


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """One safetensors file.

    Raises:
        OSError: it cannot be written; names it and its first tensor.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path.name}, with {next(iter(tensors))} and {len(tensors) - 1} more: {error}") from error


class ShardWriter:
    """Writes tensors as they come into safetensors files of at most `shard_bytes`, and an index when they are several.

    Args:
        folder: existing folder; nothing is overwritten in it by another writer.
        shard_bytes: a single larger tensor gets a file of its own.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES):
        self.folder, self.limit, self.total = folder, shard_bytes, 0
        self._open: dict[str, Tensor] = {}
        self._places: list[tuple[int, int]] = []  # where the open tensors lie in memory
        self._bytes = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Takes one tensor."""
        size = tensor.numel() * tensor.element_size()
        if self._open and self._bytes + size > self.limit:
            self._write()
        value = tensor.contiguous()
        begin, end = value.data_ptr(), value.data_ptr() + size
        if any(first < end and begin < last for first, last in self._places):
            value = value.clone()  # the same memory as another tensor (tied weights), which safetensors refuses
        self._places.append((value.data_ptr(), value.data_ptr() + size))
        self._open[name] = value
        self._bytes += size
        self.total += size

    def _write(self) -> None:
        path = self.folder / f"shard-{len(self._shards)}.safetensors"
        save_tensors(self._open, path)
        self._shards.append(sorted(self._open))
        self._open, self._places, self._bytes = {}, [], 0

    def close(self) -> None:
        """Writes the last shard, gives the files their final names, and writes the index."""
        self._write()
        count = len(self._shards)
        placed: dict[str, str] = {}
        for i, names in enumerate(self._shards):
            final = WEIGHTS if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors"
            os.replace(self.folder / f"shard-{i}.safetensors", self.folder / final)
            placed.update(dict.fromkeys(names, final))
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(placed.items()))}
            (self.folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
