"""Seeded damage to files: the same seed and the same originals give the same broken files, without a library."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
HEAD = 128  # bytes in which most headers lie


def mutated(originals: Sequence[bytes], seed: int, count: int) -> Iterator[bytes]:
    """`count` broken files: each has one to four kinds of damage, half of them near its beginning."""
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            rng.choice(DAMAGES)(data, rng, originals)
        yield bytes(data)


def _place(data: bytearray, rng: random.Random) -> int:
    end = len(data) if rng.random() < 0.5 else min(HEAD, len(data))
    return rng.randrange(max(end, 1))


def _flip(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _noise(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at : at + rng.randint(1, 16)] = rng.randbytes(rng.randint(1, 16))


def _extreme(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """A number of a header becomes zero, or as large as it can be."""
    at, size = _place(data, rng), rng.choice((1, 2, 4, 8))
    value = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _truncate(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    del data[_place(data, rng) :]


def _delete(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.randint(1, 1 + len(data) // 4)]


def _repeat(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.randint(1, 64)] * rng.randint(1, 4)


def _splice(data: bytearray, rng: random.Random, originals: Sequence[bytes]) -> None:
    """The rest of the file is that of another one."""
    other = rng.choice(originals)
    data[_place(data, rng) :] = other[rng.randrange(len(other)) :]


DAMAGES = (_flip, _noise, _extreme, _truncate, _delete, _repeat, _splice)
