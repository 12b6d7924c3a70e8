"""Valence, arousal and dominance: how close a system's estimates are to the reference.

CCC is Lin's concordance correlation coefficient (Biometrics 45, 1989), with moments over N: 1 is perfect, 0 no better
than the mean, and a shift or a wrong scale lowers it. RMSE is the root of the mean squared error, on the records' scale
of 0..1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from re_llm.core.records import DIMENSIONS, ReplyRecord, Score
from re_llm.evaluate.empathy.scores import Group, make_score

Floats = npt.NDArray[np.float64]
Pair = tuple[float, float]  # estimate, reference

RESAMPLES = 2000
CHUNK = 250  # resamples drawn at once


@dataclass(frozen=True)
class DimensionResult:
    """Estimates of one dimension against the reference.

    Attributes:
        ccc: None when neither estimates nor references vary.
        interval: 95 % bootstrap interval of the CCC over utterances; None with it.
    """

    ccc: float | None
    rmse: float
    interval: tuple[float, float] | None
    count: int


def _moments(estimates: Floats, references: Floats) -> Floats:
    """[N, 5] whose weighted means give a CCC."""
    return np.stack([estimates, references, estimates**2, references**2, estimates * references], axis=1)


def _ccc(means: Floats) -> Floats:
    """CCC of mean moments [..., 5]; NaN where nothing varies."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    spread = (xx - x**2) + (yy - y**2) + (x - y) ** 2
    return np.where(spread > 1e-12, 2 * (xy - x * y) / np.where(spread > 1e-12, spread, 1), np.nan)


def score_dimension(
    estimates: Sequence[float], references: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> DimensionResult:
    """CCC and RMSE of paired values.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if len(estimates) != len(references) or not len(estimates):
        raise ValueError(f"paired values are needed, got {len(estimates)} and {len(references)}")
    x, y = np.asarray(estimates, np.float64), np.asarray(references, np.float64)
    moments = _moments(x - y.mean(), y - y.mean())  # the CCC does not change, and small variances keep their digits
    ccc, rmse = float(_ccc(moments.mean(axis=0))), float(np.sqrt(np.mean((x - y) ** 2)))
    if np.isnan(ccc):
        return DimensionResult(None, rmse, None, len(x))
    draw = np.random.default_rng(seed)
    even = np.full(len(x), 1 / len(x))
    sizes = [min(CHUNK, resamples - first) for first in range(0, resamples, CHUNK)]
    found = np.concatenate([_ccc(draw.multinomial(len(x), even, size=size) @ moments / len(x)) for size in sizes])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return DimensionResult(ccc, rmse, (float(low), float(high)), len(x))


def known_dimensions(reply: ReplyRecord) -> dict[str, Pair]:
    """The dimensions that have an estimate and a reference."""
    found = {name: reply.dimension(name) for name in DIMENSIONS}
    return {name: (a, b) for name, (a, b) in found.items() if a is not None and b is not None}


def group_fields(pairs: Iterable[Mapping[str, Pair]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Metric and fields of the rows that a group of replies has in scores.jsonl: CCC and RMSE of each dimension.

    Args:
        pairs: of each reply, (estimate, reference) by dimension.
    """
    every = list(pairs)
    for name in DIMENSIONS:
        known = [each[name] for each in every if name in each]
        if known:
            result = score_dimension(*zip(*known, strict=True))
            interval = result.interval and list(result.interval)
            yield f"CCC_{name.upper()}", {"value": result.ccc, "count": result.count, "interval": interval}
            yield f"RMSE_{name.upper()}", {"value": result.rmse, "count": result.count}


def dimension_scores(group: Group, replies: Sequence[ReplyRecord]) -> list[Score]:
    """Rows of scores.jsonl: `VAD` of each reply (its mean squared error), then those of the group."""
    pairs = {reply.key: known for reply in replies if (known := known_dimensions(reply))}
    items = [
        make_score(group, "VAD", key, {"value": fmean((a - b) ** 2 for a, b in known.values()), "pairs": known})
        for key, known in pairs.items()
    ]
    return items + [make_score(group, metric, "*", fields) for metric, fields in group_fields(pairs.values())]
