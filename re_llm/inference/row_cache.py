"""Keys and values of rows of different lengths that are decoded together, and of what they all begin with.

B rows, H heads, W positions, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 64  # positions that are added when a row has outgrown the others


class _RowLayer(DynamicLayer):
    """One layer: row b fills its first `lengths[b]` positions of [B, H, W, D]; a step writes one more in each row.

    transformers' own layer copies all keys and values in every step, and cannot be joined or left.
    """

    def __init__(self, rows: RowCache):
        super().__init__()
        self._rows = rows

    def resize(self, like: DynamicLayer, rows: int, width: int) -> None:
        """Makes room for that many rows and positions, of the type and heads of another layer."""
        for name in ("keys", "values"):
            old, model = getattr(self, name), getattr(like, name)
            new = model.new_zeros(rows, model.shape[1], width, model.shape[3])
            if old is not None:
                new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)
        self.is_initialized = True

    def put(self, row: int, other: DynamicLayer, source: int, length: int) -> None:
        """Copies a row of another layer, or of this one."""
        self.keys[row, :, :length] = other.keys[source, :, :length]
        self.values[row, :, :length] = other.values[source, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, at = self._rows.places
        self.keys[rows, :, at] = key_states[:, :, 0]
        self.values[rows, :, at] = value_states[:, :, 0]
        width = self.get_seq_length() + 1
        return self.keys[: len(rows), :, :width], self.values[: len(rows), :, :width]

    def get_seq_length(self) -> int:
        return max(self._rows.lengths, default=0)


class RowCache(Cache):
    """The cache of a batch that rows join and leave. It keeps the size that it once needed until it is empty.

    Attributes:
        lengths: positions that each row fills.
        places: rows [B] and the positions [B] at which the running step writes.
    """

    def __init__(self, layers: int):
        self.lengths: list[int] = []
        self.places: tuple[torch.Tensor, torch.Tensor]
        self._size = (0, 0)
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])

    def add(self, cache: DynamicCache, source: int, length: int) -> None:
        """A new last row: the first positions of a row of another cache."""
        self._reserve(cache, len(self.lengths) + 1, length + 1)
        for layer, other in zip(self.layers, cache.layers, strict=True):
            layer.put(len(self.lengths), other, source, length)
        self.lengths.append(length)

    def remove(self, row: int) -> None:
        """The last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self.layers:
                layer.put(row, layer, last, self.lengths[last])
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._size = (0, 0)
            for layer in self.layers:
                layer.keys = layer.values = None

    def begin_step(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention mask [B, W + 1] and positions [B, 1] of one token more in every row."""
        self._reserve(self, len(self.lengths), max(self.lengths) + 1)
        at = torch.tensor(self.lengths, device=device)
        self.places = torch.arange(len(at), device=device), at
        mask = torch.arange(max(self.lengths) + 1, device=device) <= at[:, None]
        return mask.long(), at[:, None]

    def end_step(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]

    def _reserve(self, like: Cache, rows: int, width: int) -> None:
        held, room = self._size
        if rows <= held and width <= room:
            return
        self._size = max(held, 1 << (rows - 1).bit_length()), max(room, width + ROOM)
        for layer, other in zip(self.layers, like.layers, strict=True):
            layer.resize(other, *self._size)


class Opening:
    """The keys and values of the tokens that many rows begin with; computed once.

    Attributes:
        ids: the tokens, which are text.
    """

    def __init__(self, ids: Sequence[int] = (), cache: DynamicCache | None = None):
        self.ids, self._cache = list(ids), cache

    def begins(self, ids: Sequence[int]) -> bool:
        """Whether a row begins with them and goes on."""
        return len(ids) > len(self.ids) and list(ids[: len(self.ids)]) == self.ids

    def fill(self, cache: DynamicCache, rows: int) -> None:
        """Puts them in front of `rows` rows, into an empty cache."""
        if self._cache is None:
            return
        for number, layer in enumerate(self._cache.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
