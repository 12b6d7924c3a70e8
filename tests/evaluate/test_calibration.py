"""Calibration: by hand, a planted temperature found again, coverage of the sets, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate.calibration import (
    Heads,
    calibration,
    conformal_threshold,
    fit_temperature,
    prediction_sets,
)

LABELS = ("neutral", "happy", "sad")


def heads(probabilities: list[list[float]], truth: list[int]) -> Heads:
    return Heads(LABELS, np.array(probabilities), np.array(truth), 0)


def world(count: int, sharpness: float, seed: int) -> Heads:
    """A head that is right as often as it says, then made too sure by a factor on its logits."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(scale=1.5, size=(count, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (honest.cumsum(1) > draw.random(count)[:, None]).argmax(1)
    sure = np.exp(sharpness * logits)
    return Heads(LABELS, sure / sure.sum(1, keepdims=True), truth, 0)


def replies(found: Heads, system: str, prefix: str) -> list[ReplyRecord]:
    return [
        ReplyRecord(key=f"{prefix}{n}", system=system, corpus="esd", response="Oh.", emotion=LABELS[t],
                    probabilities=dict(zip(LABELS, map(float, p), strict=True)))
        for n, (p, t) in enumerate(zip(found.probabilities.round(4), found.truth, strict=True))
    ]  # fmt: skip


def test_ece_by_hand():
    # Confidences .9 (right), .9 (wrong), .5 (right): gaps |1 - .9 + 0 - .9| / 3 and |1 - .5| / 3.
    got = calibration(heads([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.5, 0.3, 0.2]], [0, 1, 0]))
    assert got.ece == pytest.approx((0.8 + 0.5) / 3)
    assert (got.accuracy, got.confidence) == (pytest.approx(2 / 3), pytest.approx(2.3 / 3))
    assert [(b.count, b.confidence, b.accuracy) for b in got.bins] == [(1, 0.5, 1), (2, pytest.approx(0.9), 0.5)]
    assert got.nll == pytest.approx(-(np.log(0.9) + np.log(0.1) + np.log(0.5)) / 3)


def test_a_planted_temperature_is_found():
    validation, test = world(4000, 2.5, 0), world(4000, 2.5, 1)
    temperature = fit_temperature(validation)
    assert temperature == pytest.approx(2.5, rel=0.06)
    before, after = calibration(test), calibration(test.tempered(temperature))
    assert before.ece > 0.1 > 0.03 > after.ece
    assert before.interval[0] > after.interval[1]
    assert after.nll < before.nll and after.accuracy == before.accuracy
    assert fit_temperature(world(4000, 1.0, 2)) == pytest.approx(1, rel=0.06)


def test_sets_hold_what_they_promise():
    coverages = []
    for seed in range(100):
        threshold = conformal_threshold(world(60, 1.5, seed), 0.9)
        got = prediction_sets(world(300, 1.5, 1000 + seed), threshold)
        coverages.append(got.coverage)
        assert got.worst[1] <= got.coverage and 0 <= got.size <= 3
    assert np.mean(coverages) == pytest.approx(0.9, abs=0.02)


def test_threshold_by_hand():
    own = [[p, 1 - p, 0.0] for p in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)]
    found = heads(own, [0] * 9)
    assert conformal_threshold(found, 0.8) == pytest.approx(0.2)  # rank ceil(10 * .8) = 8
    assert conformal_threshold(found, 0.95) == 0  # rank 10 of 9: every emotion
    got = prediction_sets(found, 0.2, 0.8)
    assert got.coverage == pytest.approx(8 / 9) and got.worst == ("neutral", pytest.approx(8 / 9))


def test_what_cannot_be_calibrated():
    few = replies(world(10, 1.0, 0), "s", "u")
    with pytest.raises(RellmError, match="10 of 11 replies have `probabilities`"):
        Heads.of([*few, ReplyRecord(key="x", system="s", response="Oh.")])
    many = replies(world(30, 1.0, 0), "s", "u")
    assert Heads.of([*many, many[0].model_copy(update={"emotion": "fear"})]).left_out == 1
    other = many[0].model_copy(update={"probabilities": {"sad": 0.5, "happy": 0.5}, "emotion": "sad"})
    with pytest.raises(RellmError, match="different emotions"):
        Heads.of([*many, other])


def test_the_command_and_the_report(tmp_path: Path):
    for name, seed in (("test", 1), ("validation", 2)):
        write_records(tmp_path / f"{name}.jsonl", replies(world(300, 2.0, seed), "re-llm", name))
    test, validation = (str(tmp_path / f"{name}.jsonl") for name in ("test", "validation"))
    done = CliRunner().invoke(app, ["calibrate", test, "--validation", validation, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "% promised" in done.output
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["tempered"]["ece"] < found["plain"]["ece"] and found["temperature"] > 1.5
    assert "### Prediction sets" in (tmp_path / "out" / "report.md").read_text()
    same = CliRunner().invoke(app, ["calibrate", test, "--validation", test, "--out", str(tmp_path / "no")])
    assert same.exit_code == 2 and "300 utterances are in the replies and in --validation" in same.output
    scores = str(tmp_path / "s.jsonl")
    assert CliRunner().invoke(app, ["score", test, "--metric", "HEAD", "--out", scores]).exit_code == 0
    done = CliRunner().invoke(app, ["report", scores, "--replies", test, "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report" / "report.md").read_text()
    assert "## Calibration" in page and "figures/calibration_esd.png" in page
