"""Trains the miniature chat LLM: a small Qwen2 that knows every prompt of the papers and one world of topics.

    python -m re_llm.mini.training.llm --out DIR

Shapes: B rows, P prefix tokens, L content tokens, D width.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2ForCausalLM

from re_llm.core.errors import RellmError
from re_llm.mini.grammar import world
from re_llm.mini.training.component import report, settings_of
from re_llm.mini.training.fitting import Plan, command, fit
from re_llm.mini.training.llm_batches import Batch, Disturbance, collate
from re_llm.mini.training.llm_build import build_model, build_tokenizer
from re_llm.mini.training.llm_rows import RowSource, contents
from re_llm.mini.training.llm_scores import evaluate_llm

STEPS = 1750
WORLD_SIZE = 24_000
GATE = 0.95
"""Smallest rate of right topics under noise and doubling with which adapters can be trained on this LLM."""


@dataclass(frozen=True)
class LlmSize:
    """Width and depth of the LLM; the default has 3.5 M parameters (7 MB in 16 bit)."""

    vocabulary: int = 3000
    width: int = 256
    inner: int = 576
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise RellmError(f"width {self.width} is not divisible by heads {self.heads}")


@dataclass(frozen=True)
class LlmSteps:
    """What the training steps are made of."""

    micro_batches: int = 4
    """Each with its own prompt."""
    rows: int = 12
    """Per micro-batch."""
    disturbance: Disturbance = field(default_factory=Disturbance)
    disturb_from: float = 0.08
    """Part of the steps after which disturbance begins to grow."""
    disturb_full: float = 0.4
    """Part of the steps after which it has its full strength."""

    def __post_init__(self) -> None:
        if self.rows < 1 or self.micro_batches < 1:
            raise RellmError("rows and micro_batches must be positive", allowed="1 or more")
        if not 0 <= self.disturb_from <= self.disturb_full <= 1:
            raise RellmError(
                f"disturb_from {self.disturb_from}, disturb_full {self.disturb_full} are out of order",
                allowed="0 <= disturb_from <= disturb_full <= 1",
            )

    def disturbance_at(self, step: int, steps: int) -> Disturbance:
        begin, full = self.disturb_from * steps, self.disturb_full * steps
        return self.disturbance.scaled(min(1.0, max(0.0, (step - begin) / max(1.0, full - begin))))


def answer_loss(model: Qwen2ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross-entropy of the answer tokens; logits are computed for these alone.

    Keys and values of the shared prefix are computed once and expanded to the rows. Right padding needs no mask:
    it lies behind everything that carries a loss.
    """
    rows = batch.embeds.shape[0]
    cache = None
    if batch.shared.shape[1]:
        once = model.model(input_ids=batch.shared, use_cache=True).past_key_values
        cache = DynamicCache(config=model.config)
        for number, layer in enumerate(once.layers):
            cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), number)
    hidden = model.model(inputs_embeds=batch.embeds, past_key_values=cache).last_hidden_state
    logits = model.lm_head(hidden[batch.predicts])
    return nn.functional.cross_entropy(logits.float(), batch.targets)


def default_plan(steps: int = STEPS, **more: Any) -> Plan:
    """The plan of the build, with another number of steps when it is asked for."""
    return Plan(steps, 1.5e-3, 100, schedule="cosine", weight_decay=0.05, save_every=200, **more)


def settings(world_size: int, size: LlmSize, options: LlmSteps, *, seed: int) -> dict[str, Any]:
    """What decides the component beside its plan; see `fitting.settings_of`."""
    taught = contents(world(seed, world_size))
    return settings_of(taught, size=size, options=options, world_size=world_size)


def default_settings(world: Path, seed: int) -> dict[str, Any]:
    """`settings` of what the build makes."""
    return settings(WORLD_SIZE, LlmSize(), LlmSteps(), seed=seed)


def train_llm(
    out: Path,
    world_size: int,
    plan: Plan,
    *,
    progress: bool = True,
    size: LlmSize | None = None,
    options: LlmSteps | None = None,
    gate: bool = True,
) -> dict[str, Any]:
    """Train the LLM into the folder `out`, its training state into `out/state`; a run that was killed resumes from it.

    Args:
        world_size: sentences of the world.

    Returns:
        What `metrics.json` holds: the results of `evaluate_llm`, steps, seed, threads, seconds, sizes.

    Raises:
        RellmError: `out` holds a training with other options, or (with `gate`) the finished LLM loses the topic under
            noise or doubling, so that no adapter could be trained on it.
    """
    size, options = size or LlmSize(), options or LlmSteps()
    torch.set_num_threads(plan.threads)
    tokenizer = build_tokenizer(world_size, plan.seed, size.vocabulary)
    source = RowSource(tokenizer, [s for s in world(plan.seed, world_size) if s.split == "train"], seed=plan.seed)
    model = build_model(
        tokenizer, width=size.width, inner=size.inner, layers=size.layers, heads=size.heads, seed=plan.seed
    )
    model.set_attn_implementation("eager")  # its backward pass is faster than the fused one's on a CPU

    def terms(step: int) -> dict[str, Tensor]:
        how = options.disturbance_at(step, plan.steps)
        losses = []
        for number in range(options.micro_batches):
            rows, name = source.micro_batch(step, number, options.rows), f"{plan.seed} {step} {number}"
            with torch.autocast("cpu", torch.bfloat16):
                batch = collate(rows, model.model.embed_tokens, how, source.fillers, seed=name)
                losses.append(answer_loss(model, batch))
        return {"loss": torch.stack(losses).mean()}

    decides = settings(world_size, size, options, seed=plan.seed)
    fitted = fit(model, terms, plan, out / "state", settings=decides, progress=progress)
    model.set_attn_implementation("sdpa")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    results = {
        **evaluate_llm(out, seed=plan.seed, world_size=world_size),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return report(out, results, fitted, _check if gate else None, plan, decides)


def _check(metrics: dict[str, Any]) -> None:
    if metrics["gate"] < GATE:
        raise RellmError(
            f"the miniature LLM names the right topic in only {metrics['gate']:.1%} of disturbed inputs",
            allowed=f"{GATE:.0%} or more under noise and doubling",
            todo="Train for more steps",
        )


if __name__ == "__main__":
    sentences = {"type": int, "default": WORLD_SIZE, "help": "sentences of the world"}
    sys.exit(command(train_llm, "chat LLM", STEPS, default_plan, sentences))
