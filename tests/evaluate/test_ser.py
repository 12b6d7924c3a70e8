"""Recognition scores: against scikit-learn, unparsable answers, bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from re_llm.core.errors import RellmError
from re_llm.evaluate.ser import score_recognition

LABELS = ["neutral", "happy", "angry", "sad"]


def answers(n: int = 400, right: float = 0.6, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(LABELS, n, p=[0.5, 0.3, 0.15, 0.05])
    said = np.where(rng.random(n) < right, truth, rng.choice(LABELS, n))
    return truth.tolist(), said.tolist()


def test_agrees_with_scikit_learn():
    truth, said = answers()
    got = score_recognition(truth, said)
    assert got.ua == pytest.approx(balanced_accuracy_score(truth, said))
    assert got.wa == pytest.approx(np.mean(np.array(truth) == np.array(said)))
    assert got.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"))
    assert got.weighted_f1 == pytest.approx(f1_score(truth, said, average="weighted"))
    assert got.labels == ("neutral", "happy", "angry", "sad")
    assert got.count == len(truth)


def test_answers_that_name_none_are_wrong_and_counted():
    truth = ["sad", "sad", "happy", "happy"]
    got = score_recognition(truth, ["sad", None, "happy", "bored"])
    assert got.ua == got.wa == 0.5
    assert (got.unparsable, got.outside, got.unparsable_fraction) == (1, 1, 0.25)
    assert got.confusion[:, -1].tolist() == [1, 1]
    assert got.recalls() == {"happy": 0.5, "sad": 0.5}


def test_labels_without_references_do_not_count():
    got = score_recognition(["sad", "happy"], ["sad", "happy"], labels=LABELS)
    assert got.ua == got.macro_f1 == 1
    assert got.confusion.shape == (4, 5)


def test_interval_covers_ua_and_follows_the_seed():
    truth, said = answers()
    first, again, other = (score_recognition(truth, said, seed=s) for s in (1, 1, 2))
    assert first.interval == again.interval != other.interval
    low, high = first.interval
    assert low < first.ua < high
    wide = score_recognition(truth[:60], said[:60], labels=LABELS).interval
    assert wide[1] - wide[0] > high - low


def test_mistakes():
    with pytest.raises(RellmError, match="not in the label set"):
        score_recognition(["fear"], ["fear"], labels=LABELS)
    with pytest.raises(RellmError, match="no reply"):
        score_recognition([], [])
    with pytest.raises(ValueError, match="2 references"):
        score_recognition(["sad", "sad"], ["sad"])
