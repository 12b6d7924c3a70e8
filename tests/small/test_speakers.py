"""Who speaks what: voices of the training are not those of the tests."""

from __future__ import annotations

from collections import Counter

import numpy as np

from re_llm.small.speakers import ENGINES, FRACTIONS, cast, speakers


def test_enough_voices_and_some_held_out() -> None:
    pools = Counter(speaker.pool for speaker in speakers())
    assert pools["train"] >= 12 and pools["dev"] >= 2 and pools["test"] >= 2
    assert len({speaker.name for speaker in speakers()}) == len(speakers())
    trained = {speaker.base for speaker in speakers() if speaker.pool == "train"}
    mixed = {style.split(":")[0] for base in trained for style in base.split(",")}
    assert {"jf_nezumi", "awb"}.isdisjoint(mixed)
    assert any(s.engine == "kokoro" and s.pool == "test" for s in speakers())
    assert any(s.engine == "piper" and s.pool == "test" and s.formant != 1 for s in speakers())


def draw(split: str, engines: tuple[str, ...] = ENGINES, count: int = 4000) -> Counter[tuple[str, str]]:
    rng = np.random.default_rng(0)
    cast_of = [cast(split, engines, rng) for _ in range(count)]
    return Counter((speaker.engine, speaker.pool) for speaker in cast_of)


def test_training_sentences_never_go_to_held_out_voices() -> None:
    drawn = draw("train")
    assert {pool for _, pool in drawn} == {"train"}
    for engine in ENGINES:
        assert abs(drawn[engine, "train"] / 4000 - FRACTIONS[engine]) < 0.03


def test_test_sentences_go_to_unseen_voices_for_two_thirds() -> None:
    drawn = draw("test")
    unseen = sum(number for (_, pool), number in drawn.items() if pool == "test")
    assert {pool for _, pool in drawn} == {"train", "test"}
    assert abs(unseen / 4000 - 2 / 3) < 0.03


def test_engines_that_are_left_out_say_nothing() -> None:
    assert {engine for engine, _ in draw("train", ("espeak", "piper"))} == {"espeak", "piper"}
