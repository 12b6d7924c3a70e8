"""Conversations in the miniature text world: statements, replies, and questions about what was said before.

A reply in a conversation is that of `grammar.respond_to`. How an earlier turn sounded can only be told from the reply
it got, because its words may be neutral.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.mini import answers
from re_llm.mini.grammar import Sentence, respond_to

QUESTION_KINDS = tuple(answers.QUESTIONS)


@dataclass(frozen=True)
class Exchange:
    """A turn of the user's and its answer."""

    text: str
    answer: str
    emotion: str
    """The one that the answer fits; of a question, the one that a prompt may name for it."""
    topic: str | None = None
    """None for a question about the conversation."""
    told: bool = True
    """Whether words and prompt alone give the answer; else it follows what was heard in the voice."""


def statement(prompt_id: str, sentence: Sentence, emotion: str, *, text: str | None = None, told: bool) -> Exchange:
    """A sentence said with an emotion, which counts whether words or prompt tell it (`told`) or only the voice does.

    Args:
        text: the sentence as a recogniser wrote it.
    """
    answer = respond_to(prompt_id, sentence, emotion, heard=True)
    return Exchange(text or sentence.text, answer, emotion, sentence.topic, told)


def question(kind: str, before: Sequence[Exchange], *, text: str | None = None, emotion: str = "neutral") -> Exchange:
    """A question about the exchanges before it.

    Args:
        kind: one of `QUESTION_KINDS`.
        text: its wording; the first one of this kind if None.
    """
    text = text or answers.QUESTIONS[kind][0]
    stated = [each for each in before if each.topic is not None]
    if not stated:
        return Exchange(text, answers.NOTHING_TO_REMEMBER, emotion)
    meant = stated[0 if kind.endswith("first") else -1]
    template = answers.REMEMBERED_EMOTION[meant.emotion] if kind.startswith("sounded") else answers.REMEMBERED_TOPIC
    return Exchange(text, template.format(t=meant.topic), emotion)


def any_question(before: Sequence[Exchange], rng: random.Random, emotion: str) -> Exchange:
    """A question of any kind and wording, sometimes written as recognisers and hasty people write."""
    kind = rng.choice(QUESTION_KINDS)
    text = rng.choice(answers.QUESTIONS[kind])
    if rng.random() < 0.3:
        text = text.rstrip("?")
    return question(kind, before, text=text.lower() if rng.random() < 0.3 else text, emotion=emotion)


def other_emotion(emotion: str, rng: random.Random) -> str:
    """An emotion that is not this one."""
    return rng.choice([each for each in PROMPT_EMOTIONS if each != emotion])
