"""Trains the miniature chat LLM: a small Qwen2 that knows every prompt of the papers and one world of topics.

    python -m re_llm.mini.training.llm --out DIR

Shapes: B rows, P prefix tokens, L content tokens, D width.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2ForCausalLM

from re_llm.core.errors import RellmError
from re_llm.mini.grammar import world
from re_llm.mini.training.llm_build import build_model, build_tokenizer
from re_llm.mini.training.llm_rows import Batch, Disturbance, RowSource, collate
from re_llm.mini.training.llm_scores import evaluate_llm

GATE = 0.95
"""Smallest rate of right topics under noise and doubling with which adapters can be trained on this LLM."""
CHECKPOINT, LOG = "training.safetensors", "training.jsonl"


@dataclass(frozen=True)
class LlmOptions:
    """Size of the LLM and of its training."""

    steps: int = 1300
    micro_batches: int = 4
    """Each with its own prompt."""
    rows: int = 12
    """Per micro-batch."""
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    disturbance: Disturbance = field(default_factory=Disturbance)
    disturb_from: float = 0.08
    """Part of the steps after which disturbance begins to grow."""
    disturb_full: float = 0.4
    """Part of the steps after which it has its full strength."""
    checkpoint_every: int = 200
    vocabulary: int = 3000
    width: int = 256
    inner: int = 576
    layers: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or self.micro_batches < 1 or self.checkpoint_every < 1:
            raise RellmError("steps, rows, micro_batches and checkpoint_every must be positive", allowed="1 or more")
        if self.width % self.heads:
            raise RellmError(f"width {self.width} is not divisible by heads {self.heads}")
        if not 0 <= self.disturb_from <= self.disturb_full <= 1:
            raise RellmError(
                f"disturb_from {self.disturb_from}, disturb_full {self.disturb_full} are out of order",
                allowed="0 <= disturb_from <= disturb_full <= 1",
            )

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine to zero."""
        warm = min(1.0, (step + 1) / max(1, self.warm_up))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))

    def disturbance_at(self, step: int) -> Disturbance:
        begin, full = self.disturb_from * self.steps, self.disturb_full * self.steps
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


class Training:
    """Model, optimiser and position of one training, which can be saved and taken up again."""

    def __init__(self, out: Path, options: LlmOptions, *, seed: int, world_size: int):
        self.out, self.options, self.seed, self.world_size = out, options, seed, world_size
        self.tokenizer = build_tokenizer(world_size, seed, options.vocabulary)
        sentences = [s for s in world(seed, world_size) if s.split == "train"]
        self.source = RowSource(self.tokenizer, sentences, seed=seed)
        self.model = build_model(
            self.tokenizer,
            width=options.width,
            inner=options.inner,
            layers=options.layers,
            heads=options.heads,
            seed=seed,
        )
        self.model.set_attn_implementation("eager")  # its backward pass is faster than the fused one's on a CPU
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
        self.step = 0
        self.seconds = 0.0

    def _identity(self) -> dict[str, str]:
        """What must agree for a checkpoint to be continued."""
        return {"options": json.dumps(asdict(self.options)), "seed": str(self.seed), "world": str(self.world_size)}

    def save(self) -> None:
        """Write the whole state to one file, replacing the former one at once."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        where = {"step": str(self.step), "seconds": str(self.seconds)}
        target = self.out / CHECKPOINT
        temporary = target.with_suffix(".writing")
        save_file(tensors, temporary, metadata=self._identity() | where)
        os.replace(temporary, target)

    def resume(self) -> bool:
        """Take up the checkpoint in `out`, if there is one.

        Raises:
            RellmError: it belongs to a training with other options.
        """
        path = self.out / CHECKPOINT
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            found = file.metadata()
            if any(found.get(key) != value for key, value in self._identity().items()):
                raise RellmError(
                    f"{path} belongs to a training with other options",
                    todo="Choose another output folder, or delete this one",
                )
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(file.get_tensor(f"model.{name}"))
                keys = ("step", "exp_avg", "exp_avg_sq")
                self.optimizer.state[parameter] = {k: file.get_tensor(f"optimizer.{k}.{name}").clone() for k in keys}
        self.step, self.seconds = int(found["step"]), float(found["seconds"])
        return True

    def advance(self) -> dict[str, float]:
        """One step; its loss, learning rate and gradient norm."""
        options, started = self.options, time.perf_counter()
        rate = options.learning_rate_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        embedding, how = self.model.model.embed_tokens, options.disturbance_at(self.step)
        total = 0.0
        for number in range(options.micro_batches):
            rows = self.source.micro_batch(self.step, number, options.rows)
            with torch.autocast("cpu", torch.bfloat16):
                name = f"{self.seed} {self.step} {number}"
                batch = collate(rows, embedding, how, self.source.fillers, seed=name)
                loss = answer_loss(self.model, batch) / options.micro_batches
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.max_grad_norm).item()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {"step": self.step, "loss": round(total, 5), "learning_rate": rate, "gradient_norm": round(norm, 4)}


def _log(path: Path, record: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _trim_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again, and a torn last line."""
    if not path.exists():
        return
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _run(training: Training, report: Callable[[str], None]) -> None:
    options, rows = training.options, training.options.rows * training.options.micro_batches
    while training.step < options.steps:
        record = training.advance()
        _log(training.out / LOG, record)
        if training.step % 50 == 0 or training.step == options.steps:
            pace = training.seconds / training.step
            left = (options.steps - training.step) * pace / 60
            report(
                f"step {training.step}/{options.steps}  loss {record['loss']:.4f}  {rows / pace:.0f} rows/s  "
                f"{left:.1f} min left"
            )
        if training.step % options.checkpoint_every == 0 or training.step == options.steps:
            training.save()


