"""Conversations with a listener that is written out: perfect, or one that keeps the first mood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.conversation import Turn
from re_llm.mini import answers, conversations
from re_llm.mini.conversations import Rate, converse
from re_llm.mini.dialogues import question, statement
from re_llm.mini.grammar import world

NEUTRAL = [s for s in world(0, 24000) if s.words_emotion == "neutral"][:60]


def rows(voices: int = 2) -> list[Utterance]:
    return [
        Utterance(
            key=f"{voice}-{i}", corpus="esd", split="test", audio=f"{i}.wav", text=s.text, speaker=str(voice),
            emotion=PROMPT_EMOTIONS[i % 5],
        )
        for voice in range(voices)
        for i, s in enumerate(NEUTRAL)
    ]  # fmt: skip


def listen(turns: list[Turn], keeps: bool) -> str:
    """What a listener who hears everything answers; one that `keeps` goes on in the first mood."""
    by_text = {s.text: s for s in NEUTRAL}
    user = [turn.parts[0] for turn in turns if turn.role == "user"]
    stated = [part for part in user if not isinstance(part, str)]
    emotions = [part.emotion for part in stated] if not keeps else [stated[0].emotion] * len(stated)
    told = [
        statement("chat-empathetic", by_text[part.text], emotion, told=False)
        for part, emotion in zip(stated, emotions, strict=True)
    ]
    if not isinstance(user[-1], str):
        return told[-1].answer
    kind = next(kind for kind, wordings in answers.QUESTIONS.items() if user[-1] in wordings)
    return question(kind, told).answer


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], conversations.Conversations]:
    def encoded(engine, plans, root):
        return [[SimpleNamespace(row=row, topic=topic, heard=row) for row, topic in plan] for plan in plans]

    def hold(keeps: bool) -> conversations.Conversations:
        monkeypatch.setattr(conversations, "_encoded", encoded)
        monkeypatch.setattr(conversations, "_answer", lambda engine, talks: [listen(each, keeps) for each in talks])
        return converse(None, rows(), Path(), count=20)

    return hold


def test_a_perfect_listener(held: Callable[[bool], conversations.Conversations]) -> None:
    found = held(False)
    assert (found.conversations, found.voices) == (20, 2)
    assert found.first_fits.value == found.second_fits.value == 1.0 and found.second_less_first.value == 0.0
    assert found.second_keeps.value == 0.0  # the mood changes
    assert len(found.topics) == len(found.whole) == 6
    assert {rate.value for rate in (*found.topics, *found.whole, *found.asked.values())} == {1.0}
    assert set(found.asked) == {f"after {n}: {kind}" for n in (1, 2, 5) for kind in answers.QUESTIONS}


def test_a_listener_that_keeps_the_first_mood(held: Callable[[bool], conversations.Conversations]) -> None:
    found = held(True)
    assert (found.first_fits.value, found.second_fits.value, found.second_keeps.value) == (1.0, 0.0, 1.0)
    assert found.second_less_first == Rate(-1.0, -1.0, -1.0)
    assert found.asked["after 2: sounded first"].value == 1.0 and found.asked["after 2: sounded before"].value == 0.0


def test_recordings_without_neutral_words_are_too_few() -> None:
    with pytest.raises(RellmError, match="no voice says 6 sentences"):
        converse(None, rows()[:5], Path())


def test_intervals_hold_the_rate() -> None:
    rate = Rate.of([True] * 30 + [False] * 10)
    assert rate.low < rate.value == 0.75 < rate.high and rate.high - rate.low < 0.3
