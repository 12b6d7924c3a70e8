"""Rows that are decoded together get the answers that they get alone, whoever joins and leaves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world

from re_llm.inference import engine
from re_llm.inference.batch import Row, RunningBatch
from re_llm.inference.conversation import Turn, lay_out, reply
from re_llm.inference.reply import Decoding, EncodedSpeech
from re_llm.llm.completion import Completion

WAVES = [tiny_world.wave(0.6, 1), tiny_world.wave(2.3, 2), tiny_world.wave(1.1, 3)]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def talks(loaded: engine.Engine) -> list[tuple[list[Turn], Decoding]]:
    """Conversations of different lengths: speech, speech and text, text; greedy, drawn, penalised."""
    heard: list[EncodedSpeech] = [loaded.encode([wave])[0] for wave in WAVES]
    return [
        ([Turn("user", (heard[0],))], Decoding(20)),
        ([Turn("user", (heard[1],)), Turn("assistant", ("so",)), Turn("user", ("and", heard[2]))], Decoding(7)),
        ([Turn("user", ("hello there",))], Decoding(12, temperature=1.3, top_p=0.9, seed=4)),
        ([Turn("user", (heard[2],))], Decoding(16, repetition_penalty=1.5)),
        ([Turn("user", ("hi",))], Decoding(1)),
    ]


class Collected:
    """What became of a row."""

    def __init__(self, loaded: engine.Engine, turns: list[Turn], decoding: Decoding, **options: object):
        self.pieces: list[str] = []
        self.done: list[Completion] = []
        self.row = Row(*lay_out(loaded, turns, "chat", None, decoding), self.pieces.append, self.done.append, **options)


def run(batch: RunningBatch, rows: Iterator[Row], every: int) -> None:
    """Lets a row join every few steps."""
    for row in rows:
        batch.join(row)
        for _ in range(every):
            batch.step()
    while len(batch):
        batch.step()


@pytest.mark.parametrize("every", [0, 1, 5, 30])
def test_answers_together_are_those_of_one_alone(loaded: engine.Engine, talks, every: int) -> None:
    found = [Collected(loaded, *talk) for talk in talks]
    run(RunningBatch(loaded), (each.row for each in found), every)
    for each, (turns, decoding) in zip(found, talks, strict=True):
        alone = reply(loaded, turns, prompt="chat", decoding=decoding)
        (done,) = each.done
        assert (done.text, done.tokens, done.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
        assert "".join(each.pieces) == done.text


def test_a_row_that_is_given_up_leaves_at_the_next_token(loaded: engine.Engine, talks) -> None:
    left = [False]
    first, second = Collected(loaded, *talks[0], cancelled=lambda: left[0]), Collected(loaded, *talks[3])
    batch = RunningBatch(loaded)
    batch.join(first.row)
    batch.join(second.row)
    batch.step()
    left[0] = True
    batch.step()
    assert first.done[0].tokens == 2 and not second.done
    while len(batch):
        batch.step()
    assert second.done[0].text == reply(loaded, talks[3][0], prompt="chat", decoding=talks[3][1]).text


def test_an_answer_ends_in_front_of_a_stop_text(loaded: engine.Engine, talks) -> None:
    whole = reply(loaded, talks[0][0], prompt="chat", decoding=talks[0][1]).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    found = Collected(loaded, *talks[0], stop=("never", stop))
    run(RunningBatch(loaded), iter([found.row]), 0)
    (done,) = found.done
    assert done.text == "".join(found.pieces) == whole[: whole.index(stop)]
    assert done.finish_reason == "stop"


def test_probabilities_of_the_tokens(loaded: engine.Engine, talks) -> None:
    found = Collected(loaded, *talks[0], top_logprobs=3)
    run(RunningBatch(loaded), iter([found.row]), 0)
    choices = found.row.choices
    assert len(choices) == found.done[0].tokens
    for each in choices:  # greedy: the token is the likeliest
        assert each.top[0] == (each.token, pytest.approx(each.logprob))
        assert 0 >= each.top[0][1] >= each.top[1][1] >= each.top[2][1]


def test_a_cache_that_cannot_be_padded_is_used_by_one_row_at_a_time(loaded: engine.Engine, talks) -> None:
    config = loaded.model.config.text_config
    layers = config.layer_types
    try:
        config.layer_types, config.sliding_window = ["sliding_attention"] * len(layers), 64
        assert RunningBatch(loaded).capacity == 1
    finally:
        config.layer_types, config.sliding_window = layers, None