def train_llm(
    out: str | Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    threads: int = 1,
    world_size: int = 24000,
    progress: bool = True,
    options: LlmOptions | None = None,
    evaluate: bool = True,
) -> dict[str, Any]:
    """Train the LLM into the folder `out` and return its metrics, which are also in `out/metrics.json`.

    A killed training goes on from its last checkpoint when called again with the same arguments.

    Args:
        steps: overrides the steps of `options`.
        threads: of torch; each gives the same result up to rounding.
        evaluate: score unseen sentences and hold the result against `GATE`.

    Raises:
        RellmError: the finished LLM loses the topic under noise or doubling, so no adapter could be trained on it;
            or `out` holds a training with other options.
    """
    options = options or LlmOptions()
    if steps is not None:
        options = LlmOptions(**{**options.__dict__, "steps": steps})
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    training = Training(out, options, seed=seed, world_size=world_size)

    def report(line: str) -> None:
        if progress:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    if training.resume():
        report(f"going on from step {training.step} of {options.steps}")
    _trim_log(out / LOG, training.step)
    _run(training, report)
    training.model.set_attn_implementation("sdpa")
    training.model.eval().save_pretrained(out)
    training.tokenizer.save_pretrained(out)
    metrics: dict[str, Any] = {
        "steps": options.steps,
        "rows_per_step": options.rows * options.micro_batches,
        "seed": seed,
        "threads": threads,
        "world_size": world_size,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "training_seconds": round(training.seconds, 1),
    }
    if evaluate:
        metrics |= evaluate_llm(out, seed=seed, world_size=world_size)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    if evaluate and metrics["gate"] < GATE:
        raise RellmError(
            f"the miniature LLM names the right topic in only {metrics['gate']:.1%} of disturbed inputs",
            allowed=f"{GATE:.0%} or more under noise and doubling; all numbers: {out / 'metrics.json'}",
            todo="Train longer (--steps)",
        )
    return metrics


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description="Train the chat LLM of the miniature world.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model; a killed run goes on from here")
    parser.add_argument("--steps", type=int, default=LlmOptions.steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--world-size", type=int, default=24000)
    given = parser.parse_args()
    try:
        train_llm(given.out, seed=given.seed, steps=given.steps, threads=given.threads, world_size=given.world_size)
    except RellmError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
