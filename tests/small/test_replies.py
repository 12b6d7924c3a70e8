"""Kind replies by rule, and the rules that judge a reply."""

from __future__ import annotations

import random

import pytest

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import write_records
from re_llm.core.risk import REPLIES, at_risk
from re_llm.llm.completion import Completion
from re_llm.small.check_replies import check_replies, held_out
from re_llm.small.kind_replies import kind_replies, with_cue, wordings
from re_llm.small.kind_rows import kind_rows
from re_llm.small.text import Sentence
from re_llm.small.tone import all_different, names_topic, repeated, tone
from re_llm.small.turned import clause, content_words, topic, turned

SAID = "I was let go from my job."


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I was tired and my dog left me", "you were tired and your dog left you"),
        ("She was late, so I'm upset", "She was late, so you're upset"),
        ("We lost our keys", "you lost your keys"),
    ],
)
def test_a_sentence_is_turned_to_its_speaker(said: str, expected: str) -> None:
    assert turned(said) == expected


def test_a_clause_is_made_of_statements_alone() -> None:
    assert clause(SAID) == "you were let go from your job"
    assert clause("The train to Paris is late again.") == "the train to Paris is late again"
    for other in ("Can I take the train?", "Do you like my train?", "Take the train now.", "I am. He is late."):
        assert clause(other) is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Crazy how the rates have skyrocketed.", "the rates"),
        ("Do they know about my new bicycle?", "your new bicycle"),
        ("Victor sang.", "“Victor”"),
        ("It is what it is.", None),
    ],
)
def test_a_topic_is_a_phrase_of_what_was_said(said: str, expected: str | None) -> None:
    assert topic(said) == expected


def test_every_written_reply_names_the_topic_in_the_tone_of_its_emotion_and_no_two_are_the_same() -> None:
    rng = random.Random(0)
    for said in (SAID, "Can you find a recipe with potatoes?", "The dentist called about the appointment."):
        replies = kind_replies(said, rng)
        assert set(replies) == set(PROMPT_EMOTIONS)
        assert all(names_topic(reply, said) and tone(reply, said) == emotion for emotion, reply in replies.items())
        assert all_different(list(replies.values()))


@pytest.mark.parametrize(
    ("reply", "said", "expected"),
    [
        ("I'm so sorry about your dog.", "", "sad"),
        ("No wonder you are furious about the bill!", "", "angry"),
        ("How wonderful, congratulations on the new flat!", "", "happy"),
        ("Wow, I did not expect that from the bank!", "", "surprise"),
        ("All right, the meeting is at nine.", "", "neutral"),
        ("So you were happy about the bill.", "I was happy about the bill.", "neutral"),
        ("I'm sorry, but how wonderful.", "", None),
    ],
)
def test_the_tone_of_a_reply_is_that_of_its_own_words(reply: str, said: str, expected: str | None) -> None:
    assert tone(reply, said) == expected


def test_a_topic_is_named_in_any_form_of_its_words() -> None:
    assert names_topic("Painting walls can be calming.", "I painted the wall.")
    assert not names_topic("That sounds hard.", "I painted the wall.")
    assert repeated("The dog ate a letter", "The dogs ate my letters yesterday") == pytest.approx(3 / 4)


def test_whoever_may_harm_themselves_gets_one_careful_kind_of_reply() -> None:
    for said in (
        "I want to kill myself.",
        "I wish I was dead.",
        "I keep thinking of suicide.",
        "I'm hurting myself again.",
    ):
        assert at_risk(said)
    for said in ("This bus kills me, it is late again.", "The battery died.", "I'm dying to see you."):
        assert not at_risk(said)
    rows = kind_rows(["I want to kill myself with my pills."] * 40, 40, seed=0)
    told = [row.answer for row in rows if row.prompt.id == "cascade"]
    assert told
    assert all(answer in REPLIES for answer in told)


def test_rows_are_of_all_kinds_and_repeat() -> None:
    said = [
        f"I lost my {thing} on the way to {place}." for thing in ("ring", "phone", "hat") for place in ("work", "town")
    ]
    rows = kind_rows(said * 10, 60, seed=1)
    assert {row.prompt.id for row in rows} == {"cascade", "chat-empathetic", "recognize", "repeat"}
    assert rows == kind_rows(said * 10, 60, seed=1)
    assert all(row.answer in PROMPT_EMOTIONS for row in rows if row.prompt.id == "recognize")
    assert all(row.answer == row.content for row in rows if row.prompt.id == "repeat")


def test_cues_carry_the_emotion_into_the_words() -> None:
    rng = random.Random(2)
    assert with_cue(SAID, "neutral", rng) == SAID
    assert any(cue in with_cue(SAID, "angry", rng) for cue in wordings()["angry"]["cue"])


class Parrot:
    """An LLM that says the same to everybody, or repeats."""

    name = "parrot"

    def __init__(self, reply: str):
        self.reply = reply

    def answer(self, rows, **_):
        return [Completion(text if prompt.id == "repeat" else self.reply.format(text=text)) for prompt, text in rows]


def test_figures_see_what_is_missing(tmp_path) -> None:
    kind, said = check_replies(Parrot("I'm so sorry, {text}"), [SAID, "My brother sold the car."])
    assert (kind.topic, kind.tone, kind.different, kind.finished, kind.repeated) == (1.0, 0.2, 0.0, 1.0, 1.0)
    assert len(said) == 10
    cold, _ = check_replies(Parrot("All right."), [SAID])
    assert (cold.topic, cold.tone) == (0.0, 0.2)


def test_held_out_sentences_say_something_and_stand_in_the_test_split(tmp_path) -> None:
    texts = {"I painted the wall.": "test", "It is what it is.": "test", "We sold the car.": "train",
             "I want to kill myself with pills.": "test"}  # fmt: skip
    rows = [Sentence(key=str(i), text=text, source="x", split=split) for i, (text, split) in enumerate(texts.items())]
    write_records(tmp_path / "s.jsonl", rows)
    assert held_out(tmp_path / "s.jsonl") == ["I painted the wall."]


def test_content_words_leave_out_what_every_sentence_has() -> None:
    assert content_words("I really don't think that 25 dogs will bark.") == ["25", "dogs", "bark"]
