"""The bootstrap interval of the empathy scorers' macro-F1."""

from __future__ import annotations

import numpy as np
import pytest

from re_llm.evaluate.empathy.measures import macro_f1, macro_f1_interval


@pytest.fixture
def levels() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 3, 120)
    return truth, np.where(draw.random(120) < 0.7, truth, draw.integers(0, 3, 120))


def test_interval_is_that_of_a_plain_bootstrap(levels):
    truth, found = levels
    low, high = macro_f1_interval(truth, found, np.arange(120))
    rows = np.random.default_rng(5).integers(0, 120, (400, 120))
    plain = np.quantile([macro_f1(truth[r], found[r]) for r in rows], [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(plain), abs=0.02)
    assert macro_f1_interval(truth, truth, np.arange(120)) == (1, 1)


def test_rows_of_one_post_are_no_more_evidence_than_one(levels):
    truth, found = (np.repeat(each, 5) for each in levels)
    posts = np.repeat(np.arange(120), 5)
    assert macro_f1_interval(truth, found, posts) == macro_f1_interval(*levels, np.arange(120))
    low, high = macro_f1_interval(truth, found, posts)
    alone = macro_f1_interval(truth, found, np.arange(600))
    assert alone[1] - alone[0] < 0.6 * (high - low)
