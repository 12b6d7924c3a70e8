"""What the trainings of the miniature's components share: the resumable loop, its metrics, its command line.

Nothing random survives from one step to the next: every step seeds its generators from (seed, step). So a run that
was killed and resumed equals one that was not, without any stored generator state. The training state is a
safetensors file (parameters and the two moments of AdamW), never a pickle.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from re_llm.core.errors import RellmError
from re_llm.core.files import replacing, write_text
from re_llm.core.product import flattened
from re_llm.core.provenance import git_revision

STATE_FILE = "state.safetensors"
CURVE_FILE = "curve.jsonl"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MOVED = ("steps", "warmup", "threads", "save_every", "report_every")  # of a plan: what a resumed run may change

Terms = Callable[[int], dict[str, torch.Tensor]]
"""Named scalar loss terms of one step (0-based); the one called `loss` is minimised, the others are logged."""


@dataclass(frozen=True)
class Plan:
    """How to optimise: AdamW, linear warm-up, decay to zero, clipped gradients."""

    steps: int
    """Steps in all; a resumed run may ask for another number than it began with, which moves the decay."""
    learning_rate: float
    """Peak learning rate."""
    warmup: int
    """Steps from zero to the peak."""
    seed: int = 0
    schedule: Literal["linear", "cosine"] = "linear"
    """Of the decay."""
    threads: int = 1
    """Torch threads; part of the result's last digits, so recorded with it."""
    weight_decay: float = 0.02
    """For matrices; vectors (biases, norms) are not decayed."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient."""
    save_every: int = 250
    """Steps between two training states."""
    report_every: int = 50
    """Steps between two lines of the curve, each the mean since the last."""

    def __post_init__(self) -> None:
        for name in ("steps", "threads", "save_every", "report_every"):
            if getattr(self, name) < 1:
                raise RellmError(f"{name} is {getattr(self, name)}", allowed="1 or more")
        if not 0 <= self.warmup < self.steps:
            raise RellmError(
                f"warmup is {self.warmup} of {self.steps} steps", allowed="0 or more, and less than `steps`"
            )


@dataclass(frozen=True)
class Fitted:
    """What a finished run says about itself."""

    steps: int
    seconds: float
    """Wall time over all pieces of the run."""
    curve: list[dict[str, float]]
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """Plan and revision of earlier pieces, where they were others."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What was different, in words; of a plan without how often it saves and reports."""
    was, is_ = dict(flattened(before)), dict(flattened(now))
    found = []
    for name in dict.fromkeys([*is_, *was]):
        if was.get(name) == is_.get(name) or name in ("plan.save_every", "plan.report_every"):
            continue
        if name.startswith(("inputs.", "content.")):
            found.append(f"{name.partition('.')[2]} has changed")
        else:
            found.append(f"{name} was {json.dumps(was.get(name))}, and is {json.dumps(is_.get(name))} now")
    return found


def command(
    train: Callable[..., dict[str, Any]],
    what: str,
    steps: int,
    plan: Callable[..., Plan],
    world: Mapping[str, Any] = {"type": Path, "required": True, "help": "folder of the built world"},
) -> int:
    """Command line of a training: train, evaluate, print the metrics as JSON; returns the exit code.

    Args:
        train: takes the output folder, the world and the plan.
        what: the model, for the help.
        steps: the default of --steps.
        plan: made of the steps, `seed` and `threads`.
        world: how `--world` is read.
    """
    parser = argparse.ArgumentParser(description=f"Train the miniature's {what}.")
    parser.add_argument("--world", **world)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model; resumes what is there")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        metrics = train(given.out, given.world, plan(given.steps, seed=given.seed, threads=given.threads))
    except RellmError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(metrics, indent=2) + "\n")
    return 0


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Seed Python, NumPy and torch for one step; returns a generator of the step's own."""
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)  # transformers draws its time masks from NumPy's global generator
    torch.manual_seed(mixed)
    return np.random.default_rng([seed, step])


def rate_at(step: int, plan: Plan) -> float:
    """Learning rate of a 0-based step."""
    if plan.schedule == "cosine":
        warm = min(1.0, (step + 1) / max(1, plan.warmup))
        return plan.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    return plan.learning_rate * (plan.steps - step) / (plan.steps - plan.warmup)


