"""Which emotion an answer names."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from re_llm.core.answer_parser import parse_answer
from re_llm.core.emotions import CANONICAL, EMPATHETIC_DIALOGUES, PROMPT_EMOTIONS

LINES = (Path(__file__).parent / "chat_answers.tsv").read_text(encoding="utf-8").splitlines()
ANSWERS = [tuple(line.split("\t")) for line in LINES if not line.startswith("#")]


@pytest.mark.parametrize(("emotion", "answer"), ANSWERS)
def test_answers_of_chat_models(emotion: str, answer: str):
    assert parse_answer(answer.replace("\\n", "\n")) == (None if emotion == "-" else emotion)


def test_the_set_of_answers_is_large_and_of_every_kind():
    assert len(ANSWERS) >= 300
    assert {emotion for emotion, _ in ANSWERS} == {*PROMPT_EMOTIONS, "-"}
    assert sum(emotion == "-" for emotion, _ in ANSWERS) > 80


def test_answers_are_read_in_the_label_set_at_hand():
    assert parse_answer("The speaker sounds proud, not sad.", EMPATHETIC_DIALOGUES) == "proud"
    assert parse_answer("They are joyful!", EMPATHETIC_DIALOGUES) == "joyful" and parse_answer("joyful") == "happy"
    assert parse_answer("Not angry but sad") == "sad" and parse_answer("I am worried about that") is None
    assert parse_answer("a c++ mood", ("c++ mood", "sad")) == "c++ mood"


def test_emotions_that_were_not_offered_are_passed_over():
    assert parse_answer("The speaker is bored.") is None
    assert parse_answer("The speaker is bored.", CANONICAL) == "bored"
    assert parse_answer("I'm afraid the speaker is bored.", CANONICAL) == "bored"
    assert parse_answer("Frustrated or angry.", CANONICAL) is None
    assert parse_answer("Frustrated or angry.") == "angry"


@pytest.mark.parametrize(
    "part", ["happy sad not ", "cannot ", " ", "is ", "words ", "sad, ", "a", "- ", "\n", ".", "sad.", "like ", "i am "]
)
def test_long_answers_take_no_longer_than_they_are(part: str):
    began = time.process_time()
    parse_answer(part * 20_000 + "sad")
    assert time.process_time() - began < 2  # .2 s at most on one core; a quadratic search takes minutes
