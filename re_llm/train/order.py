"""The order of training rows: shuffled, with batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence


class BucketedSampler:
    """Yields (epoch, index) in an order that batches utterances of similar length; the epoch is set by the trainer.

    An epoch is as many whole steps as the rows give, so that it is the same for one process and for several.

    Args:
        batch_size: rows of a batch, of all processes together. accumulate: batches of a step.
        longer: what is added to the lengths in an epoch; None adds nothing.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        accumulate: int = 1,
        longer: Callable[[int], Sequence[int]] | None = None,
    ):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.longer = longer
        step = batch_size * accumulate
        self.rows = len(lengths) // step * step or len(lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        lengths = self.lengths
        if self.longer is not None:
            lengths = [length + more for length, more in zip(lengths, self.longer(self.epoch), strict=True)]
        order = bucketed_order(lengths, self.batch_size, seed=self.seed, epoch=self.epoch)
        yield from ((self.epoch, index) for index in order[: self.rows])


def bucketed_order(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, pool: int = 50) -> list[int]:
    """A shuffled order in which neighbours have similar length: batches of `batch_size` waste little on padding.

    Shuffles, sorts within pools of `pool` batches, shuffles the batches.
    """
    draw = random.Random(f"{seed}/{epoch}/order")
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    for first in range(0, len(order), pool * batch_size):
        part = sorted(order[first : first + pool * batch_size], key=lambda i: lengths[i])
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    # A short batch anywhere but at the end would shift the border of every later one.
    short = [b for b in batches if len(b) < batch_size]
    full = [b for b in batches if len(b) == batch_size]
    draw.shuffle(full)
    return [i for batch in (*full, *short) for i in batch]
