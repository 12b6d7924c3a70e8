"""Rows held out of training: whole speakers or a split, the best weights kept, and an early end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.recipe.stages import StageOptions, ValidationOptions
from re_llm.train import setup
from re_llm.train.examples import Example
from re_llm.train.plan import Plan
from re_llm.train.run import train
from re_llm.train.validation import held_out


def example(key: str, speaker: str | None = None, split: str | None = "train") -> Example:
    return Example(key, "a.wav", 0.0, 1.0, "a hum", {}, "sad", 1, None, speaker=speaker, split=split)


SPOKEN = [example(f"{speaker}/{i}", f"c/{speaker}") for speaker in "abcdefghij" for i in range(10)]


def test_whole_speakers_are_held_out_whatever_the_order() -> None:
    options = ValidationOptions(fraction=0.2)
    rows, kept = held_out(SPOKEN, options, seed=0)
    assert len(kept) == 20 and not {e.speaker for e in rows} & {e.speaker for e in kept}
    again = held_out(SPOKEN[::-1], options, seed=0)[1]
    assert {e.key for e in again} == {e.key for e in kept}
    assert {e.speaker for e in held_out(SPOKEN, options, seed=1)[1]} != {e.speaker for e in kept}
    by_row = held_out(SPOKEN, ValidationOptions(fraction=0.2, by="row"), seed=0)[1]
    assert len(by_row) == 20 and len({e.speaker for e in by_row}) > 4


def test_a_split_is_held_out_by_its_name() -> None:
    rows = [*SPOKEN, example("dev/0", split="dev")]
    assert [e.key for e in held_out(rows, ValidationOptions(split="dev"), seed=0)[1]] == ["dev/0"]
    with pytest.raises(RellmError, match="no row is of the split 'test'") as caught:
        held_out(rows, ValidationOptions(split="test"), seed=0)
    assert caught.value.allowed == "dev, train" and "--split test" in str(caught.value.todo)


def test_what_cannot_be_held_out_is_told() -> None:
    with pytest.raises(RellmError, match="b/0 has no speaker, by which"):
        held_out([*SPOKEN, example("b/0")], ValidationOptions(fraction=0.1), seed=0)
    with pytest.raises(RellmError, match="leaves no row for training"):
        held_out(SPOKEN[:10], ValidationOptions(fraction=0.1), seed=0)


@pytest.mark.parametrize("given", [{}, {"fraction": 0.1, "split": "dev"}])
def test_a_fraction_or_a_split(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        ValidationOptions(**given)


def held(plan: Plan, **changes: object) -> Plan:
    options = {"fraction": 0.3, "by": "row", "every": 4}
    validation = ValidationOptions(**{**options, **changes.pop("validation", {})})
    return replace(plan, stage=plan.stage.model_copy(update={"validation": validation, **changes}))


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "adapter_model.safetensors")}


def test_the_best_weights_are_kept(plan: Plan, tmp_path: Path) -> None:
    """A rate that overshoots: the loss on the held-out rows rises again."""
    longer = held(plan, max_steps=24, lr=0.2, schedule="constant_with_warmup")
    report = train(longer, tmp_path / "out", progress=False)
    assert (report.examples, report.held_out, report.steps) == (8, 4, 24)
    losses = {entry["step"]: entry["eval_loss"] for entry in log(tmp_path / "out") if "eval_loss" in entry}
    assert list(losses) == [4, 8, 12, 16, 20, 24]
    assert {"eval_response_ce", "eval_input_er"} <= log(tmp_path / "out")[0].keys()
    best = min(losses, key=losses.__getitem__)
    assert best < 24 and report.best == {"step": best, "eval_loss": losses[best]}
    # The weights are those of a training that ends there, but for the schedule of the rate.
    constant = {"schedule": "constant_with_warmup", "warmup": 0, "lr": 0.2}
    to_the_end = train(held(plan, max_steps=24, **constant), tmp_path / "long", progress=False)
    step = int(to_the_end.best["step"])
    train(held(plan, max_steps=step, **constant), tmp_path / "short", progress=False)
    long, short = trained(tmp_path / "long"), trained(tmp_path / "short")
    assert all(torch.equal(tensor, short[name]) for name, tensor in long.items())


def test_held_out_rows_change_nothing_but_which_rows_are_trained(plan: Plan, tmp_path: Path) -> None:
    """Dropout, order and tasks of the other rows are those of a run that never looks at the held-out ones."""
    often, seldom = (held(plan, max_steps=8, validation={"every": every}) for every in (1, 8))
    train(often, tmp_path / "often", progress=False)
    train(seldom, tmp_path / "seldom", progress=False)
    losses = [[e["input_er"] for e in log(tmp_path / name) if "input_er" in e] for name in ("often", "seldom")]
    assert losses[0] == losses[1] and losses[0]


def test_a_training_that_gets_no_better_ends_early_and_a_killed_one_too(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops = held(plan, max_steps=60, lr=0.05, save_every=5, validation={"every": 2, "patience": 3})
    report = train(stops, tmp_path / "out", progress=False)
    assert report.steps == report.best["step"] + 6 < 60

    class Dies(setup.ReLlmTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 7:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(setup, "ReLlmTrainer", Dies)
        train(stops, tmp_path / "broken", progress=False)
    again = train(stops, tmp_path / "broken", progress=False)
    assert (again.steps, again.best) == (report.steps, report.best)
    assert [e["step"] for e in log(tmp_path / "broken")] == [e["step"] for e in log(tmp_path / "out")]
    one, other = trained(tmp_path / "out"), trained(tmp_path / "broken")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_features_are_a_choice(plan: Plan, tmp_path: Path) -> None:
    kept = train(held(plan), tmp_path / "disk", progress=False)
    anew = train(held(plan, features="none"), tmp_path / "none", progress=False)
    assert list((tmp_path / "disk" / "features").glob("speech-*/states.bin"))
    assert not list(tmp_path.glob("none/**/states.bin"))
    assert anew.best["eval_loss"] == pytest.approx(kept.best["eval_loss"], abs=0.02)  # half precision on the disk


def test_the_options_are_checked_in_a_recipe() -> None:
    stage = StageOptions(losses={"response_ce": 1.0}, lr=1e-3, validation={"fraction": 0.1, "patience": 5})
    assert stage.validation is not None and stage.validation.every == 200 and stage.features == "disk"
    with pytest.raises(ValueError, match="patience"):
        StageOptions(losses={"response_ce": 1.0}, lr=1e-3, validation={"fraction": 0.1, "patience": 0})
