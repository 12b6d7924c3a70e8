"""What works against learning by heart: stretches of states that a row does not hear, dropout in the adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.model.outputs import EncodedAudio
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.collate import HIDDEN_FRAMES, hide_stretches
from re_llm.train.data import load_examples
from re_llm.train.plan import Plan
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train

LENGTHS = (200, 120, 300, 4)


def stage(**changes: object) -> StageOptions:
    given = {"tasks": (TaskOptions(prompt="continue-speech"),), "losses": {"adapter_ctc": 1.0}, "lr": 1e-3}
    return StageOptions(**{**given, **changes})


def states() -> EncodedAudio:
    return EncodedAudio(torch.ones(len(LENGTHS), max(LENGTHS), 8), torch.tensor(LENGTHS))


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_a_fraction_is_hidden_inside_the_utterance(fraction: float) -> None:
    shares = []
    for seed in range(20):
        speech = states()
        hide_stretches(speech, [seed] * len(LENGTHS), fraction)
        hidden = (speech.speech_states == 0).all(2)
        assert torch.equal(hidden, (speech.speech_states == 0).any(2)), "whole states"
        assert not any(row[length:].any() for row, length in zip(hidden, LENGTHS, strict=True)), "padding stays"
        assert not hidden[3].any(), "too short for a stretch"
        shares += [float(row[:n].float().mean()) for row, n in zip(hidden[:3], LENGTHS[:3], strict=True)]
        runs = [run for row in hidden[:3] for run in "".join(map(str, row.int().tolist())).split("0") if run]
        shortest = min(map(len, runs))
        assert shortest >= HIDDEN_FRAMES[0]
    assert max(shares) <= fraction + 0.01 and sum(shares) / len(shares) > 0.7 * fraction  # stretches may overlap


def test_the_seed_says_where_and_none_hides_nothing() -> None:
    one, same, other = states(), states(), states()
    hide_stretches(one, [1, None, 2, 3], 0.3)
    hide_stretches(same, [1, None, 2, 3], 0.3)
    hide_stretches(other, [4, None, 2, 3], 0.3)
    assert torch.equal(one.speech_states, same.speech_states)
    assert not torch.equal(one.speech_states[0], other.speech_states[0])
    assert bool((one.speech_states[1] == 1).all())


def test_rows_hide_something_else_every_epoch_and_a_resumed_run_the_same(plan: Plan) -> None:
    tokenizer = tiny_world.tokenizer()
    examples = load_examples(plan.data, stage(), plan.emotions, tokenizer).examples

    def rows(hides: bool) -> TrainingRows:
        return TrainingRows(examples, RowMaker(tokenizer, stage()), seed=1, hides=hides)

    assert rows(True)[0, 0].hidden != rows(True)[1, 0].hidden
    assert rows(True)[3, 1] == rows(True)[3, 1]
    assert rows(False)[0, 0] == replace(rows(True)[0, 0], hidden=None)


def test_a_stage_trains_with_it(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int | None]] = []

    def watched(speech: EncodedAudio, seeds: list[int | None], fraction: float) -> None:
        asked.append(list(seeds))
        hide_stretches(speech, seeds, fraction)

    monkeypatch.setattr("re_llm.train.collate.hide_stretches", watched)
    options = stage(time_mask=0.3, max_steps=2, batch_size=4, validation={"fraction": 0.3, "by": "row", "every": 1})
    train(replace(plan, stage=options), tmp_path / "run", progress=False)
    kinds = {all(seed is None for seed in seeds) for seeds in asked}
    assert kinds == {True, False}, "training rows hide something, those of the validation nothing"
    with pytest.raises(RellmError, match="time_mask"):
        train(replace(plan, stage=options.model_copy(update={"time_mask": 0.1})), tmp_path / "run", progress=False)


def test_it_needs_stored_states() -> None:
    for changes in ({"features": "none"}, {"train": ("speech_encoder",)}):
        with pytest.raises(ValueError, match="time_mask hides stored states"):
            stage(time_mask=0.1, **changes)


def test_dropout_of_the_adapter_comes_from_the_seed_and_belongs_to_the_run(plan: Plan, tmp_path: Path) -> None:
    def run(name: str, **changes: object) -> list[float]:
        options = stage(max_steps=10, batch_size=4, **changes)
        train(replace(plan, stage=options), tmp_path / name, progress=False)
        lines = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    plain, dropped, again = run("plain"), run("dropped", adapter_dropout=0.5), run("again", adapter_dropout=0.5)
    assert len(plain) == 1 and plain != dropped == again, "the seed of the run says what is dropped"
    with pytest.raises(RellmError, match="adapter_dropout"):
        run("plain", adapter_dropout=0.1)


def test_dropout_needs_an_adapter_that_is_trained() -> None:
    with pytest.raises(ValueError, match="adapter_dropout"):
        stage(adapter_dropout=0.1, train=("lora",))
