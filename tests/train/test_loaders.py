"""Batches that other processes make are those that this one makes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from re_llm.train import setup
from re_llm.train.plan import Plan
from re_llm.train.processes import Division
from re_llm.train.run import train


def losses(log: Path) -> list[dict[str, float]]:
    """Logged lines without times."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("train_")} for line in lines if "loss" in line]


def test_loaders_change_no_batch(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are read in every step: losses and weights are the same bits."""
    seen: list[int] = []
    real = setup.training_arguments
    monkeypatch.setattr(
        setup,
        "training_arguments",
        lambda *args: seen.append(args[-1]) or real(*args),
    )
    plan = replace(plan, stage=plan.stage.model_copy(update={"features": "none", "max_steps": 10}))
    for loaders in (0, 2):
        train(plan, tmp_path / str(loaders), progress=False, device="cpu", loaders=loaders)
    assert seen == [0, 2]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("0", "2"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert losses(tmp_path / "0" / "log.jsonl") == losses(tmp_path / "2" / "log.jsonl") != []


def test_a_gpu_has_loaders_unless_told(plan: Plan, tmp_path: Path) -> None:
    cpu, division = torch.device("cpu"), Division.of(plan.stage, 1)
    assert setup.training_arguments(plan, tmp_path, cpu, 12, division).dataloader_num_workers == 0
    assert setup.training_arguments(plan, tmp_path, cpu, 12, division, 3).dataloader_num_workers == 3
