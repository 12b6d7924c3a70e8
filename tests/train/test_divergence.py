"""A training that diverges stops at once, says where and by what, and leaves nothing that is not finite behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from re_llm.core.errors import Failed
from re_llm.train import objective, setup
from re_llm.train.plan import Plan
from re_llm.train.run import train


def lines(out: Path) -> list[dict[str, object]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"a bare {name} in the log")

    return [json.loads(line, parse_constant=refuse) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_rate_that_is_far_too_large(plan: Plan, tmp_path: Path) -> None:
    """lr=1e30: the weights are not finite after the first step that uses it."""
    wild = replace(plan, stage=plan.stage.model_copy(update={"lr": 1e30, "max_steps": 12, "save_every": 1}))
    with pytest.raises(Failed, match=r"diverged at step \d+: the (weight|loss|gradient of) \S+ is ") as caught:
        train(wild, tmp_path / "out", progress=False)
    assert caught.value.code == 1 and "smaller lr (1e+30 now)" in str(caught.value.todo)
    assert lines(tmp_path / "out")[-1]["stopped"]
    assert not (tmp_path / "out" / "model.safetensors").exists() and not (tmp_path / "out" / "report.json").exists()
    for path in (tmp_path / "out").rglob("trained.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


def test_the_step_and_the_term_are_named_and_the_last_checkpoint_kept(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = objective.losses.input_er

    def breaks(*given: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(*given) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(objective.losses, "input_er", breaks)
    with pytest.raises(Failed, match=r"step 6: the loss input_er is not finite; the last good .*checkpoint-3"):
        train(plan, tmp_path / "out", progress=False)
    assert lines(tmp_path / "out") == [{"step": 6, "stopped": "the loss input_er is not finite"}]
    # What broke it is mended: the run goes on from there, to the end of one that never broke.
    train(plan, tmp_path / "out", progress=False)
    train(plan, tmp_path / "whole", progress=False)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert [entry["step"] for entry in lines(tmp_path / "out")] == [8]


def test_a_weight_that_breaks_is_named(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(setup.ReLlmTrainer):
        def check_weights(self) -> None:
            if self.state.global_step == 2:
                with torch.no_grad():
                    self.trained()["emotion_head.weight"].view(-1)[3] = float("inf")
            super().check_weights()

    monkeypatch.setattr(setup, "ReLlmTrainer", Breaks)
    with pytest.raises(Failed, match=r"step 3: the weight emotion_head\.weight is inf; there is no checkpoint"):
        train(plan, tmp_path / "out", progress=False)


def test_a_gradient_that_is_not_finite_is_named(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(setup.ReLlmTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 4:
                self.trained()["emotion_head.weight"].register_hook(lambda gradient: gradient * float("nan"))
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr(setup, "ReLlmTrainer", Breaks)
    with pytest.raises(
        Failed, match=r"step 5: the gradient of emotion_head\.weight is inf; the last good .*checkpoint-3"
    ):
        train(plan, tmp_path / "out", progress=False)


def test_a_number_that_json_does_not_have_is_null_in_the_log(tmp_path: Path) -> None:
    trainer = setup.ReLlmTrainer.__new__(setup.ReLlmTrainer)
    trainer.log_file = tmp_path / "log.jsonl"
    trainer._write_log({"grad_norm": float("inf"), "loss": 1.5}, 3)
    assert lines(tmp_path) == [{"step": 3, "grad_norm": None, "loss": 1.5}]
