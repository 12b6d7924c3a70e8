"""Conversations of the text world: what is asked about earlier turns is answered from them."""

from __future__ import annotations

import random

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.mini import answers
from re_llm.mini.dialogues import QUESTION_KINDS, any_question, other_emotion, question, statement
from re_llm.mini.grammar import emotion_of, reply, topics_of, world

FIRST, SECOND = world(0, 2)


def test_questions_are_answered_from_the_turns_they_mean() -> None:
    told = [
        statement("chat-empathetic", FIRST, "sad", told=False),
        statement("chat-empathetic", SECOND, "surprise", told=False),
    ]
    told.append(question("sounded first", told))  # is no statement, so it is passed over by the next ones
    assert told[0].answer == reply(FIRST, "sad", True)
    expected = {"sounded before": ("surprise", SECOND), "sounded first": ("sad", FIRST)}
    for kind, (emotion, sentence) in expected.items():
        answer = question(kind, told).answer
        assert emotion_of(answer) == emotion and topics_of(answer) == {sentence.topic}
    for kind, sentence in {"talked before": SECOND, "talked first": FIRST}.items():
        answer = question(kind, told).answer
        assert emotion_of(answer) is None and topics_of(answer) == {sentence.topic}
    assert {question(kind, []).answer for kind in QUESTION_KINDS} == {answers.NOTHING_TO_REMEMBER}


def test_every_emotion_can_be_remembered() -> None:
    for emotion in PROMPT_EMOTIONS:
        told = [statement("chat", FIRST, emotion, told=False)]
        assert emotion_of(question("sounded before", told).answer) == emotion


def test_questions_of_every_wording_are_drawn() -> None:
    rng = random.Random(0)
    told = [statement("chat", FIRST, "sad", told=False)]
    drawn = {any_question(told, rng, "neutral").text.lower().rstrip("?") for _ in range(400)}
    assert drawn == {text.lower().rstrip("?") for wordings in answers.QUESTIONS.values() for text in wordings}
    assert {other_emotion("sad", rng) for _ in range(100)} == set(PROMPT_EMOTIONS) - {"sad"}
