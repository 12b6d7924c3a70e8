"""Batches of the miniature chat LLM's rows, and the disturbance of their content embeddings.

Shapes: B rows, P prefix tokens, L content tokens, D width.

A frozen LLM that has only seen clean text cannot read speech embeddings, which blur, repeat and surround words. So
the content's embeddings are disturbed from the start of its training: tokens doubled, fillers put in between,
neighbours smeared into each other, noise added.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from re_llm.mini.training.llm_rows import Piece, Row


@dataclass(frozen=True)
class Disturbance:
    """How strongly content embeddings are disturbed. Training draws each row's strengths below these."""

    double: float = 0.6
    """Probability that a token is doubled."""
    filler: float = 0.6
    """Probability that a filler follows a token."""
    smear: float = 0.35
    """Part of an embedding that comes from its two neighbours."""
    noise: float = 0.7
    """Standard deviation of Gaussian noise, in RMS of the embedding matrix."""

    fraction: float = 0.7
    """Fraction of the rows that are disturbed at all."""

    @property
    def strengths(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "fraction"}

    def scaled(self, factor: float) -> Disturbance:
        """The same with all strengths multiplied; the fraction stays."""
        return replace(self, **{name: factor * value for name, value in self.strengths.items()})

    def draw(self, rng: random.Random) -> Disturbance:
        """Strengths for one row: each uniform between 0 and its value, or none at all."""
        if rng.random() >= self.fraction:
            return CLEAN
        return replace(CLEAN, **{name: rng.random() * value for name, value in self.strengths.items()})


CLEAN = Disturbance(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Batch:
    """A micro-batch as the model takes it."""

    shared: Tensor
    """(1, P) the token ids that all prefixes begin with; their keys and values are computed once."""
    embeds: Tensor
    """(B, L, D) embeddings of the rest of each row, padded on the right."""
    predicts: Tensor
    """(B, L) true where the next token belongs to the answer."""
    targets: Tensor
    """(number of true positions,) the next tokens."""


def _lengthen(
    content: tuple[int, ...], how: Disturbance, fillers: list[int], rng: random.Random
) -> tuple[list[int], list[int]]:
    """Content with doubled tokens and fillers; the places (0-based) of fillers that shall be no token at all."""
    ids: list[int] = []
    blanks: list[int] = []
    for token in content:
        ids += [token] * (2 if rng.random() < how.double else 1)
        if rng.random() < how.filler:
            if rng.random() < 0.5:
                blanks.append(len(ids))
            ids.append(rng.choice(fillers))
    return ids, blanks


def _blur(embeds: Tensor, smear: Tensor, sigma: Tensor, content: Tensor, noise: torch.Generator) -> Tensor:
    """(B, L, D) with content positions, `content` (B, L), smeared into their content neighbours and made noisy.

    Args:
        smear: (B, L) part that comes from the two neighbours, zero outside the content.
        sigma: (B, L) standard deviation of the noise, zero outside the content.
    """
    mask = content[..., None].to(embeds.dtype)
    left = nn.functional.pad(mask[:, :-1], (0, 0, 1, 0)) * embeds.roll(1, 1)
    right = nn.functional.pad(mask[:, 1:], (0, 0, 0, 1)) * embeds.roll(-1, 1)
    blurred = (1 - smear[..., None]) * embeds + 0.5 * smear[..., None] * (left + right)
    return blurred + sigma[..., None] * torch.randn(embeds.shape, generator=noise)


@dataclass(frozen=True)
class Embedded:
    """Rows as embeddings, padded.

    Attributes:
        embeds: (B, L, D).
        lengths: of the rows.
        answers: row, first position and token ids of every answer.
    """

    embeds: Tensor
    lengths: list[int]
    answers: list[tuple[int, int, tuple[int, ...]]]


def embed_rows(
    embedding: nn.Embedding,
    rows: Sequence[Row],
    draw: Callable[[], Disturbance],
    fillers: list[int],
    rng: random.Random,
    *,
    pad_left: bool = False,
) -> Embedded:
    """Embeddings of rows; each of their contents is disturbed with the strengths that `draw` returns for it."""
    noise = torch.Generator().manual_seed(rng.randrange(2**62))
    answers: list[tuple[int, int, tuple[int, ...]]] = []
    spans: list[tuple[int, int, int, Disturbance, list[int]]] = []
    tokens: list[list[int]] = [[] for _ in rows]
    for number, row in enumerate(rows):
        for piece in row:
            added, start = list(piece.ids), len(tokens[number])
            if piece.kind == "content":
                how = draw()
                added, blanks = _lengthen(piece.ids, how, fillers, rng)
                spans.append((number, start, start + len(added), how, blanks))
            elif piece.kind == "answer":
                answers.append((number, start, piece.ids))
            tokens[number] += added
    lengths = [len(each) for each in tokens]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    pads = [max(lengths) - length if pad_left else 0 for length in lengths]
    for number, (each, pad) in enumerate(zip(tokens, pads, strict=True)):
        ids[number, pad : pad + len(each)] = torch.tensor(each)
    content, blank = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    smear, sigma = torch.zeros(ids.shape), torch.zeros(ids.shape)
    rms = embedding.weight.detach().pow(2).mean().sqrt()
    for number, start, stop, how, blanks in spans:
        where = slice(start + pads[number], stop + pads[number])
        content[number, where] = True
        smear[number, where], sigma[number, where] = how.smear, how.noise * float(rms)
        blank[number, [pads[number] + start + place for place in blanks]] = True
    embeds = embedding(ids)
    embeds = torch.where(blank[..., None], torch.randn(embeds.shape, generator=noise) * rms, embeds)
    placed = [(number, start + pads[number], taught) for number, start, taught in answers]
    return Embedded(_blur(embeds, smear, sigma, content, noise), lengths, placed)


def collate(rows: list[Row], embedding: nn.Embedding, how: Disturbance, fillers: list[int], *, seed: str) -> Batch:
    """Rows that begin with the same prompt as one batch, the content disturbed. Deterministic in `seed`."""
    rng = random.Random(f"disturbance {seed}")
    columns = zip(*(row[0].ids for row in rows), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    rest = [(Piece(row[0].ids[shared:]), *row[1:]) for row in rows]
    embedded = embed_rows(embedding, rest, lambda: how.draw(rng), fillers, rng)
    predicts = torch.zeros(embedded.embeds.shape[:2], dtype=torch.bool)
    for number, start, ids in embedded.answers:
        predicts[number, start - 1 : start + len(ids) - 1] = True
    targets = torch.tensor([token for _, _, ids in embedded.answers for token in ids])
    return Batch(torch.tensor([rows[0][0].ids[:shared]]), embedded.embeds, predicts, targets)
