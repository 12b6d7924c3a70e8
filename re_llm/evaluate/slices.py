"""Scores by speaker, gender, emotion, duration and language: who is served worse, and is that more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from re_llm.core.records import ReplyRecord
from re_llm.evaluate.significance import MIN_PAIRS, ratio_of_draws

Floats = npt.NDArray[np.float64]

ATTRIBUTES = ("gender", "speaker", "emotion", "duration", "language")
DURATIONS = ((2.0, "under 2 s"), (5.0, "2 to 5 s"), (float("inf"), "5 s and longer"))
RESAMPLES = 1000


@dataclass(frozen=True)
class Slice:
    """The items with one value of an attribute, and their mean score."""

    name: str
    count: int
    value: float


@dataclass(frozen=True)
class Slices:
    """A metric by the values of one attribute.

    Attributes:
        slices: lowest first; those of fewer than `MIN_PAIRS` items are last, and are left out of the gap.
        gap: highest minus lowest. interval: 95 %, items drawn anew in these two slices. Of many slices, two differ by
            chance: the interval does not know that they were picked.
    """

    attribute: str
    slices: tuple[Slice, ...]
    gap: float
    interval: tuple[float, float]

    @property
    def lowest(self) -> Slice:
        return self.slices[0]

    @property
    def highest(self) -> Slice:
        return [each for each in self.slices if each.count >= MIN_PAIRS][-1]


def attribute_of(reply: ReplyRecord, attribute: str) -> str | None:
    """The value of one of `ATTRIBUTES`; durations in three ranges."""
    value = getattr(reply, attribute)
    if attribute != "duration" or value is None:
        return value or None
    return next(name for limit, name in DURATIONS if value < limit)


def _draws(values: Floats, references: Sequence[str] | None, seed: int) -> tuple[float, Floats]:
    """Mean (or with references the mean over the emotions of the mean), and the same of resampled items."""
    labels = np.zeros(len(values)) if references is None else np.unique(references, return_inverse=True)[1]
    # Items of one emotion with one score are alike: drawing their counts draws the items.
    cells, counts = np.unique(np.stack([labels, values]), axis=1, return_counts=True)
    member = (cells[0][:, None] == np.unique(labels)).astype(np.float64)
    terms = member * cells[1][:, None]
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    return float(ratio_of_draws(counts, terms, member)), ratio_of_draws(draws, terms, member)


def slice_scores(
    attribute: str,
    values: Mapping[str, float],
    names: Mapping[str, str],
    references: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> Slices | None:
    """A metric by the values of an attribute; None unless two of them have at least `MIN_PAIRS` items.

    Args:
        values: score of each item, by key. names: value of the attribute, where it is known.
        references: emotion of each item, when the metric is UA.
    """
    members: dict[str, list[str]] = {}
    for key in sorted(values.keys() & names.keys()):
        members.setdefault(names[key], []).append(key)
    found: list[tuple[Slice, Floats]] = []
    few: list[Slice] = []
    for name, keys in sorted(members.items()):
        own = np.array([values[key] for key in keys], np.float64)
        emotions = None if references is None else [references[key] for key in keys]
        mean, draws = _draws(own, emotions, seed + len(found))
        each = Slice(name, len(keys), mean)
        if len(keys) < MIN_PAIRS:
            few.append(each)
        else:
            found.append((each, draws))
    if len(found) < 2:
        return None
    found.sort(key=lambda pair: pair[0].value)
    low, high = np.quantile(found[-1][1] - found[0][1], [0.025, 0.975])
    slices = (*(each for each, _ in found), *few)
    return Slices(attribute, slices, found[-1][0].value - found[0][0].value, (float(low), float(high)))
