"""Gold levels beside a scorer's: what agrees, what is left out, and the tone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from re_llm.core.records import ReplyRecord
from re_llm.mini.grammar import CATEGORY_NAMES, Sentence, gold_levels, reply, world
from re_llm.mini.levels import MECHANISMS, compare_levels, small_scores


def replies(emotion: str = "sad") -> list[ReplyRecord]:
    """Replies of one emotion to a sentence of each category, and one that is no reply of the world."""
    one_of_each: dict[str, Sentence] = {s.category: s for s in world(0, 500)}
    said = [
        ReplyRecord(key=name, system="s", text=s.text, emotion="sad", response=reply(s, emotion, True))
        for name in CATEGORY_NAMES
        for s in [one_of_each[name]]
    ]
    return [*said, ReplyRecord(key="x", system="s", text="x", emotion="sad", response="I cannot say.")]


def perfect(seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, int]]:
    return [{m: (gold_levels(text) or {})[m.lower()] for m in MECHANISMS} for text in responses]


def test_a_scorer_that_knows_the_levels_agrees() -> None:
    found = compare_levels(replies(), perfect)
    assert (found.replies, found.others) == (12, 1)
    for each in found.mechanisms.values():
        assert each.accuracy == each.kappa == 1.0 and each.gold == each.scorer == each.gold_right_tone


def test_a_scorer_that_is_upside_down_and_one_that_sees_nothing() -> None:
    turned = compare_levels(replies(), lambda s, r: [{m: 2 - v for m, v in each.items()} for each in perfect(s, r)])
    assert all(each.kappa is not None and each.kappa < 0 for each in turned.mechanisms.values())
    blind = compare_levels(replies(), lambda s, r: [dict.fromkeys(MECHANISMS, 0) for _ in r])
    for mechanism, each in blind.mechanisms.items():
        gold = [levels[mechanism] for levels in perfect([], [r.response for r in replies()[:-1]])]
        assert each.kappa is None and each.accuracy == pytest.approx(gold.count(0) / 12) and each.scorer == 0


def test_levels_in_the_wrong_tone_count_as_nothing() -> None:
    found = compare_levels(replies("happy"), perfect)
    assert found.mechanisms["ER"].gold > 0 and found.mechanisms["ER"].gold_right_tone == 0


def test_no_reply_of_the_world() -> None:
    assert compare_levels(replies()[-1:], perfect).mechanisms == {}


def test_the_small_scorer_is_asked() -> None:
    scored = small_scores(["I fell."], ["I'm so sorry to hear that. How are you feeling now?"])
    assert set(scored[0]) == set(MECHANISMS) and scored[0]["EX"] > 0
