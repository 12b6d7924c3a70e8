"""A component is taken as complete when it is the one that the build would make; anything else is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from re_llm.mini.training import llm
from re_llm.mini.training.component import Found, Wanted
from re_llm.mini.training.fitting import Plan
from re_llm.mini.training.llm import LlmSize, LlmSteps, train_llm

WORLD = 200
SIZE = LlmSize(vocabulary=600, width=16, inner=24, layers=1, heads=2)
STEPS = LlmSteps(micro_batches=1, rows=2)
PLAN = Plan(3, 3e-3, 1, save_every=2)


def wanted(plan: Plan = PLAN, world: int = WORLD, size: LlmSize = SIZE, steps: LlmSteps = STEPS) -> Wanted:
    return Wanted(plan, llm.settings(world, size, steps, seed=plan.seed))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(llm, "evaluate_llm", lambda *_, **__: {})
    train_llm(tmp_path / "llm", WORLD, PLAN, size=SIZE, options=STEPS, progress=False, gate=False)
    return tmp_path / "llm"


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    change(metrics)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_the_same_is_complete_and_what_is_saved_how_often_does_not_matter(made: Path) -> None:
    assert wanted().look(made) == Found(True)
    assert wanted(replace(PLAN, save_every=1, report_every=1)).look(made) == Found(True)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (wanted(replace(PLAN, steps=4)), "plan.steps was 3, and is 4 now"),
        (wanted(replace(PLAN, learning_rate=1e-3)), "plan.learning_rate was 0.003, and is 0.001 now"),
        (wanted(size=replace(SIZE, width=32)), "size.width was 16, and is 32 now"),
        (wanted(steps=replace(STEPS, rows=3)), "options.rows was 2, and is 3 now"),
        (wanted(world=210), "sentences has changed"),
        (wanted(replace(PLAN, seed=1)), "sentences has changed"),
    ],
)
def test_whatever_differs_is_named(made: Path, other: Wanted, why: str) -> None:
    found = other.look(made)
    assert found.complete and why in found.why
    (made / "metrics.json").unlink()  # killed before it was finished
    unfinished = other.look(made)
    assert not unfinished.complete and (why in unfinished.why or "steps" in why)


def test_other_answers_are_another_input(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("re_llm.mini.training.llm_rows.respond_to", lambda *_: "Never mind.")
    assert wanted().look(made).why == ("prompts and answers has changed",)


def test_weights_that_were_replaced_are_noticed(made: Path) -> None:
    (made / "model.safetensors").write_bytes(b"of another training")
    assert wanted().look(made).why == ("model.safetensors has changed",)


def test_of_an_earlier_version_is_compared_what_it_tells(made: Path) -> None:
    rewrite(made, lambda metrics: (metrics.pop("inputs"), metrics.pop("content"), metrics.pop("earlier")))
    rewrite(made, lambda metrics: metrics.update(revision="0123456789ab"))
    assert wanted().look(made) == Found(True, (), ("inputs", "content"))
    assert wanted(replace(PLAN, warmup=2)).look(made).why == ("plan.warmup was 1, and is 2 now",)
    rewrite(made, lambda metrics: metrics.update(revision=None))
    assert "nor the commit" in wanted().look(made).why[0]


def test_metrics_and_states_that_are_none_are_told(made: Path) -> None:
    (made / "metrics.json").write_text("{")
    assert "cannot be read" in wanted().look(made).why[0]
    (made / "metrics.json").unlink()
    assert wanted().look(made) == Found(False)
    (made / "state" / "state.safetensors").write_bytes(b"torn")
    assert "no training state" in wanted().look(made).why[0]
