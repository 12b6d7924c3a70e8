"""Steps of the optimiser against AdamW, clipping and learning rates written out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, set_seed

from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.recipe.stages import TaskOptions
from re_llm.train.collate import Batch
from re_llm.train.data import load_examples
from re_llm.train.plan import Plan, build_model
from re_llm.train.processes import Processes
from re_llm.train.run import train
from re_llm.train.schedule import warmup_cut, warmup_decay
from re_llm.train.setup import make_trainer
from re_llm.train.trainer import ReLlmTrainer

STEPS, WARMUP, LR = 6, 3, 2e-2
BASE = {
    "tasks": (TaskOptions(prompt="continue-speech"),), "losses": {"response_ce": 1.0, "input_er": 1.0},
    "lr": LR, "warmup": WARMUP, "max_steps": STEPS, "weight_decay": 2.0, "max_grad_norm": 0.3, "features": "none",
}  # fmt: skip


def factor(schedule: str, step: int) -> float:
    """Of the learning rate at a step from 0 on; the schedules of transformers rise in a line."""
    if step < WARMUP:
        return math.log(step + 1) / math.log(WARMUP) if schedule == "warmup_decay" else step / WARMUP
    after = (step - WARMUP) / (STEPS - WARMUP)
    falls = {"cosine": 0.5 + 0.5 * math.cos(math.pi * after), "constant_with_warmup": 1.0}
    return falls.get(schedule, 1.0 - after)


def decays(name: str) -> bool:
    """Whether it is neither a bias nor of a norm, by the names of the parts that are trained here."""
    return not name.endswith("bias") and "norm" not in name


class Watched(TrainerCallback):
    """Learning rate of every step, by which the weights move."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        self.rates += {group["lr"] for group in optimizer.param_groups}


def trainer_of(plan: Plan, out: Path, watched: Watched) -> tuple[ReLlmTrainer, ReLlmForConditionalGeneration]:
    set_seed(plan.seed)
    model, processor = build_model(plan, attention="eager")
    rows = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer).examples
    alone = Processes(0, 1, torch.device("cpu"))
    return make_trainer(plan, out, alone, model, processor, rows, [], None, out / "features", [watched]), model


def batches(trainer: ReLlmTrainer, size: int) -> Iterator[Batch]:
    """Those of the first STEPS steps, epoch by epoch."""
    for epoch in range(STEPS * size // len(trainer.train_dataset)):
        trainer.sampler.set_epoch(epoch)
        places = list(trainer.sampler)
        for first in range(0, len(places), size):
            yield trainer.data_collator([trainer.train_dataset[place] for place in places[first : first + size]])


def by_hand(plan: Plan, out: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Weights after the plan's steps, and the norms of the gradients before clipping."""
    stage = plan.stage
    trainer, model = trainer_of(plan, out, Watched())
    model.train()
    weights = trainer.trained()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in weights.items()}
    norms = []
    for step, batch in enumerate(batches(trainer, stage.batch_size)):
        model.zero_grad()
        trainer.objective(batch, stage.losses).total.backward()
        gradients = {name: p.grad for name, p in weights.items() if p.grad is not None}
        norms.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values())))
        scale = min(1.0, stage.max_grad_norm / (norms[-1] + 1e-6))
        lr = stage.lr * factor(stage.schedule, step)
        with torch.no_grad():
            for name, gradient in gradients.items():
                if stage.weight_decay_on == "all" or decays(name):
                    weights[name] *= 1 - lr * stage.weight_decay
                first, second = moments[name]
                first.mul_(0.9).add_(scale * gradient, alpha=0.1)
                second.mul_(0.999).add_((scale * gradient) ** 2, alpha=0.001)
                spread = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                weights[name] -= lr * (first / (1 - 0.9 ** (step + 1))) / spread
    return {name: p.detach().clone() for name, p in weights.items()}, norms


def farthest(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture
def steady(plan: Plan) -> Plan:
    """The plan of the other tests without dropout and with one task, so that nothing is drawn."""
    model = plan.model.model_copy(update={"lora": plan.model.lora.model_copy(update={"dropout": 0.0})})
    return replace(plan, model=model, stage=plan.stage.model_copy(update=BASE))


@pytest.fixture
def base(steady: Plan, tmp_path: Path) -> dict[str, Tensor]:
    return by_hand(steady, tmp_path / "base")[0]


@pytest.mark.parametrize(
    "change",
    [
        {}, {"weight_decay": 0.0}, {"weight_decay_on": "weights"}, {"max_grad_norm": 1e9},
        {"schedule": "cosine"}, {"schedule": "linear"}, {"schedule": "constant_with_warmup"},
    ],
    ids=str,
)  # fmt: skip
def test_the_trainer_makes_the_steps_that_the_options_say(
    change: dict[str, object], steady: Plan, base: dict[str, Tensor], tmp_path: Path
) -> None:
    """And other steps than without the option: ignoring it fails here."""
    plan = replace(steady, stage=steady.stage.model_copy(update=change))
    wanted, norms = by_hand(plan, tmp_path / "hand")
    assert min(norms) > 2 * BASE["max_grad_norm"], "every step is clipped"
    watched = Watched()
    trainer, _ = trainer_of(plan, tmp_path / "out", watched)
    trainer.train()
    assert watched.rates == pytest.approx([LR * factor(plan.stage.schedule, step) for step in range(STEPS)])
    found = {name: p.detach() for name, p in trainer.trained().items()}
    assert farthest(found, wanted) < 2e-4
    if change:
        assert farthest(found, base) > 2e-3


def test_warmup_decay_is_the_formula_of_deepspeed() -> None:
    """log(k + 1) / log(warmup) below the warm-up, (total - k) / (total - warmup) behind it."""
    rates = [warmup_decay(step, warmup=4, total=10) for step in range(12)]
    rise = [0.0, 0.5, math.log(3) / math.log(4), 1.0]
    assert rates == pytest.approx([*rise, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0, 0.0])
    assert [warmup_decay(step, warmup=0, total=2) for step in range(3)] == [1.0, 0.5, 0.0]
    assert warmup_decay(0, warmup=1, total=2) == 0.0


def test_a_warm_up_that_is_cut_is_told(plan: Plan, tmp_path: Path) -> None:
    stage = plan.stage.model_copy(update={**BASE, "warmup": 200, "max_steps": 4})
    assert (
        train(replace(plan, stage=stage), tmp_path / "out", progress=False).warmup_cut
        == "2 of 200 steps, half of the run"
    )
    assert warmup_cut(200, 804) is None and warmup_cut(0, 1) is None
