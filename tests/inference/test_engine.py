"""The decoding path: batch equals single, streaming equals answering, and what cannot be heard is said."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import tiny_world

import re_llm
from re_llm.core.errors import RellmError
from re_llm.inference import engine


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


WAVES = [tiny_world.wave(0.6, 1), tiny_world.wave(2.3, 2), tiny_world.wave(1.1, 3)]


def test_many_equal_one_by_one_in_their_order(loaded: engine.Engine) -> None:
    together = loaded.respond_many(WAVES, recognize="recognize", batch_size=3, max_new_tokens=8)
    for wave, reply in zip(WAVES, together, strict=True):
        alone = loaded.respond(wave, max_new_tokens=8)
        assert (reply.response, reply.tokens, reply.finish_reason) == (
            alone.response,
            alone.tokens,
            alone.finish_reason,
        )
        assert reply.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert reply.arousal == pytest.approx(alone.arousal, abs=1e-5)
        assert reply.answer == loaded.recognize(wave).answer


def test_a_batch_is_reported_with_its_indices(loaded: engine.Engine) -> None:
    seen: list[int] = []
    loaded.respond_many(WAVES, batch_size=2, max_new_tokens=2, on_batch=lambda i, r: seen.extend(i))
    assert sorted(seen) == [0, 1, 2]


def test_the_stream_joined_is_the_response(loaded: engine.Engine) -> None:
    pieces = list(loaded.stream(WAVES[1], max_new_tokens=12))
    assert "".join(pieces) == loaded.respond(WAVES[1], max_new_tokens=12).response


def test_a_stream_hands_on_what_went_wrong(loaded: engine.Engine) -> None:
    with pytest.raises(RellmError, match="unknown prompt"):
        list(loaded.stream(WAVES[0], prompt="sing"))


def test_threads_do_not_disturb_each_other(loaded: engine.Engine) -> None:
    expected = [loaded.respond(w, max_new_tokens=6).response for w in WAVES]
    found: dict[int, str] = {}

    def work(i: int) -> None:
        found[i] = loaded.respond(WAVES[i], max_new_tokens=6).response

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(3)] == expected


def test_history_changes_the_question(loaded: engine.Engine) -> None:
    (heard,) = loaded.encode([WAVES[0]])
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    row = loaded._row(heard, engine.split_chat(loaded.tokenizer, engine.get_prompt("chat"), turns))
    plain = loaded._row(heard, engine.split_chat(loaded.tokenizer, engine.get_prompt("chat")))
    assert len(row) > len(plain)
    assert loaded.answer([heard], "chat", history=turns, max_new_tokens=4)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((2, 16000), np.float32), "shape"),
        (np.full(16000, np.nan, np.float32), "NaN"),
        (np.linspace(-1, 1, 100, dtype=np.float32), "25 ms"),
        (np.full(16000, 0.2, np.float32), "is silent"),
        (np.random.default_rng(0).normal(0, 0.1, 16000 * 100).astype(np.float32), "too long for this LLM: 100.0 s"),
        ("nothing.wav", "nothing.wav"),
    ],
)
def test_what_cannot_be_heard_is_said(loaded: engine.Engine, audio: object, message: str) -> None:
    with pytest.raises(RellmError, match=message):
        loaded.respond(audio)


def test_load_is_lazy_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="no-such-folder"):
        re_llm.load(tmp_path / "no-such-folder")
