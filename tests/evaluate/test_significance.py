"""Paired tests: against exact values, power and level, Holm."""

from __future__ import annotations

import numpy as np
import pytest

from re_llm.evaluate.significance import holm, ua_difference, wilcoxon

LABELS = ["happy", "sad"]


def test_wilcoxon_exact_by_hand():
    # Five differences 1..5, all positive: 2 of the 32 sign patterns are as extreme.
    got = wilcoxon([2, 4, 6, 8, 10, 7], [1, 2, 3, 4, 5, 7])
    assert (got.p, got.effect) == (pytest.approx(2 / 32), 1.0)
    assert (got.pairs, got.nonzero) == (6, 5)
    assert got.difference == pytest.approx(15 / 6)


def test_wilcoxon_without_differences():
    got = wilcoxon([1, 2], [1, 2])
    assert (got.p, got.effect, got.nonzero) == (1.0, 0.0, 0)


def test_wilcoxon_sign_and_ties():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 3, 300)
    high = np.minimum(2, low + (rng.random(300) < 0.3))
    assert wilcoxon(high, low).effect == 1
    got, back = wilcoxon(high, rng.permutation(low)), wilcoxon(rng.permutation(low), high)
    assert got.effect > 0 > back.effect
    with pytest.raises(ValueError, match="paired"):
        wilcoxon([1], [1, 2])


def test_ua_difference_finds_a_better_system():
    rng = np.random.default_rng(1)
    truth = rng.choice(LABELS, 200).tolist()
    good = [t if rng.random() < 0.9 else None for t in truth]
    poor = [t if rng.random() < 0.6 else "sad" for t in truth]
    got = ua_difference(truth, good, poor, LABELS)
    assert got.p < 0.01
    assert got.interval[0] < got.difference < got.interval[1]
    back = ua_difference(truth, poor, good, LABELS)
    assert back.difference == pytest.approx(-got.difference)


def test_ua_difference_of_equal_systems_is_nothing():
    truth = ["happy", "sad"] * 30
    got = ua_difference(truth, truth, truth, LABELS)
    assert (got.difference, got.p) == (0.0, 1.0)


def test_repeated_items_are_no_new_evidence():
    rng = np.random.default_rng(2)
    truth = rng.choice(LABELS, 60).tolist()
    one = [t if rng.random() < 0.8 else None for t in truth]
    two = [t if rng.random() < 0.7 else None for t in truth]
    single = ua_difference(truth, one, two, LABELS)
    items = [str(i) for i in range(60)] * 5
    together = ua_difference(truth * 5, one * 5, two * 5, LABELS, items=items)
    apart = ua_difference(truth * 5, one * 5, two * 5, LABELS)

    def width(result) -> float:
        return result.interval[1] - result.interval[0]

    assert together.difference == pytest.approx(single.difference)
    assert width(together) == pytest.approx(width(single), rel=0.15)
    assert width(apart) < 0.6 * width(single)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
