"""Paired tests: against exact values, scipy and hand computations, power and level, Holm."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from re_llm.evaluate.significance import enough_resamples, holm, speaker_interval, ua_difference, wilcoxon

LABELS = ["happy", "sad"]


def brute_force(differences: list[float]) -> float:
    """Two-sided p of the signed-rank sum over all sign patterns."""
    ranks = stats.rankdata(np.abs(differences))
    total, observed = ranks.sum(), ranks[np.array(differences) > 0].sum()
    tail = min(observed, total - observed) + 1e-9
    sums = [np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=len(ranks))]
    return min(1.0, 2 * float(np.mean([each <= tail for each in sums])))


def test_wilcoxon_exact_by_hand():
    # Five differences 1..5, all positive: 2 of the 32 sign patterns are as extreme.
    got = wilcoxon([2, 4, 6, 8, 10, 7], [1, 2, 3, 4, 5, 7])
    assert (got.p, got.effect) == (pytest.approx(2 / 32), 1.0)
    assert (got.pairs, got.nonzero) == (6, 5)
    assert got.difference == pytest.approx(15 / 6)


def test_wilcoxon_is_exact_where_differences_tie():
    got = wilcoxon([1, 1, 1, 1], [0, 0, 0, 0])
    assert got.p == pytest.approx(0.125)
    assert not got.decides
    rng = np.random.default_rng(0)
    for size in range(1, 12):
        first, second = rng.integers(0, 3, (2, size))
        changed = (first - second)[first != second].astype(float)
        expected = brute_force(changed.tolist()) if len(changed) else 1.0
        assert wilcoxon(first, second).p == pytest.approx(expected), (first, second)


def test_wilcoxon_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for size in (6, 12, 25):
        first, second = rng.normal(size=(2, size))
        expected = stats.wilcoxon(first, second, method="exact").pvalue
        assert wilcoxon(first, second).p == pytest.approx(expected)
    many = rng.integers(0, 3, (2, 400))
    assert wilcoxon(*many).p == pytest.approx(stats.wilcoxon(*many, method="approx").pvalue)


def test_wilcoxon_exact_and_approximation_meet():
    rng = np.random.default_rng(2)
    first = rng.integers(0, 3, 60)
    second = np.where(rng.random(60) < 0.4, np.minimum(2, first + 1), rng.integers(0, 3, 60))
    assert 25 < np.count_nonzero(first - second) <= 50
    got = wilcoxon(first, second).p
    assert 0.01 < got < 0.5
    assert got == pytest.approx(stats.wilcoxon(first, second, method="approx").pvalue, abs=0.02)


def test_wilcoxon_without_differences():
    got = wilcoxon([1, 2], [1, 2])
    assert (got.p, got.effect, got.nonzero) == (1.0, 0.0, 0)


def test_means_of_seeds_that_are_equal_do_not_differ():
    got = wilcoxon([(0.1 + 0.2 + 0.3) / 3], [(0.3 + 0.2 + 0.1) / 3])
    assert got.nonzero == 0


def test_wilcoxon_sign_and_ties():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 3, 300)
    high = np.minimum(2, low + (rng.random(300) < 0.3))
    assert wilcoxon(high, low).effect == 1
    got, back = wilcoxon(high, rng.permutation(low)), wilcoxon(rng.permutation(low), high)
    assert got.effect > 0 > back.effect
    with pytest.raises(ValueError, match="paired"):
        wilcoxon([1], [1, 2])


def hits(truth: list[str], right: float, rng: np.random.Generator) -> np.ndarray:
    return (rng.random(len(truth)) < right).astype(float)


def test_ua_difference_is_that_of_the_two_ua():
    rng = np.random.default_rng(1)
    truth = rng.choice(LABELS, 200, p=[0.8, 0.2]).tolist()
    other = {"happy": "sad", "sad": "happy"}
    good, poor = hits(truth, 0.9, rng), hits(truth, 0.6, rng)
    ua = [balanced_accuracy_score(truth, [t if h else other[t] for t, h in zip(truth, x, strict=True)])
          for x in (good, poor)]  # fmt: skip
    got = ua_difference(truth, good, poor)
    assert got.difference == pytest.approx(ua[0] - ua[1])
    assert got.p < 0.01
    assert got.interval[0] < got.difference < got.interval[1]
    back = ua_difference(truth, poor, good)
    assert back.difference == pytest.approx(-got.difference)
    assert got.pairs == 200


def test_ua_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(3)
    truth = np.array(["happy"] * 60 + ["sad"] * 30)
    gaps = hits(truth.tolist(), 0.8, rng) - hits(truth.tolist(), 0.6, rng)
    drawn = []
    for _ in range(4000):
        picked = rng.integers(0, 90, 90)
        drawn.append(np.mean([gaps[picked][truth[picked] == label].mean() for label in LABELS]))
    got = ua_difference(truth.tolist(), np.maximum(gaps, 0), np.maximum(-gaps, 0))
    assert got.interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_ua_difference_of_equal_systems_is_nothing():
    truth = ["happy", "sad"] * 30
    got = ua_difference(truth, [1.0] * 60, [1.0] * 60)
    assert (got.difference, got.p) == (0.0, 1.0)


def test_a_planted_absence_is_found_in_one_of_twenty():
    found = {"ua": 0, "wilcoxon": 0}
    for number in range(200):
        rng = np.random.default_rng(number)
        truth = rng.choice(LABELS, 100).tolist()
        first, second = hits(truth, 0.7, rng), hits(truth, 0.7, rng)
        found["ua"] += ua_difference(truth, first, second, resamples=500).p < 0.05
        found["wilcoxon"] += wilcoxon(*rng.integers(0, 3, (2, 30))).p < 0.05
    # 99.9 % of binomial draws of 200 at .05 are at most 20.
    assert max(found.values()) <= 20, found


def test_holm_over_a_whole_table_can_pass():
    truth = ["happy", "sad"] * 100
    tests = 63
    clear = ua_difference(truth, [1.0] * 200, [0.0, 1.0] * 100, resamples=enough_resamples(tests))
    assert max(holm([clear.p] * tests)) < 0.05


def test_the_tests_of_table_one_take_seconds():
    rng = np.random.default_rng(0)
    truth = rng.choice(["neutral", "happy", "angry", "sad", "surprise"], 400).tolist()
    began = time.process_time()
    for _ in range(21):
        first, second = (rng.binomial(3, p, 400) / 3 for p in (0.8, 0.7))
        ua_difference(truth, first, second, resamples=enough_resamples(63))
        wilcoxon(first, second)
        wilcoxon(second, first)
    assert time.process_time() - began < 4  # 1.3 s of one core


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    # statsmodels.stats.multitest.multipletests(..., method="holm"), by hand: 4 x .005, 3 x .01, then the maximum.
    assert holm([0.04, 0.005, 0.03, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])


def test_interval_over_speakers_by_hand():
    """Two speakers: of four equally likely draws one takes the first twice, one the second twice, two both."""
    got = speaker_interval([1, 1, 0, 0, 0, 0], ["a", "a", "b", "b", "b", "b"])
    assert (got.interval, got.speakers) == ((0.0, 1.0), 2)
    assert speaker_interval([1, 0], ["a", "a"]) is None
    # Recalls: of `sad` 1 and 0, of `happy` 0: a draw without `happy` leaves it out.
    ua = speaker_interval([1, 0, 0], ["a", "b", "b"], ["sad", "sad", "happy"])
    assert ua.interval == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 differences of 2 speakers"):
        speaker_interval([1, 0, 0], ["a", "b"])


def test_speakers_that_differ_make_the_interval_wider():
    draw = np.random.default_rng(1)
    speakers = np.repeat([f"s{n}" for n in range(10)], 50)
    of_speaker = draw.normal(scale=0.5, size=10).repeat(50)
    alike, unlike = draw.normal(size=500), of_speaker + draw.normal(size=500)
    widths = []
    for values in (alike, unlike):
        low, high = speaker_interval(values.tolist(), speakers.tolist()).interval
        widths.append(high - low)
        assert low < values.mean() < high
    of_utterances = 2 * 1.96 * unlike.std() / 500**0.5
    assert widths[1] > 2 * of_utterances and widths[0] < 1.5 * of_utterances
