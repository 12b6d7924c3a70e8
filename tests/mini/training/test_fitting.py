"""The optimisation loop: it descends, and a killed run resumes to the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from re_llm.core.errors import RellmError
from re_llm.mini.training.fitting import Plan, fit, rate_at


class Killed(Exception):
    pass


def problem(stop_at: int | None = None) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 1))

    def terms(step: int) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise Killed
        x = torch.randn(16, 4)
        loss = (net(x)[:, 0] - x.sum(1)).square().mean()
        return {"loss": loss}

    return net, terms


def test_descends_and_reports(tmp_path: Path) -> None:
    net, terms = problem()
    fitted = fit(net, terms, Plan(60, 5e-2, 5, report_every=20), tmp_path, progress=False)
    assert [line["step"] for line in fitted.curve] == [20, 40, 60]
    assert fitted.curve[-1]["loss"] < 0.5 * fitted.curve[0]["loss"]
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 3


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    plan = Plan(40, 1e-2, 5, save_every=10, report_every=10)
    whole, terms = problem()
    curve = fit(whole, terms, plan, tmp_path / "whole", progress=False).curve
    net, terms = problem(stop_at=27)
    with pytest.raises(Killed):
        fit(net, terms, plan, tmp_path / "cut", progress=False)
    resumed, terms = problem()
    again = fit(resumed, terms, plan, tmp_path / "cut", progress=False).curve
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [line["loss"] for line in curve] == [line["loss"] for line in again]


def test_a_run_with_another_seed_is_not_continued(tmp_path: Path) -> None:
    net, terms = problem()
    fit(net, terms, Plan(4, 1e-2, 1), tmp_path, progress=False)
    with pytest.raises(RellmError, match="seed was 0, and is 1 now"):
        fit(net, terms, Plan(8, 1e-2, 1, seed=1), tmp_path, progress=False)


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path) -> None:
    net, terms = problem()
    fit(net, terms, Plan(4, 1e-2, 1), tmp_path, settings={"rows": 2}, progress=False)
    with pytest.raises(RellmError, match="rows was 2, and is 3 now"):
        fit(net, terms, Plan(4, 1e-2, 1), tmp_path, settings={"rows": 3}, progress=False)


def test_a_run_with_another_learning_rate_is_not_continued(tmp_path: Path) -> None:
    net, terms = problem()
    fit(net, terms, Plan(4, 1e-2, 1), tmp_path, progress=False)
    with pytest.raises(RellmError, match=r"learning_rate was 0\.01, and is 0\.02 now"):
        fit(net, terms, Plan(8, 2e-2, 1), tmp_path, progress=False)


def test_a_longer_run_tells_the_plan_it_began_with(tmp_path: Path) -> None:
    net, terms = problem()
    assert fit(net, terms, Plan(4, 1e-2, 1), tmp_path, progress=False).earlier == []
    longer = fit(net, terms, Plan(8, 1e-2, 1), tmp_path, progress=False)
    assert [piece["plan"]["steps"] for piece in longer.earlier] == [4]
    assert fit(net, terms, Plan(8, 1e-2, 1), tmp_path, progress=False).earlier == longer.earlier


def test_a_state_of_an_earlier_version_is_continued_and_says_what_it_does_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, terms = problem()
    fit(net, terms, Plan(4, 1e-2, 1), tmp_path, progress=False)
    fit(net, terms, Plan(8, 1e-2, 1), tmp_path, settings={"inputs": {"rows": "a"}}, progress=False)
    assert "not compared, since it does not tell: inputs" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    net = nn.Linear(2, 1)
    with pytest.raises(RellmError, match="not finite at step 1"):
        fit(net, lambda step: {"loss": net(torch.full((1, 2), float("nan"))).sum()}, Plan(2, 1e-2, 0), tmp_path)


def test_plan_rejects_contradictions() -> None:
    with pytest.raises(RellmError, match="warmup"):
        Plan(10, 1e-3, 10)
    with pytest.raises(RellmError, match="steps"):
        Plan(0, 1e-3, 0)


def test_rate_rises_then_falls_to_zero() -> None:
    plan = Plan(100, 1.0, 10)
    rates = [rate_at(step, plan) for step in range(100)]
    assert rates[9] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 / 90) and json.dumps(rates[0]) == "0.1"
    cosine = Plan(100, 1.0, 10, schedule="cosine")
    assert rate_at(4, cosine) == pytest.approx(0.5, rel=1e-2) and rate_at(99, cosine) < 1e-3
    assert rate_at(50, cosine) == pytest.approx(0.5)