def fit(
    module: nn.Module,
    terms: Terms,
    plan: Plan,
    state: Path,
    *,
    settings: Mapping[str, Any] = {},
    progress: bool = True,
) -> Fitted:
    """Minimise `terms(step)["loss"]` over the parameters of `module`, resuming from `state` when it holds a run.

    Args:
        settings: what else decides the result, as JSON; a run with other settings is not resumed.

    Raises:
        RellmError: the stored run had another plan (its length may differ), other settings or other parameters, or the
            loss is not finite.
    """
    torch.set_num_threads(plan.threads)
    state.mkdir(parents=True, exist_ok=True)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, betas=(0.9, 0.98), fused=True)
    start, before, earlier = _load(state / STATE_FILE, parameters, optimizer, plan, settings)
    curve = _kept_curve(state / CURVE_FILE, start)
    began, recent = time.perf_counter(), []
    module.train()
    for step in range(start, plan.steps):
        recent.append(_advance(optimizer, parameters, terms, step, plan))
        done = step + 1
        if done % plan.report_every == 0 or done == plan.steps:
            seconds = before + time.perf_counter() - began
            line = {"step": done, "seconds": round(seconds, 1), **_means(recent)}
            curve.append(line)
            with (state / CURVE_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            recent = []
            if progress:
                rate = (done - start) / (time.perf_counter() - began)
                _report(line, plan.steps, rate)
        if done % plan.save_every == 0 or done == plan.steps:
            seconds = before + time.perf_counter() - began
            about = {"step": done, "seconds": seconds, **_piece(plan), "settings": settings, "earlier": earlier}
            _save(state / STATE_FILE, parameters, optimizer, {key: json.dumps(each) for key, each in about.items()})
    module.eval()
    return Fitted(max(start, plan.steps), before + time.perf_counter() - began, curve, earlier)


def _advance(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], terms: Terms, step: int, plan: Plan
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step, plan)
    optimizer.zero_grad(set_to_none=True)
    seed_step(plan.seed, step)
    values = terms(step)
    values["loss"].backward()
    norm = nn.utils.clip_grad_norm_(parameters.values(), plan.max_grad_norm)
    if not torch.isfinite(norm):
        raise RellmError(
            f"the gradient is not finite at step {step + 1} (loss {float(values['loss'].detach()):.4g})",
            todo="Lower the learning rate, or start again with another seed",
        )
    optimizer.step()
    return {name: float(value.detach()) for name, value in values.items()}


def _means(records: list[dict[str, float]]) -> dict[str, float]:
    names = {name: None for record in records for name in record}
    picked = {name: [record[name] for record in records if name in record] for name in names}
    return {name: round(float(np.mean(values)), 4) for name, values in picked.items()}


def _report(line: dict[str, float], steps: int, rate: float) -> None:
    left = (steps - line["step"]) / rate / 60
    values = "  ".join(f"{name} {value:.3f}" for name, value in line.items() if name not in ("step", "seconds"))
    sys.stderr.write(f"step {line['step']:.0f}/{steps}  {values}  {rate:.2f} steps/s  {left:.1f} min left\n")
    sys.stderr.flush()


def _kept_curve(path: Path, step: int) -> list[dict[str, float]]:
    """The lines up to `step`; later ones belong to work that was lost with the process, and are rewritten."""
    if not path.exists():
        return []
    whole = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [record for record in map(json.loads, whole) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def _save(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, about: dict[str, str]
) -> None:
    tensors = {f"parameter.{name}": p.detach() for name, p in parameters.items()}
    for name, p in parameters.items():
        # A parameter that has had no gradient yet has no moments; zeros are what AdamW would begin with.
        moments = optimizer.state.get(p, {})
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = moments.get(moment, torch.zeros_like(p))
    counts = {name: float(optimizer.state[p]["step"]) for name, p in parameters.items() if p in optimizer.state}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={**about, "updates": json.dumps(counts)})


def _load(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    settings: Mapping[str, Any],
) -> tuple[int, float, list[dict[str, Any]]]:
    """Put a stored state in place; returns (steps done, seconds spent, earlier pieces), nothing when there is none."""
    if not path.exists():
        return 0, 0.0, []
    about = stored(path)
    with safe_open(path, "pt") as file:
        names = {name.removeprefix("parameter.") for name in file.keys() if name.startswith("parameter.")}  # noqa: SIM118
        why = unlike(about, plan, settings)
        if names != set(parameters):
            why.append(f"it has {len(names)} parameters, this one has {len(parameters)}")
        if why:
            todo = "Choose another output folder, or delete this one's `state`"
            raise RellmError(f"{path} holds another run: {'; '.join(why)}", todo=todo)
        if unknown := untold(about, settings):
            sys.stderr.write(f"{path}: not compared, since it does not tell: {', '.join(unknown)}\n")
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(file.get_tensor(f"parameter.{name}"))
                if name in about["updates"]:
                    moments = {moment: file.get_tensor(f"{moment}.{name}") for moment in _MOMENTS}
                    optimizer.state[p] = {"step": torch.tensor(about["updates"][name]), **moments}
    piece = {"plan": about["plan"], "revision": about.get("revision")}
    earlier = [*about.get("earlier", []), *([piece] if piece != _piece(plan) else [])]
    return about["step"], about["seconds"], earlier


def _piece(plan: Plan) -> dict[str, Any]:
    return {"plan": asdict(plan), "revision": git_revision()}


def stored(path: Path) -> dict[str, Any]:
    """What a training state says about its run.

    Raises:
        RellmError: the file cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: json.loads(text) for name, text in file.metadata().items()}
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise RellmError(f"{path} is no training state: {error}", todo="Delete it; the training begins anew") from None


def untold(about: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Settings that an earlier version did not store, and that cannot be compared."""
    return [name for name in settings if name not in (about.get("settings") or {})]


def unlike(about: Mapping[str, Any], plan: Plan, settings: Mapping[str, Any]) -> list[str]:
    """Why a stored run is not the beginning of this one, as far as it tells."""
    before, now = dict(about.get("settings") or {}), json.loads(json.dumps(dict(settings)))
    before |= {"plan": {name: value for name, value in about["plan"].items() if name not in _MOVED}}
    now |= {"plan": {name: value for name, value in asdict(plan).items() if name not in _MOVED}}
    return differences(before, {name: value for name, value in now.items() if name in before})
