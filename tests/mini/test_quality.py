"""Topic and tone of replies are read off separately, and what is not of the world is counted."""

from __future__ import annotations

import pytest

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import ReplyRecord
from re_llm.mini.grammar import Sentence, reply, world
from re_llm.mini.quality import quality


def test_topic_and_tone_are_separate() -> None:
    neutral = [s for s in world() if s.words_emotion == "neutral"][:10]
    happy = [s for s in world() if s.words_emotion == "happy"][:10]
    replies = []
    for i, sentence in enumerate([*neutral, *happy]):
        emotion = PROMPT_EMOTIONS[i % 5]
        other = next(s for s in neutral if s.topic != sentence.topic)
        about = sentence if i % 2 else other  # every second reply is about something else
        said = reply(about, emotion if i < 10 else "neutral", True)
        replies.append(
            ReplyRecord(key=str(i), system="s", text=sentence.text.upper(), emotion=emotion, response=said, answer="x")
        )
    replies.append(ReplyRecord(key="alien", system="s", text="Colourless green ideas.", emotion="sad", response="Oh."))
    found = quality(replies)
    assert (found.replies, found.unplaced) == (20, 1)
    assert found.topic == pytest.approx(0.5)
    assert found.by_words["neutral words"].tone == 1.0
    assert found.by_words["emotional words"].tone == pytest.approx(0.2)  # always neutral: right for one class in five
    assert found.named_emotion == 0.0


def test_one_sentence_in_five_emotions_and_by_two_voices() -> None:
    first, second = [s for s in world() if s.words_emotion == "neutral"][:2]
    replies = []

    def said(sentence: Sentence, speaker: str | None, emotion: str, tone: str) -> None:
        response = reply(sentence, tone, True)
        replies.append(
            ReplyRecord(key=str(len(replies)), system="s", text=sentence.text, speaker=speaker, emotion=emotion,
                  response=response)
        )  # fmt: skip

    for emotion in PROMPT_EMOTIONS:
        said(first, "a", emotion, emotion)
        said(first, "b", emotion, "neutral" if emotion in ("sad", "happy") else emotion)
        said(first, None, emotion, "angry")  # nobody's
    said(second, "a", "sad", "angry")
    said(second, "b", "sad", "angry")  # wrong, and agreed
    found = quality(replies)
    assert found.of_five == [0, 0, 0, 1, 0, 1]
    assert found.voices_agree == pytest.approx(4 / 6)
    assert (quality(replies[:1]).of_five, quality(replies[:1]).voices_agree) == ([], None)
