"""A careful model answers words about harming oneself by rule, in speech and in text."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world

from re_llm.core.risk import REPLIES
from re_llm.inference import conversation, engine
from re_llm.inference.conversation import Turn

WAVE = tiny_world.wave(1.1, 3)
RISK = "I want to kill myself"


@pytest.fixture
def careful(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> engine.Engine:
    loaded = engine.load(tiny_checkpoint, device="cpu")
    loaded.careful = True
    monkeypatch.setattr(loaded, "words", lambda encoded: RISK if len(encoded.samples) < 20_000 else "the dog barked")
    return loaded


def test_speech_is_answered_by_rule_and_its_neighbour_by_the_llm(careful: engine.Engine) -> None:
    assert careful.respond(WAVE).response in REPLIES
    assert "".join(careful.stream(WAVE)) in REPLIES
    long = tiny_world.wave(2.0, 1)
    both = careful.respond_many([WAVE, long], max_new_tokens=6)
    assert both[0].response in REPLIES
    assert both[1].response == careful.respond(long, max_new_tokens=6).response not in REPLIES


def test_other_prompts_are_answered_as_ever(careful: engine.Engine) -> None:
    encoded = careful.encode([WAVE])
    assert careful.answer(encoded, "recognize", max_new_tokens=4)[0].text not in REPLIES
    assert careful.answer(encoded, "repeat", max_new_tokens=4)[0].text not in REPLIES


def test_text_and_speech_of_the_last_turn_count_in_a_conversation(careful: engine.Engine) -> None:
    (short,) = careful.encode([WAVE])
    (long,) = careful.encode([tiny_world.wave(2.0, 1)])
    assert conversation.reply(careful, [Turn("user", (RISK,))]).text in REPLIES
    assert conversation.reply(careful, [Turn("user", ("listen:", short))]).text in REPLIES
    later = [Turn("user", (short,)), Turn("assistant", ("yes",)), Turn("user", ("and:", long))]
    assert conversation.reply(careful, later).text not in REPLIES


def test_a_model_that_is_not_careful_is_not_read(tiny_checkpoint: Path) -> None:
    loaded = engine.load(tiny_checkpoint, device="cpu")
    assert not loaded.careful and loaded.words(loaded.encode([WAVE])[0]) == ""
    assert conversation.reply(loaded, [Turn("user", (RISK,))]).text not in REPLIES
