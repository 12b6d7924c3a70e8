"""Whether replies name the emotion of the first turn: a planted memory is found, a planted absence is not."""

from __future__ import annotations

import random

from re_llm.core.records import ReplyRecord
from re_llm.evaluate.dialogues import memory

EMOTIONS = ("happy", "sad", "angry")


def replies(number: int, knows: float, seed: int, *, name: bool = True) -> list[ReplyRecord]:
    """Dialogues of random emotions; a reply names that of the first with the chance `knows`, else any one."""
    draw = random.Random(seed)
    found = []
    for i in range(number):
        first, last = draw.sample(EMOTIONS, 2)
        named = first if draw.random() < knows else draw.choice(EMOTIONS)
        history = [{"role": "user", "text": "a", "emotion": first}, {"role": "assistant", "text": "b"}]
        response = f"You sound {named}." if name else "Well."
        found.append(ReplyRecord(key=f"u{i}", system="s", response=response, emotion=last, history=history))
    return found


def test_the_fractions_are_those_of_a_count_by_hand() -> None:
    rows = replies(3, 1.0, 0)
    rows[0].history[0].emotion, rows[0].emotion, rows[0].response = "sad", "happy", "You sound sad."
    rows[1].history[0].emotion, rows[1].emotion, rows[1].response = "angry", "happy", "You sound happy."
    rows[2].history[0].emotion, rows[2].emotion, rows[2].response = "sad", "sad", "You sound sad."
    found = memory(rows)
    assert (found.dialogues, found.differing, found.named) == (3, 2, 1.0)
    assert (found.named_first, found.named_last) == (0.5, 0.5)
    # Exchanged between the two of the same last emotion, the reply about sadness meets the sad one half the time.
    assert abs(found.chance - 0.25) < 0.03 and found.p is None, "two dialogues decide nothing"


def test_a_planted_memory_is_found_and_a_planted_absence_is_not() -> None:
    assert all(memory(replies(60, 0.6, seed), resamples=200).p < 0.05 for seed in range(20))
    false = sum(memory(replies(40, 0.0, seed), resamples=200).p < 0.05 for seed in range(200))
    assert false <= 20, f"{false} of 200 where there is nothing"


def test_naming_the_last_emotion_is_no_memory() -> None:
    rows = replies(40, 0.0, 1)
    rows = [row.model_copy(update={"response": f"You sound {row.emotion}."}) for row in rows]
    found = memory(rows)
    assert (found.named_last, found.named_first, found.p) == (1.0, 0.0, 1.0)


def test_what_has_no_history_or_no_other_first_emotion_is_not_counted() -> None:
    alone = ReplyRecord(key="a", system="s", response="You sound sad.", emotion="sad")
    assert memory([alone]) is None
    same = replies(1, 1.0, 0)[0]
    same.history[0].emotion = same.emotion
    assert memory([alone, same]).dialogues == 1 and memory([alone, same]).differing == 0
    assert memory(replies(10, 1.0, 0, name=False)).named == 0.0
