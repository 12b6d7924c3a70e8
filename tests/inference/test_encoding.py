"""Long recordings: every window is encoded, the estimate is their mean, and the LLM gets what it was trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch

from re_llm.audio import silero
from re_llm.audio.waveform import RATE
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS
from re_llm.inference import careful, encoding, engine
from re_llm.inference.careful import ReadOut
from re_llm.inference.estimate import Estimate, Moment, mean_of

GAP = np.zeros(round(1.5 * RATE), np.float32)
PARTS = [tiny_world.wave(seconds, seed).astype(np.float32) for seconds, seed in ((2.0, 1), (1.0, 2), (3.0, 3))]
LONG = np.concatenate([PARTS[0], GAP, PARTS[1], GAP, PARTS[2]])  # 0 to 2, 3.5 to 4.5, 6 to 9 s


@pytest.fixture(autouse=True)
def by_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hums are no speech to silero-vad."""
    monkeypatch.setattr(silero, "weights", lambda: None)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def loaded(tiny: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> engine.Engine:
    """Trained on utterances of up to 5 s."""
    monkeypatch.setattr(tiny, "trained_seconds", 5.00031)
    return tiny


def weighted(estimate: Estimate, value) -> float:
    seconds = [moment.seconds for moment in estimate.trajectory]
    return float(np.average([value(moment.estimate) for moment in estimate.trajectory], weights=seconds))


def test_the_mean_of_the_trajectory_is_the_estimate(loaded: engine.Engine) -> None:
    found = loaded.trajectory(LONG)
    times = [time for moment in found.trajectory for time in (moment.start, moment.end)]
    assert times == pytest.approx([0.0, 2.35, 3.25, 4.85, 5.75, 9.0], abs=0.05)
    for name in DIMENSIONS:
        assert getattr(found, name) == pytest.approx(weighted(found, lambda each, name=name: getattr(each, name)))
    for name, value in found.probabilities.items():
        assert value == pytest.approx(weighted(found, lambda each, name=name: each.probabilities[name]))
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    # The same value everywhere: with an answer of the LLM, in batches, in a conversation.
    for other in (
        loaded.recognize(LONG, max_new_tokens=2),
        loaded.respond(LONG, max_new_tokens=2),
        loaded.respond_many([PARTS[0], LONG], max_new_tokens=2)[1],
        loaded.chat(max_new_tokens=2).respond(LONG),
    ):
        assert other.probabilities == pytest.approx(found.probabilities, abs=1e-4)
        assert len(other.trajectory) == 3


def test_a_notebook_shows_the_windows_and_what_was_left_out(loaded: engine.Engine) -> None:
    reply = loaded.respond(LONG, max_new_tokens=1)
    page = reply._repr_html_()
    assert page.count(" s ") >= len(reply.trajectory) and reply.notice and f"{reply.notice}." in page
    assert " s " not in loaded.respond(PARTS[0], max_new_tokens=1)._repr_html_()


def test_a_window_is_encoded_as_a_recording_of_its_own(loaded: engine.Engine) -> None:
    found = loaded.trajectory(LONG)
    for moment in found.trajectory:
        (alone,) = loaded.encode([LONG[round(moment.start * RATE) : round(moment.end * RATE)]])
        assert moment.estimate.probabilities == pytest.approx(alone.estimate.probabilities, abs=1e-4)


def test_one_window_is_the_recording(loaded: engine.Engine) -> None:
    quiet = np.concatenate([GAP, PARTS[0], GAP])
    found = loaded.trajectory(quiet)
    (moment,) = found.trajectory
    assert (moment.start, moment.end) == pytest.approx((1.5, 3.5), abs=0.05)  # digital silence is no margin
    assert moment.estimate.probabilities == found.probabilities
    assert found.valence == loaded.recognize(quiet, max_new_tokens=1).valence
    assert loaded.respond(quiet, max_new_tokens=2).trajectory == ()


def test_one_window_of_a_long_recording_is_encoded_alone(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "windows", lambda wave, seconds: [(RATE, 3 * RATE)])  # the rest is no speech
    found = loaded.trajectory(LONG)
    (moment,) = found.trajectory
    assert (moment.start, moment.end, found.notice) == (1.0, 3.0, None)
    (alone,) = loaded.encode([LONG[RATE : 3 * RATE]])
    assert found.probabilities == pytest.approx(alone.estimate.probabilities, abs=1e-4)


def test_a_shorter_window_is_taken_and_another_refused(loaded: engine.Engine) -> None:
    found = loaded.trajectory(PARTS[2], window=1.2)
    assert len(found.trajectory) >= 3 and max(moment.seconds for moment in found.trajectory) <= 1.2
    assert found.arousal == pytest.approx(weighted(found, lambda each: each.arousal))
    with pytest.raises(RellmError, match="a window of 0"):
        loaded.trajectory(PARTS[0], window=0.1)


def test_the_llm_gets_no_more_than_it_was_trained_on_and_it_is_told(loaded: engine.Engine) -> None:
    (encoded,) = loaded.encode([LONG])
    estimate = encoded.estimate
    given = [
        m
        for m in estimate.trajectory
        if f"{m.start:.1f} to" in estimate.notice or f"to {m.end:.1f} s" in estimate.notice
    ]
    assert given and sum(moment.seconds for moment in given) <= 5.0
    assert "trained on utterances of up to 5 s" in estimate.notice and "all 3 windows" in estimate.notice
    assert len(encoded.embeddings) < len(encoded.all_embeddings)
    shown = [m.estimate.probabilities[estimate.predicted_emotion] for m in estimate.trajectory]
    best = max(range(3), key=shown.__getitem__)
    assert estimate.trajectory[best] in given
    assert loaded.respond(LONG, max_new_tokens=2).notice == estimate.notice


def test_all_windows_are_answered_where_they_fit(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (encoded,) = encoded_as_trained(loaded, monkeypatch, 9.5, window=4.0)
    assert len(encoded.embeddings) == len(encoded.all_embeddings) and encoded.estimate.notice is None
    (encoded,) = encoded_as_trained(loaded, monkeypatch, None, window=4.0)
    assert len(encoded.embeddings) == len(encoded.all_embeddings)
    assert "does not say what lengths" in encoded.estimate.notice


def encoded_as_trained(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch, seconds: float | None, window: float):
    monkeypatch.setattr(loaded, "trained_seconds", seconds)
    return loaded.encode([LONG], window=window)


def test_two_minutes_are_answered_in_the_room_there_is(tiny: engine.Engine) -> None:
    wave = np.concatenate([np.concatenate([part, GAP]) for part in PARTS * 14])
    reply = tiny.respond(wave, max_new_tokens=4)
    assert len(reply.trajectory) >= 4 and "no room for more" in reply.notice
    assert reply.trajectory[-1].end == pytest.approx(len(wave) / RATE, abs=1.5)


def test_words_of_every_window_are_read_where_care_is_needed(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(loaded, "careful", True)
    monkeypatch.setattr(engine, "read_out", lambda model, tokens: read.append(len(tokens)) or ReadOut([], 0.0))
    (encoded,) = loaded.encode([LONG])
    assert careful.rule(loaded.said(encoded)) is None
    assert read == [len(encoded.all_embeddings)]


def test_an_llm_without_room_refuses(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "context", 20)
    with pytest.raises(RellmError, match="too long for this LLM"):
        loaded.respond(PARTS[0])


def test_the_mean_needs_every_value() -> None:
    some = Estimate(probabilities={"sad": 1.0, "happy": 0.0}, valence=0.2, unsure=True)
    none = Estimate(probabilities={"sad": 0.0, "happy": 1.0}, valence=None, unsure=False)
    mean = mean_of([Moment(0, 3, some), Moment(3, 4, none)])
    assert (mean.probabilities, mean.valence, mean.unsure) == ({"sad": 0.75, "happy": 0.25}, None, True)


def test_batches_of_windows_give_what_single_ones_give() -> None:
    calls = []

    def work(waves: list[np.ndarray]) -> list[int]:
        calls.append(len(waves))
        return [len(wave) for wave in waves]

    found = encoding.in_windows([PARTS[0], LONG, PARTS[1]], 4.0, work)
    assert [len(each) for each in found] == [1, 3, 1] and calls == [5]
    assert all(last - first == made for each in found for (first, last), made in each)
    assert torch.equal(torch.tensor([each[0][0] for each in found])[:, 0], torch.zeros(3))


@pytest.mark.parametrize("foreign", [False, True])
def test_a_processor_encodes_few_at_once_in_the_order_asked(
    tiny: engine.Engine, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    waves = [
        tiny_world.wave(seconds, seed).astype(np.float32) for seed, seconds in enumerate((1.0, 3.0, 0.5, 2.0, 1.5))
    ]
    others = waves[::-1] if foreign else None
    passes = []
    real = tiny.model.encode_audio
    monkeypatch.setattr(
        tiny.model, "encode_audio", lambda **inputs: passes.append(len(inputs["input_features"])) or real(**inputs)
    )
    together = encoding.encode_batch(tiny.model, tiny.processor, waves, others)
    assert max(passes) <= encoding.PROCESSOR_BATCH < len(waves)
    for i, found in enumerate(together):
        (alone,) = encoding.encode_batch(tiny.model, tiny.processor, [waves[i]], others and [others[i]])
        assert torch.allclose(found.embeddings, alone.embeddings, atol=1e-4)
        assert found.estimate.probabilities == pytest.approx(alone.estimate.probabilities, abs=1e-4)
