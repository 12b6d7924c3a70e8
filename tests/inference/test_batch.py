"""Rows that are decoded together get the answers that they get alone, whoever joins and leaves meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.inference import engine
from re_llm.inference.batch import Prefilled, Row, RunningBatch
from re_llm.inference.conversation import Turn, lay_out, opening, reply
from re_llm.inference.decoding import Decoding
from re_llm.inference.estimate import EncodedSpeech
from re_llm.llm.completion import Completion
from re_llm.model.predictions import only_at

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


def test_a_thread_prefills_while_another_one_decodes(loaded: engine.Engine, talks) -> None:
    batch = RunningBatch(loaded, opening=opening(loaded, "chat"))
    assert batch._decoder is not None
    found = [Collected(loaded, *talk) for talk in talks * 6]
    ready: queue.Queue[Prefilled | None] = queue.Queue()

    def prefill() -> None:
        for each in found:
            for one in batch.prefill(each.row):
                ready.put(one)
        ready.put(None)

    thread = threading.Thread(target=prefill)
    thread.start()
    more = True
    while more or len(batch):
        while more and len(batch) < batch.capacity and (len(batch) == 0 or not ready.empty()):
            one = ready.get()
            if one is None:
                more = False
            else:
                batch.add(one)
        batch.step()
    thread.join()
    for each, (turns, decoding) in zip(found, talks * 6, strict=True):
        alone = reply(loaded, turns, prompt="chat", decoding=decoding)
        assert (each.done[0].text, each.done[0].tokens) == (alone.text, alone.tokens)


@pytest.fixture
def passes(loaded: engine.Engine) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of each pass of the LLM."""
    found: list[tuple[int, int]] = []

    def count(module: torch.nn.Module, args: object, options: dict[str, torch.Tensor]) -> None:
        found.append(tuple(options["inputs_embeds"].shape[:2]))

    handle = loaded.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    yield found
    handle.remove()


def test_rows_that_arrive_together_are_prefilled_together(loaded: engine.Engine, talks, passes) -> None:
    shared = opening(loaded, "chat")
    others = [Turn("user", ("something",))], Decoding(9)
    found = [Collected(loaded, *talk) for talk in (*talks, others, talks[0])]
    pieces: list[str] = []
    foreign: list[Completion] = []
    batch = RunningBatch(loaded, opening=shared)
    batch.join(*(each.row for each in found[:5]))
    assert passes[0] == (1, len(shared))  # once
    assert sum(rows for rows, _ in passes[1:]) == 5 and len(passes) < 6
    longest = max(len(each.row.ids) for each in found)
    assert max(width for _, width in passes[1:]) == longest - len(shared)
    batch.step()
    stranger = Row(found[2].row.ids[1:], (), Decoding(5), pieces.append, foreign.append)  # begins with something else
    batch.join(found[5].row, found[6].row, stranger)
    run(batch, iter(()), 0)
    assert len(foreign) == 1 and foreign[0].text == "".join(pieces)
    for each, (turns, decoding) in zip(found, (*talks, others, talks[0]), strict=True):
        assert each.done[0].text == reply(loaded, turns, prompt="chat", decoding=decoding).text


def test_a_batch_forgets_the_length_of_rows_that_left(loaded: engine.Engine, talks, passes) -> None:
    batch = RunningBatch(loaded)
    long = Collected(loaded, [Turn("user", ("so " * 30,))], Decoding(2))
    short = Collected(loaded, *talks[0])
    batch.join(long.row, short.row)
    run(batch, iter(()), 0)
    assert short.done[0].text == reply(loaded, talks[0][0], prompt="chat", decoding=talks[0][1]).text
    assert batch._rows._size == (0, 0) and batch._rows.layers[0].keys is None


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


def test_a_batch_made_beside_a_pass_has_none_of_its_hooks(loaded: engine.Engine) -> None:
    layer, made = loaded.model.get_output_embeddings(), queue.Queue[RunningBatch]()
    maker = threading.Thread(target=lambda: made.put(RunningBatch(loaded)))
    with loaded.lock, only_at(layer, torch.zeros(1, 1, dtype=torch.bool)):  # as in a prefill
        maker.start()
        with pytest.raises(queue.Empty):
            made.get(timeout=0.2)
    decoder = made.get(timeout=20)._decoder
    assert decoder is not None
    assert len(decoder.get_output_embeddings()._forward_pre_hooks) == len(layer._forward_pre_hooks)
