"""The decoding path: batch equals single, streaming equals answering, and what cannot be heard is said."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch

import re_llm
from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.inference.decoding import Decoding, DecodingOptions
from re_llm.inference.estimate import Estimate
from re_llm.llm.prompts import get_prompt, split_chat
from re_llm.model.outputs import SpeechTokens


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


@pytest.fixture
def steps(loaded: engine.Engine) -> Iterator[list[int]]:
    """Grows by one with every pass of the model."""
    passes: list[int] = []
    hook = loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
    yield passes
    hook.remove()


def test_a_stream_that_is_closed_ends_at_the_next_token(loaded: engine.Engine, steps: list[int]) -> None:
    pieces = loaded.stream(WAVES[1], max_new_tokens=200, temperature=2.0, seed=1)
    next(pieces)
    pieces.close()
    assert len(steps) < 100
    with pytest.raises(StopIteration):
        next(pieces)
    assert loaded.respond(WAVES[0], max_new_tokens=2).tokens


def test_respond_can_be_awaited_and_ends_with_its_task(loaded: engine.Engine, steps: list[int]) -> None:
    assert asyncio.run(loaded.arespond(WAVES[0], max_new_tokens=6)) == loaded.respond(WAVES[0], max_new_tokens=6)
    steps.clear()

    async def leave() -> None:
        task = asyncio.create_task(loaded.arespond(WAVES[0], max_new_tokens=200, temperature=2.0, seed=1))
        while not steps:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())  # waits for the thread
    assert len(steps) < 100


def test_whole_numbers_and_other_rates_are_heard_as_the_same_recording(loaded: engine.Engine) -> None:
    expected = loaded.encode([WAVES[1]])[0].estimate
    shorts = np.round(32768 * WAVES[1]).astype(np.int16)
    fast = np.repeat(WAVES[1], 3)
    for item in (shorts, torch.from_numpy(WAVES[1]), {"array": shorts, "sampling_rate": 16_000}, (fast, 48_000)):
        found = loaded.respond(item, max_new_tokens=1)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=0.02)


def test_a_notebook_shows_the_recording_the_emotion_and_the_reply(loaded: engine.Engine) -> None:
    reply = loaded.respond(WAVES[0], max_new_tokens=6)
    page = dataclasses.replace(reply, response="<b>so</b>")._repr_html_()
    assert "&lt;b&gt;so&lt;/b&gt;" in page and "<b>so" not in page
    for part in ("<audio controls", "<svg", *loaded.emotions, f"valence {reply.valence:.2f}"):
        assert part in page
    assert "<audio" not in loaded.recognize(WAVES[0])._repr_html_()
    assert "<audio" not in loaded.respond_many(WAVES[:1], max_new_tokens=1)[0]._repr_html_()
    assert Estimate()._repr_html_() == ""


def test_an_engine_tells_what_it_is(loaded: engine.Engine) -> None:
    assert f"{loaded.name!r}: Qwen2ForCausalLM on cpu, float32; emotions: {loaded.emotions[0]}" in repr(loaded)


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


def test_a_prompt_that_names_the_emotion_is_refused(loaded: engine.Engine) -> None:
    """It would stand there as `{emotion}`, word for word."""
    with pytest.raises(RellmError, match="prompt 'cascade' names the emotion"):
        loaded.respond(WAVES[0], prompt="cascade", max_new_tokens=2)


def test_history_changes_the_row(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def counted(input_ids: torch.Tensor, **options: object) -> torch.Tensor:
        rows.append(input_ids.shape[1])
        return generate(input_ids=input_ids, **options)

    generate = loaded.model.generate
    monkeypatch.setattr(loaded.model, "generate", counted)
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    for history in (None, turns):
        assert loaded.respond(WAVES[0], prompt="chat", history=history, max_new_tokens=4).tokens
    assert rows[1] > rows[0]


def test_the_emotion_is_the_named_one_when_asked_and_else_the_predicted_one(loaded: engine.Engine) -> None:
    replied, recognised = loaded.respond(WAVES[0], max_new_tokens=2), loaded.recognize(WAVES[0])
    likeliest = max(replied.probabilities, key=replied.probabilities.get)
    assert replied.predicted_emotion == recognised.predicted_emotion == replied.emotion == likeliest
    assert (replied.named_emotion, replied.answer) == (None, None)
    assert recognised.answer is not None and recognised.emotion == recognised.named_emotion
    named = Estimate(probabilities={"sad": 0.9, "happy": 0.1}, named_emotion="happy", answer="It is happy.")
    assert (named.predicted_emotion, named.emotion) == ("sad", "happy")
    assert Estimate(probabilities={"sad": 0.9}, answer="I cannot tell.").emotion is None
    assert Estimate().emotion is None


def test_options_of_decoding_are_named_and_checked(loaded: engine.Engine) -> None:
    """The same everywhere, as an IDE shows them; a misspelt one is an error, not ignored."""
    fields = {field.name for field in dataclasses.fields(Decoding)}
    assert set(DecodingOptions.__annotations__) == fields
    own = {"max_new_tokens", "temperature", "top_p", "seed", "repetition_penalty", "max_words", "end_with_question"}
    assert fields == own
    encoded = loaded.encode([WAVES[0]])
    calls = {
        "respond": lambda **options: loaded.respond(WAVES[0], **options).response,
        "respond_many": lambda **options: loaded.respond_many([WAVES[0]], **options)[0].response,
        "stream": lambda **options: "".join(loaded.stream(WAVES[0], **options)),
        "answer": lambda **options: loaded.answer(encoded, **options)[0].text,
    }
    drawn = {call(max_new_tokens=6, temperature=1.5, top_p=0.9, seed=3) for call in calls.values()}
    assert len(drawn) == 1
    for name, call in calls.items():
        assert inspect.signature(getattr(loaded, name)).parameters["decoding"].annotation == "Unpack[DecodingOptions]"
        with pytest.raises(TypeError, match="temprature"):
            call(temprature=1.0)
        with pytest.raises(RellmError, match="top_p is 0"):
            call(top_p=0)
        with pytest.raises(RellmError, match="max_words is 0"):
            call(max_words=0)
        with pytest.raises(RellmError, match=r"repetition_penalty is 0\.0"):
            call(repetition_penalty=0.0)


def greedy_with_penalty(
    loaded: engine.Engine, encoded: engine.EncodedSpeech, penalty: float, steps: int
) -> tuple[list[int], int]:
    """Response ids by one plain pass per token, and how many tokens of the prompt came again; divides by hand."""
    before, after = split_chat(loaded.tokenizer, get_prompt("chat"))
    row = loaded.processor.row([before, len(encoded.embeddings), after])
    speech = SpeechTokens(encoded.embeddings[None], torch.tensor([len(encoded.embeddings)]))
    forbidden = loaded.model.generation_config.suppress_tokens or []
    made: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*row, *made]]), speech=speech).logits[0, -1]
        for token in set(made):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        logits[forbidden] = -torch.inf
        made.append(int(logits.argmax()))
        if made[-1] in loaded.stops:
            break
    return made, len(set(made) & set(row))


def test_the_repetition_penalty_of_the_checkpoint_counts_the_response_alone(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = loaded.encode([WAVES[1]])[0]
    texts = {}
    for penalty in (1.0, 3.0):
        ids, again = greedy_with_penalty(loaded, encoded, penalty, 12)
        texts[penalty] = loaded.tokenizer.decode([i for i in ids if i not in loaded.stops]).strip()
        assert loaded.answer([encoded], "chat", max_new_tokens=12, repetition_penalty=penalty)[0].text == texts[penalty]
    assert texts[1.0] != texts[3.0] and again, "the penalty decides, and tokens of the prompt come without one"
    assert loaded.answer([encoded], "chat", max_new_tokens=12)[0].text == texts[1.0]
    monkeypatch.setattr(loaded.model.generation_config, "repetition_penalty", 3.0)
    assert loaded.answer([encoded], "chat", max_new_tokens=12)[0].text == texts[3.0]


def test_the_answer_to_the_recognition_prompt_has_as_many_tokens_as_asked_for(loaded: engine.Engine) -> None:
    short = loaded.recognize(WAVES[1], max_new_tokens=2).answer
    (reply,) = loaded.respond_many([WAVES[1]], prompt=None, recognize="recognize", recognize_tokens=2)
    whole = loaded.recognize(WAVES[1]).answer
    assert reply.answer == short and short != whole and whole.startswith(short)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((20, 16000), np.float32), "shape"),
        (np.full(16000, np.nan, np.float32), "NaN"),
        (np.linspace(-1, 1, 100, dtype=np.float32), "which is no speech"),
        (np.full(16000, 0.2, np.float32), "is silent"),
        ("nothing.wav", "nothing.wav"),
    ],
)
def test_what_cannot_be_heard_is_said(loaded: engine.Engine, audio: object, message: str) -> None:
    with pytest.raises(RellmError, match=message):
        loaded.respond(audio)


def test_load_is_lazy_and_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="no-such-folder"):
        re_llm.load(tmp_path / "no-such-folder")


@pytest.mark.filterwarnings("ignore:Cannot enable progress bars")
def test_loading_shows_no_bar_of_a_library(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", True)  # as on a terminal
    engine.load(tiny_checkpoint, device="cpu")
    assert capfd.readouterr().err == ""
