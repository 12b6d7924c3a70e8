"""Is a difference between two systems more than chance? Tests on paired items, and a correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_PAIRS = 6  # fewer can never reach p < .05 with every difference of one sign (2 / 2**5 = .0625)
EXACT_PAIRS = 50  # up to so many differing pairs the distribution over all sign patterns is computed, ties or not
RESAMPLES = 10_000
# The smallest p of a bootstrap, times the number of tests, shall be this far below the level of .05.
FLOOR_OF_HOLM = 0.01


@dataclass(frozen=True)
class PairedTest:
    """A difference between two systems on the same items, first minus second.

    Attributes:
        p: two-sided; 1.0 when no pair differs.
        difference: of the means, or of UA.
        pairs: different items; fewer than `MIN_PAIRS` decide nothing.
    """

    p: float
    difference: float
    pairs: int

    @property
    def decides(self) -> bool:
        return self.pairs >= MIN_PAIRS


@dataclass(frozen=True)
class WilcoxonResult(PairedTest):
    """Wilcoxon signed-rank test of paired scores.

    Attributes:
        effect: matched-pairs rank-biserial correlation, -1..1; positive when the first system is higher.
        nonzero: pairs that differ, which alone decide the test.
    """

    effect: float
    nonzero: int


def _exact_p(ranks: npt.NDArray[np.int64], positive: int) -> float:
    """Two-sided p of a sum of ranks when every pattern of signs is equally likely.

    Args:
        ranks: [N] twice the mean ranks, which makes those of ties whole numbers. positive: their sum over plus signs.
    """
    ways = np.zeros(int(ranks.sum()) + 1)
    ways[0] = 1.0
    for rank in ranks:
        ways[rank:] += ways[: len(ways) - rank].copy()
    tail = ways[: min(positive, int(ranks.sum()) - positive) + 1].sum()
    return min(1.0, float(2 * tail / 2.0 ** len(ranks)))


def wilcoxon(first: Sequence[float], second: Sequence[float]) -> WilcoxonResult:
    """Tests whether paired scores differ, two-sided.

    Pairs without a difference are left out before ranking (Wilcoxon's own treatment, scipy's zero_method `wilcox`). The
    distribution is exact up to `EXACT_PAIRS` differing pairs, also where differences tie, as those of levels mostly do;
    beyond, it is scipy's normal approximation with its correction for ties.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired scores are needed, got {len(first)} and {len(second)}")
    # Means over three seeds that should be equal differ in their last bit.
    differences = np.round(np.asarray(first, np.float64) - np.asarray(second, np.float64), 9)
    changed = differences[differences != 0]
    if not len(changed):
        return WilcoxonResult(1.0, 0.0, len(differences), 0.0, 0)
    ranks = rankdata(np.abs(changed))
    effect = float((ranks * np.sign(changed)).sum() / ranks.sum())
    if len(changed) <= EXACT_PAIRS:
        doubled = np.rint(2 * ranks).astype(np.int64)
        p = _exact_p(doubled, int(doubled[changed > 0].sum()))
    else:
        p = float(signed_rank(changed, method="approx").pvalue)
    return WilcoxonResult(p, float(differences.mean()), len(differences), effect, len(changed))


@dataclass(frozen=True)
class UaDifference(PairedTest):
    """Difference in UA. `interval`: 95 % interval of a bootstrap over items."""

    interval: tuple[float, float]


def ratio_of_draws(draws: npt.NDArray[Any], sums: Floats, counts: Floats) -> Floats:
    """[..., K] draws of units -> [...]: mean over L labels of the mean; labels that were not drawn are left out.

    Args:
        sums, counts: [K, L] sum of the values and number of the items of each unit under each label.
    """
    totals = draws @ counts
    means = (draws @ sums) / np.maximum(totals, 1)
    return np.asarray(means.sum(-1) / np.maximum((totals > 0).sum(-1), 1))


def enough_resamples(tests: int) -> int:
    """Resamples with which the smallest p that a bootstrap can give holds in so many tests together."""
    return max(RESAMPLES, round(2 * tests / FLOOR_OF_HOLM))


def ua_difference(
    references: Sequence[str],
    first: Sequence[float],
    second: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> UaDifference:
    """Paired bootstrap over items: the same ones are drawn for both systems.

    p is twice the smaller fraction of resamples on either side of zero, counting one more on each: a bootstrap of n
    resamples cannot tell a smaller p from 2 / (n + 1).

    Args:
        references: emotion of each item.
        first, second: how often each item was named rightly, 0..1: the mean over training seeds, which are no
            independent evidence.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if not (len(references) == len(first) == len(second) > 0):
        raise ValueError(f"paired answers are needed, got {len(references)}, {len(first)} and {len(second)}")
    labels, truth = np.unique(np.asarray(references), return_inverse=True)
    gaps = np.round(np.asarray(first, np.float64) - np.asarray(second, np.float64), 9)
    # Items of one emotion with one gap are alike: drawing their counts draws the items.
    cells, counts = np.unique(np.stack([truth, gaps]), axis=1, return_counts=True)
    member = (cells[0][:, None] == np.arange(len(labels))).astype(np.float64)

    terms = member * cells[1][:, None]
    draws = np.random.default_rng(seed).multinomial(len(gaps), counts / len(gaps), size=resamples)
    found = np.round(ratio_of_draws(draws, terms, member), 12)
    low, high = np.quantile(found, [0.025, 0.975])
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = min(1.0, 2 * (beyond + 1) / (resamples + 1))
    return UaDifference(p, float(ratio_of_draws(counts, terms, member)), len(gaps), (float(low), float(high)))


@dataclass(frozen=True)
class SpeakerInterval:
    """95 % interval of a difference when whole speakers are drawn, not utterances."""

    interval: tuple[float, float]
    speakers: int


def speaker_interval(
    differences: Sequence[float],
    speakers: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> SpeakerInterval | None:
    """Cluster bootstrap: utterances of one speaker are no independent evidence of what other speakers get.

    With a handful of speakers the interval is still too narrow (Cameron, Gelbach and Miller 2008); it is the least that
    can be said. None with a single speaker.

    Args:
        differences: first minus second system, of each item. speakers: of each item.
        references: emotion of each item, for the difference in UA; None for that of the means.

    Raises:
        ValueError: the sequences differ in length.
    """
    if len(differences) != len(speakers) or (references is not None and len(references) != len(speakers)):
        raise ValueError(f"{len(differences)} differences of {len(speakers)} speakers")
    names, own = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) < 2:
        return None
    labels = np.zeros_like(own) if references is None else np.unique(np.asarray(references), return_inverse=True)[1]
    counts, sums = np.zeros((2, len(names), labels.max() + 1))
    np.add.at(counts, (own, labels), 1.0)
    np.add.at(sums, (own, labels), np.asarray(differences, np.float64))
    even = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(seed).multinomial(len(names), even, size=resamples)
    low, high = np.quantile(ratio_of_draws(draws, sums, counts), [0.025, 0.975])
    return SpeakerInterval((float(low), float(high)), len(names))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for all of the tests together, in the given order."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in out]
