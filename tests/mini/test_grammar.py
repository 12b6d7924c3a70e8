"""The text world: sizes, splits, emotions, and that answers can be read back."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.llm.prompts import PROMPTS
from re_llm.mini import answers
from re_llm.mini import lexicon as lex
from re_llm.mini.grammar import (
    WORDS,
    Sentence,
    continuation,
    emotion_of,
    gold_levels,
    reply,
    respond_to,
    right_topic,
    world,
)


@pytest.fixture(scope="module")
def sentences() -> list[Sentence]:
    return world()


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z'-]+", text.lower())


def test_sizes(sentences: list[Sentence]) -> None:
    assert len(sentences) == 24000
    assert len({s.text for s in sentences}) == len(sentences)
    assert len({word for s in sentences for word in _words(s.text)}) >= 800
    lengths = [len(s.text.split()) for s in sentences]
    assert set(lengths) <= set(WORDS)
    assert 10 <= sum(lengths) / len(lengths) <= 12.5
    fraction = sum(s.words_emotion == "neutral" for s in sentences) / len(sentences)
    assert 0.45 <= fraction <= 0.55
    emotional = Counter(s.words_emotion for s in sentences if s.words_emotion != "neutral")
    assert min(emotional.values()) > 0.9 * max(emotional.values())
    assert all(s.text[0].isupper() and s.text.endswith(".") for s in sentences)


def test_each_topic_is_frequent_in_training(sentences: list[Sentence]) -> None:
    counts = Counter(s.topic for s in sentences if s.split == "train")
    assert set(counts) == set(lex.TOPICS)
    assert min(counts.values()) >= 80


def test_splits_share_no_core(sentences: list[Sentence]) -> None:
    cores = {split: {s.core for s in sentences if s.split == split} for split in ("train", "dev", "test")}
    assert not cores["train"] & cores["test"] and not cores["dev"] & (cores["train"] | cores["test"])
    assert 0.02 <= sum(s.split == "dev" for s in sentences) / len(sentences) <= 0.04
    assert 0.06 <= sum(s.split == "test" for s in sentences) / len(sentences) <= 0.1


def test_deterministic_and_growing(sentences: list[Sentence]) -> None:
    assert world(0, 500) == sentences[:500]
    assert world(1, 500) != sentences[:500]
    small = Counter(s.words_emotion == "neutral" for s in world(0, 192))
    assert small[True] > 60 and small[False] > 60


def test_a_core_is_neutral_in_words(sentences: list[Sentence]) -> None:
    for s in sentences:
        if s.words_emotion == "neutral":
            assert s.text == s.core
    cores = {s.core: s for s in sentences if s.words_emotion == "neutral"}
    assert sum(s.core in cores for s in sentences if s.words_emotion != "neutral") > 3000


def test_topic_nouns_occur_only_as_topics(sentences: list[Sentence]) -> None:
    for s in sentences:
        assert {w for w in _words(s.text) if w in lex.TOPICS} == {s.topic}
    templates = [text for name, table in vars(answers).items() if name.isupper() for text in str(table).split()]
    assert not set(_words(" ".join(templates))) & set(lex.TOPICS)


def test_emotional_cues_are_of_one_emotion() -> None:
    owners: dict[str, set[str]] = {}
    for emotion, kinds in lex.CUES.items():
        for kind, cues in kinds.items():
            assert len(cues) >= 6
            for cue in cues:
                owners.setdefault(f"{kind}: {cue}", set()).add(emotion)
    assert all(len(emotions) == 1 for emotions in owners.values())


def test_answers_name_topic_and_emotion() -> None:
    one_of_each = {s.category: s for s in world(0, 500)}
    assert len(one_of_each) == len(lex.CATEGORIES)
    questions: Counter[str] = Counter()
    for emotion in PROMPT_EMOTIONS:
        for s in one_of_each.values():
            warm, plain, more = reply(s, emotion, True), reply(s, emotion, False), continuation(s, emotion)
            for answer in (warm, plain, more):
                assert right_topic(answer, s), answer
                assert emotion_of(answer) == emotion, answer
            assert 12 <= len(warm.split()) <= 25
            assert len(plain.split()) < len(warm.split())
            assert 10 <= len(more.split()) <= 18
            questions[emotion] += "?" in warm
    assert 0 < questions["neutral"] < questions["happy"] < questions["angry"] <= questions["sad"] < len(one_of_each)


def test_each_emotion_has_replies_of_every_level() -> None:
    one_of_each = {s.category: s for s in world(0, 500)}
    for emotion in PROMPT_EMOTIONS:
        levels = [gold_levels(reply(s, emotion, True)) for s in one_of_each.values()]
        for mechanism in ("er", "ip", "ex"):
            assert {each[mechanism] for each in levels if each} == {0, 1, 2}, (emotion, mechanism)


def test_levels_agree_with_questions_and_named_feelings() -> None:
    """What can be told by rule: only a question explores, and who names the own feeling speaks of himself."""
    for tables in (answers.EMPATHETIC_HEADS, answers.EMPATHETIC_TAILS, answers.PLAIN_REPLIES):
        for parts in tables.values():
            for part in parts:
                assert (part.ex > 0) == ("?" in part.text), part
                if part.er == 2:
                    assert re.search(r"\b(I|I'm|me|my)\b", part.text, re.IGNORECASE), part


def test_levels_are_the_higher_ones_of_head_and_tail() -> None:
    s = world(0, 1)[0]
    for emotion in PROMPT_EMOTIONS:
        for head in answers.EMPATHETIC_HEADS[emotion]:
            for tail in answers.EMPATHETIC_TAILS[emotion]:
                text = f" {head.text} {tail.text}\n".format(t=s.topic)
                assert gold_levels(text) == {m: max(getattr(head, m), getattr(tail, m)) for m in ("er", "ip", "ex")}
        assert gold_levels(reply(s, emotion, False)) is not None
    whole = reply(s, "sad", True)
    for wrong in ("", whole[:-1], whole.replace(s.topic, "thing"), whole + " " + whole, continuation(s, "sad")):
        assert gold_levels(wrong) is None


def test_right_topic_and_emotion_of_reject() -> None:
    s = world(0, 1)[0]
    other = next(t for t in lex.TOPICS if t != s.topic)
    assert not right_topic(f"I'm so sorry to hear that about the {other}.", s)
    assert not right_topic(f"The {s.topic} and the {other} are noted.", s)
    assert emotion_of("The weather is fine and nothing else was said today.") is None
    assert emotion_of("sad.") == "sad"


def test_labels_override_words_only_where_the_prompt_names_one() -> None:
    s = next(s for s in world(0, 500) if s.words_emotion == "happy")
    for name, prompt in PROMPTS.items():
        told = "sad" if prompt.needs_emotion else "happy"
        assert emotion_of(respond_to(name, s, "sad")) == told, name
    assert respond_to("recognize", s) == "happy"
    assert respond_to("chat", s) != respond_to("chat-empathetic", s)
    assert respond_to("continue-emotion", s, "angry") == respond_to("continue-emotion-code", s, "angry")


def test_mistakes_are_explained() -> None:
    s = world(0, 1)[0]
    with pytest.raises(RellmError, match="1 or more"):
        world(0, 0)
    with pytest.raises(RellmError, match="neutral, sad"):
        reply(s, "bored", True)
    with pytest.raises(RellmError, match="names the emotion"):
        respond_to("cascade", s)
    with pytest.raises(RellmError, match="unknown prompt"):
        respond_to("sing", s)
