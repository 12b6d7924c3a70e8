"""Is a difference between two systems more than chance? Tests on paired items, and a correction for many tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from re_llm.evaluate.ser import _ua, encode

# Pairs without a difference are left out before ranking (Wilcoxon's own treatment, and the one the paper's tools use).
ZERO_METHOD = "wilcox"
RESAMPLES = 4000
DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class WilcoxonResult:
    """Wilcoxon signed-rank test of paired scores.

    Attributes:
        p: two-sided; 1.0 when no pair differs.
        effect: matched-pairs rank-biserial correlation, -1..1; positive when the first system is higher.
        difference: mean of first minus second.
        pairs: all pairs; nonzero: those that differ, which alone decide the test.
    """

    p: float
    effect: float
    difference: float
    pairs: int
    nonzero: int


def wilcoxon(first: Sequence[float], second: Sequence[float]) -> WilcoxonResult:
    """Tests whether paired scores differ, two-sided.

    EPITOME levels tie often: scipy's normal approximation with tie correction is used above 50 differing pairs and
    whenever there are ties; the exact distribution else.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    from scipy.stats import rankdata
    from scipy.stats import wilcoxon as signed_rank

    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired scores are needed, got {len(first)} and {len(second)}")
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    changed = differences[differences != 0]
    if not len(changed):
        return WilcoxonResult(1.0, 0.0, 0.0, len(differences), 0)
    ranks = rankdata(np.abs(changed))
    effect = float((ranks * np.sign(changed)).sum() / ranks.sum())
    exact = len(changed) <= 50 and len(np.unique(np.abs(changed))) == len(changed)
    p = signed_rank(changed, zero_method=ZERO_METHOD, method="exact" if exact else "approx").pvalue
    return WilcoxonResult(float(p), effect, float(differences.mean()), len(differences), len(changed))


@dataclass(frozen=True)
class UaDifference:
    """Difference in UA of two systems on the same items, first minus second.

    Attributes:
        interval: 95 % interval of a bootstrap over items.
        p: two-sided, twice the smaller share of resamples on either side of zero.
        pairs: different items.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    pairs: int


def ua_difference(
    references: Sequence[str],
    first: Sequence[str | None],
    second: Sequence[str | None],
    labels: Sequence[str],
    *,
    items: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> UaDifference:
    """Paired bootstrap: the same items are drawn for both systems.

    Args:
        items: name of each item; those of one name (one utterance, several training seeds) are drawn together, for
            they are no independent evidence.

    Raises:
        RellmError: a reference is not in the label set.
        ValueError: the sequences differ in length or are empty.
    """
    if not (len(references) == len(first) == len(second) > 0):
        raise ValueError(f"paired answers are needed, got {len(references)}, {len(first)} and {len(second)}")
    truth, one = encode(references, first, labels)
    _, two = encode(references, second, labels)
    size, width = len(labels), len(labels) + 1
    cells = (truth * width + one) * width + two
    shape = (size, width, width)
    cube = np.bincount(cells, minlength=size * width * width).reshape(shape)
    rng = np.random.default_rng(seed)
    if items is None or len(set(items)) == len(items):
        # Items with the same reference and the same two answers are alike: drawing their counts draws the items.
        draws = rng.multinomial(len(cells), cube.ravel() / len(cells), size=resamples)
    else:
        draws = _draw_together(cells, items, cube.size, rng, resamples)
    cubes = draws.reshape(resamples, *shape)
    gaps = _ua(cubes.sum(axis=3)) - _ua(cubes.sum(axis=2))
    low, high = np.quantile(gaps, [0.025, 0.975])
    p = min(1.0, 2 * float(min((gaps <= 0).mean(), (gaps >= 0).mean())))
    difference = float(_ua(cube.sum(axis=2)) - _ua(cube.sum(axis=1)))
    # A bootstrap of n resamples cannot tell a p below 1/n from 1/n.
    count = len(truth) if items is None else len(set(items))
    return UaDifference(difference, (float(low), float(high)), max(p, 1 / resamples), count)


def _draw_together(
    cells: npt.NDArray[np.int64], items: Sequence[str], width: int, rng: np.random.Generator, resamples: int
) -> npt.NDArray[np.int64]:
    """Counts of the cells when whole items are drawn: [resamples, width]."""
    names, index = np.unique(np.asarray(items), return_inverse=True)
    block = max(1, DRAWS_AT_ONCE // len(names))
    out = []
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
        out += [np.bincount(cells, row[index], minlength=width) for row in times]
    return np.stack(out).astype(np.int64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for all of the tests together, in the given order."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in out]
