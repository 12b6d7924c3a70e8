"""Dose and response, length control and asking: planted effects are found, planted absences are not."""

from __future__ import annotations

import numpy as np
import pytest

from re_llm.core.records import ReplyRecord
from re_llm.evaluate.variants import MIN_ITEMS, compare, dose_response

DOSES = (0.0, 0.5, 1.0)


def reply(key: str, *, right: bool = True, dose: float = 0.0, exchanged: bool = False, **more: object) -> ReplyRecord:
    settings = {"corrupt_emotion": dose, "corrupt_seed": 0} if dose else None
    fields = {"response": "I see.", "corpus": "esd", "emotion": "sad", **more}
    return ReplyRecord(
        key=key, system="s", predicted_emotion="sad" if right else "happy", variant=settings,
        exchanged_with="other" if exchanged else None, **fields,
    )  # fmt: skip


def test_hand_computed_doses_and_slope() -> None:
    keys = [f"k{n}" for n in range(8)]
    replies = {
        dose: [reply(key, right=n >= 8 * dose, dose=dose, exchanged=n < 8 * dose) for n, key in enumerate(keys)]
        for dose in DOSES
    }
    scored = {dose: {"ER": {key: 2.0 if n >= 8 * dose else 0.0 for n, key in enumerate(keys)}} for dose in DOSES}
    found = dose_response("s", "esd", replies, scored)
    assert found and found.items == 8
    assert [dose.fraction for dose in found.doses] == [0.0, 0.5, 1.0]
    assert [dose.exchanged for dose in found.doses] == [0.0, 0.5, 1.0]
    assert [dose.accuracy.mean for dose in found.doses] == [1.0, 0.5, 0.0]
    assert [dose.scores["ER"].mean for dose in found.doses] == [2.0, 1.0, 0.0]
    assert found.slopes["ER"].mean == pytest.approx(2.0)
    assert found.slopes["ER"].interval == pytest.approx((2.0, 2.0))


def test_accuracy_of_labels_is_whether_they_are_the_utterances_own() -> None:
    rows = [ReplyRecord(key=f"k{n}", system="s", response="x", emotion="sad") for n in range(6)]
    other = [row.model_copy(update={"exchanged_with": "z"}) for row in rows]
    found = dose_response("s", "", {0.0: rows, 1.0: other}, {0.0: {}, 1.0: {}})
    assert found and [dose.accuracy.mean for dose in found.doses] == [1.0, 0.0] and not found.slopes


def test_too_few_utterances_or_one_dose_decide_nothing() -> None:
    rows = [reply(f"k{n}") for n in range(MIN_ITEMS - 1)]
    assert dose_response("s", "esd", {0.0: rows, 1.0: rows}, {0.0: {}, 1.0: {}}) is None
    many = [reply(f"k{n}") for n in range(20)]
    assert dose_response("s", "esd", {0.0: many}, {0.0: {}}) is None
    same = dose_response(
        "s", "esd", {0.0: many, 1.0: many}, {d: {"ER": dict.fromkeys(("k1", "k2"), 1.0)} for d in (0, 1)}
    )
    assert same is None  # two common utterances were scored


def test_a_planted_absence_is_found_in_five_percent() -> None:
    """Scores that do not depend on the dose: the interval of the slope misses 0 about one time in twenty."""
    missed = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        keys = [f"k{n}" for n in range(60)]
        replies = {d: [reply(k, right=draw.random() > d * 0.8, dose=d) for k in keys] for d in DOSES}
        scored = {d: {"ER": {k: float(draw.integers(0, 3)) for k in keys}} for d in DOSES}
        found = dose_response("s", "esd", replies, scored, seed=seed)
        assert found
        low, high = found.slopes["ER"].interval
        missed += not low <= 0 <= high
    assert missed <= 20


def test_length_control_compares_the_same_utterances() -> None:
    long = [reply(f"k{n}", response="I see. Thank you for that. What? Why?") for n in range(8)]
    settings = {"max_words": 4, "end_with_question": True}
    short = [
        reply(f"k{n}", response="I see. Why?" if n else "This is longer than that?").model_copy(
            update={"variant": settings, "variant_of": "s", "system": "s, 4 words"}
        )
        for n in range(7)
    ]
    scores = {"ER": {f"k{n}": 1.0 for n in range(8)}}, {"ER": {f"k{n}": 0.5 for n in range(7)}}
    found = compare(long, short, scores)
    assert found and (found.system, found.variant, found.items) == ("s", "s, 4 words", 7)
    assert found.over == pytest.approx(1 / 7)
    words = found.changes["words"]
    assert (words.before, words.after) == (8.0, pytest.approx((6 * 3 + 5) / 7))
    assert found.changes["asks once"].before == 0.0 and found.changes["asks once"].after == 1.0
    assert found.changes["ER"].difference == pytest.approx(-0.5)
    assert found.asked is None


def test_asking_is_judged_by_where_the_head_is_wrong_and_by_wrong_emotions() -> None:
    before = [
        reply(f"k{n}", right=n > 2, response="You sound happy." if n < 3 else "You sound sad.") for n in range(10)
    ]
    after = [
        each.model_copy(
            update={"variant": {"ask_when_unsure": {}}, "variant_of": "s", "asked": n < 4}
            | ({"response": "How do you feel about it?"} if n < 4 else {})
        )
        for n, each in enumerate(before)
    ]
    er = {f"k{n}": 1.0 for n in range(10)}
    found = compare(before, after, ({"ER": er}, {"ER": er}))
    assert found and (found.asked, found.accuracy_asked, found.accuracy_else) == (0.4, 0.25, 1.0)
    wrong = found.changes["names wrong"]
    assert (wrong.before, wrong.after) == (pytest.approx(0.3), 0.0)
    assert found.changes["ER, 0 where wrong"].difference == pytest.approx(0.3)
