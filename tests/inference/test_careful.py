"""A careful model answers words about harming oneself by rule, in speech and in text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world

from re_llm.core.risk import REPLIES
from re_llm.inference import conversation, engine
from re_llm.inference.careful import NO_SPEECH, ReadOut, Said, doubt_about
from re_llm.inference.conversation import Turn
from re_llm.inference.estimate import Estimate

WAVE = tiny_world.wave(1.1, 3)
RISK = "I want to kill myself"


@pytest.fixture
def careful(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> engine.Engine:
    loaded = engine.load(tiny_checkpoint, device="cpu")
    loaded.careful = True
    said = {True: Said(RISK), False: Said("the dog barked")}
    monkeypatch.setattr(loaded, "said", lambda encoded: said[len(encoded.samples) < 20_000])
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
    assert not loaded.careful and loaded.said(loaded.encode([WAVE])[0]) == Said()
    assert conversation.reply(loaded, [Turn("user", (RISK,))]).text not in REPLIES


@pytest.fixture
def doubtful(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> engine.Engine:
    """A model that has a limit, and understands what is longer than a second and a quarter."""
    loaded = engine.load(tiny_checkpoint, device="cpu")
    loaded.words_unsure_below = 0.5
    read = {True: ReadOut([3, 4, 5], 0.2), False: ReadOut([3, 4, 5], 0.9)}
    monkeypatch.setattr(engine, "read_out", lambda model, tokens: read[len(tokens) < SHORT])
    return loaded


SHORT = 10  # speech tokens of 1.1 s are fewer, those of 2 s more


def test_what_is_not_understood_is_told_and_not_answered(doubtful: engine.Engine) -> None:
    long = tiny_world.wave(2.0, 1)
    assert len(doubtful.encode([WAVE])[0].embeddings) < SHORT < len(doubtful.encode([long])[0].embeddings)
    told = doubtful.respond(WAVE).response
    assert told.startswith("I could not make out the words") and "".join(doubtful.stream(WAVE)) == told
    both = doubtful.respond_many([WAVE, long], max_new_tokens=6)
    assert both[0].response == told and not both[1].response.startswith("I could not")
    (short,) = doubtful.encode([WAVE])
    assert conversation.reply(doubtful, [Turn("user", (short,))]).text == told
    asked = [Turn("user", ("what is this?", short))]  # the text can be answered
    assert not conversation.reply(doubtful, asked).text.startswith("I could not")
    assert conversation.reply(doubtful, [Turn("user", (RISK,))]).text not in REPLIES  # it is not careful


def test_no_speech_is_told_apart_from_unclear_speech_and_the_mood_is_named_where_it_is_sure() -> None:
    heard = Estimate(probabilities={"angry": 0.9, "neutral": 0.1})
    assert doubt_about(ReadOut([1], 0.9), 3.0, 0.6, heard) == NO_SPEECH
    assert doubt_about(ReadOut([1, 2, 3, 4], 0.9), 3.0, 0.6, heard) is None
    unclear = doubt_about(ReadOut([1, 2, 3, 4], 0.5), 3.0, 0.6, heard)
    assert unclear == "I could not make out the words, but you sound angry. Could you say that again?"
    plain = "I could not make out the words. Could you say that again?"
    assert doubt_about(ReadOut([1, 2, 3, 4], 0.5), 3.0, 0.6, replace(heard, unsure=True)) == plain
    neutral = Estimate(probabilities={"angry": 0.1, "neutral": 0.9})
    assert doubt_about(ReadOut([1, 2, 3, 4], 0.5), 3.0, 0.6, neutral) == plain


def test_a_limit_is_read_from_the_config(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert engine.load(tiny_checkpoint, device="cpu").words_unsure_below is None
    shutil.copytree(tiny_checkpoint.parent, tmp_path / "parts")  # with the components beside it
    folder = tmp_path / "parts" / tiny_checkpoint.name
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "words_unsure_below": 0.4}))
    loaded = engine.load(folder, device="cpu")
    assert loaded.words_unsure_below == (0.4 if loaded.model.ctc_blank is not None else None)
