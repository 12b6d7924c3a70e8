"""Audits: questions, length, repetition, the named emotion."""

from __future__ import annotations

import pytest

from re_llm.evaluate.audits import audit, named_emotion
from re_llm.evaluate.empathy.truncation import truncate


@pytest.mark.parametrize(
    ("reply", "emotion"),
    [
        ("You sound angry. What happened?", "angry"),
        ("I'm sorry to hear that you are sad.", "sad"),
        ("That must be so frustrating!", "frustrated"),
        ("I'm happy to help with that.", None),
        ("What a day.", None),
        ("You don't seem angry, you seem sad.", "sad"),
        ("I'm glad. You sound happy!", "happy"),
    ],
)
def test_named_emotion_is_the_speakers(reply: str, emotion: str | None):
    assert named_emotion(reply) == emotion


def test_audit_counts():
    replies = ["You sound sad. What happened?", "You sound happy? Fine.", "Fine.", "Fine."]
    got = audit(replies, ["sad", "angry", "sad", None])
    assert (got.asks, got.ends_asking, got.distinct) == (0.5, 0.25, 0.75)
    assert got.most_common == ("Fine.", 0.5)
    assert (got.named, got.named_right) == (pytest.approx(2 / 3), 0.5)
    assert got.words == pytest.approx((5 + 4 + 1 + 1) / 4)
    assert got.over_64 == got.hidden_question == got.empty == 0


def test_question_beyond_64_tokens():
    long = "word " * 60 + "what happened?"
    got = audit([long, "What happened?"])
    assert (got.over_64, got.hidden_question, got.asks) == (0.5, 0.5, 1.0)
    assert got.named is None
    assert truncate(long).split() == ["word"] * 48
    assert truncate(long).endswith("word") and truncate("a  b ") == "a  b "


def test_openings_show_templates():
    got = audit(["I am sorry to hear about it.", "I am sorry to hear of that.", "Well done!"])
    assert got.most_common_opening == ("i am sorry to hear", pytest.approx(2 / 3))
    assert got.openings == pytest.approx(2 / 3)


def test_nothing_to_audit():
    with pytest.raises(ValueError, match="0 replies"):
        audit([])
