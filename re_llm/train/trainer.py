"""transformers.Trainer with our batches and losses: every term is logged, and a checkpoint holds the trained part."""

from __future__ import annotations

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from re_llm.core.errors import Failed, RellmError
from re_llm.core.files import replacing, write_text
from re_llm.core.progress import progress_bar
from re_llm.model.components import PREFIXES
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.train.collate import Batch, Collator
from re_llm.train.objective import Loss, Objective, averaged_over
from re_llm.train.order import BucketedSampler
from re_llm.train.processes import Processes
from re_llm.train.rows import TrainingRows
from re_llm.train.schedule import warmup_decay
from re_llm.train.validation import Validation

TRAINED = "trained.safetensors"


class ReLlmTrainer(Trainer):
    """Thin subclass: the losses, the sampler, the log, validation, and what a checkpoint holds.

    It stops with an error at the first loss, gradient or weight that is not finite, before that reaches a checkpoint.

    Args:
        sampler: order of the rows.
        log_file: receives one JSON line per logging step with every term.
        parted: the processes have parts of the same batch, and not batches of their own.
    """

    def __init__(
        self,
        objective: Objective,
        args: TrainingArguments,
        *,
        rows: TrainingRows,
        collate: Collator,
        sampler: BucketedSampler,
        log_file: Path,
        callbacks: list[TrainerCallback],
        processes: Processes,
        parted: bool = False,
        validation: Validation | None = None,
    ):
        super().__init__(model=objective, args=args, train_dataset=rows, data_collator=collate, callbacks=callbacks)
        self.objective, self.sampler, self.log_file, self.validation = objective, sampler, log_file, validation
        self.processes, self.parted, self.collate = processes, parted, collate
        objective.sharded = self.is_fsdp_enabled
        self.remove_callback(PrinterCallback)  # standard output belongs to the command
        self.add_callback(_EveryStep(self))
        names = sorted({*objective.options.losses, *(objective.options.warm_losses or {})})
        self._terms: dict[str, list[Tensor]] = {name: [] for name in names}
        # The loss is a mean over this micro-batch; the Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    @property
    def bare(self) -> ReLlmForConditionalGeneration:
        """The model without what training has put around it."""
        return self.objective.model

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that this run trains, by name."""
        return {name: parameter for name, parameter in self.bare.named_parameters() if parameter.requires_grad}

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Whole rows where the LLM is shared out: no process may then make a pass of its own over an opening."""
        if self.objective.sharded:
            for collate in (self.collate, *([self.validation.collate] if self.validation else [])):
                collate.apart = False
        return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: object = None) -> BucketedSampler:
        return self.sampler

    # -- optimiser ----------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters with weight decay, as `weight_decay_on` says."""
        if self.objective.options.weight_decay_on == "all":
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """As `schedule` says; transformers has no `warmup_decay`."""
        if self.objective.options.schedule != "warmup_decay":
            return super().create_scheduler(num_training_steps, optimizer)
        factor = partial(warmup_decay, warmup=int(self.args.warmup_steps), total=num_training_steps)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    # -- losses -------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> Tensor | tuple[Tensor, dict[str, Tensor | None]]:
        """Weighted sum of the stage's losses; the terms are kept for the log."""
        weights = self.objective.weights(self.state.global_step)
        scales = self._scales(inputs, weights) if self.parted else None
        loss = Loss(*model(inputs, weights, scales))
        if not torch.isfinite(loss.total):
            wrong = next((name for name, term in loss.terms.items() if not torch.isfinite(term)), "the weighted sum")
            self._diverged(f"the loss {wrong} is not finite", alone=True)
        for name in {**loss.terms, **(scales or {})}:  # a part without an item adds zero to the mean of the batch
            self._terms[name].append(loss.terms.get(name, torch.zeros_like(loss.total)).detach())
        return (loss.total, {"logits": None}) if return_outputs else loss.total

    def _scales(self, inputs: Batch, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """Factors that make the mean over the processes of a loss on parts that of the whole batch."""
        counts = averaged_over(inputs)
        own = torch.stack([counts[name].to(self.args.device, torch.float32) for name in weights])
        whole = self.accelerator.reduce(own, "sum")
        factors = own * self.processes.count / whole.clamp(min=torch.finfo(whole.dtype).tiny)
        return {name: factor for name, factor, n in zip(weights, factors, whole.tolist(), strict=True) if n}

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Adds to the gradients; raises when one is not finite, before clipping spreads that to all of them."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check("gradient of", {n: p.grad for n, p in self.trained().items() if p.grad is not None})
        return loss

    def check_weights(self) -> None:
        """Raises when a weight is not finite after the step of the optimiser."""
        self._check("weight", {name: p.detach() for name, p in self.trained().items()})

    def _check(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        if not torch.isfinite(whole(nn.utils.get_total_norm(tensors.values()))):
            largest = {n: whole(t).abs().nan_to_num(math.inf, math.inf).max().item() for n, t in tensors.items()}
            name = max(largest, key=largest.__getitem__)
            self._diverged(f"the {what} {name} is {largest[name]:.3g}")

    def _diverged(self, why: str, *, alone: bool = False) -> NoReturn:
        """Ends the training. `alone`: the other processes do not know it; they end when the launcher sees this one."""
        step = self.state.global_step + 1
        if alone or self.processes.first:
            self._write_log({"stopped": why}, step)
        kept = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"
        raise Failed(
            f"the training diverged at step {step}: {why}; {last}",
            todo=f"Use a smaller lr ({self.args.learning_rate:g} now), a longer warmup or a smaller max_grad_norm",
        )

    # -- validation ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, validation: Validation) -> bool:
        """Loss on the held-out rows, into the log; keeps the best weights. Returns whether to end the training."""
        sums: dict[str, float] = defaultdict(float)
        counts: Counter[str] = Counter()
        training = self.model.training
        self.model.eval()
        for first in range(0, len(validation.batches), self.processes.count):
            place = first + self.processes.index  # behind the end: a pass like the others' that is not counted
            rows = validation.batches[place % len(validation.batches)]
            loss = Loss(*self.model(self._prepare_inputs(validation.collate(rows)), self.objective.options.losses))
            for name, value in {"loss": loss.total, **loss.terms}.items() if place < len(validation.batches) else ():
                sums[name] += value.item() * len(rows)
                counts[name] += len(rows)
        self.model.train(training)
        names = ["loss", *self.objective.options.losses]
        summed = self._summed([sums[name] for name in names] + [counts[name] for name in names])
        means = {f"eval_{n}": a / b for n, a, b in zip(names, summed, summed[len(names) :], strict=False) if b}
        self.log(means)
        loss_now, step, state = means["eval_loss"], self.state.global_step, self.state
        if not math.isfinite(loss_now):
            self._diverged("the loss on the held-out rows is not finite")
        if state.best_metric is None or loss_now < state.best_metric:
            state.best_metric, state.best_global_step = loss_now, step
            self._write_trained(validation.best)
            return False
        patience = validation.options.patience
        return patience is not None and step - state.best_global_step >= patience * validation.options.every

    def take_best(self, validation: Validation) -> None:
        """Puts the weights with the smallest loss on the held-out rows in place."""
        self.processes.wait()
        self._read_trained(validation.best)

    # -- log and checkpoints ------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not any(name.startswith("eval_") for name in logs):
            logs |= self._mean_terms()
        if "train_loss" in logs:  # the Trainer's own is that of one process
            logs["train_loss"] = self._summed([logs["train_loss"]])[0] / self.processes.count
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self._write_log(logs, self.state.global_step)

    def _mean_terms(self) -> dict[str, float]:
        """Mean of each loss since the last time, over all processes."""
        sums = [torch.stack(values).sum().item() if values else 0.0 for values in self._terms.values()]
        counts = [float(len(values)) for values in self._terms.values()]
        for values in self._terms.values():
            values.clear()
        summed = self._summed(sums + counts)
        return {n: a / b for n, a, b in zip(self._terms, summed, summed[len(sums) :], strict=False) if b}

    def _summed(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        if self.processes.count == 1:
            return list(values)
        return self.accelerator.reduce(torch.tensor(values, device=self.args.device), "sum").tolist()

    def _write_log(self, logs: dict[str, Any], step: int) -> None:
        """One line; a number that JSON does not have is null."""
        finite = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in logs.items()}
        with self.log_file.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Only what this run trains, in its full precision; everything else is in the components."""
        self._write_trained(Path(output_dir or str(self.args.output_dir)) / TRAINED)

    def _write_trained(self, path: Path) -> None:
        state = {name: whole(p.detach()).cpu().contiguous() for name, p in self.trained().items()}
        if self.processes.first:
            with replacing(path) as temporary:
                save_file(state, temporary)

    def save_model_to(self, folder: Path) -> None:
        """Writes the checkpoint that others load. Components that it only names need not be put together."""
        named = tuple(PREFIXES[role] for role, source in self.bare.component_sources.items() if source is not None)
        foreign = {n for n in self.bare.state_dict() if n.startswith(named) and ".lora_" not in n}
        state = {n: t if n in foreign else whole(t) for n, t in self.bare.state_dict().items()}
        if self.processes.first:
            self.bare.save_pretrained(folder, state_dict=state)

    def restore(self, checkpoint: str) -> None:
        """Takes over weights and state of a checkpoint, without training on."""
        self.state = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        self._load_from_checkpoint(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: object = None) -> None:
        self._read_trained(Path(resume_from_checkpoint) / TRAINED)

    def _read_trained(self, path: Path) -> None:
        stored, parameters = load_file(path), self.trained()
        if stored.keys() != parameters.keys():
            odd = sorted(stored.keys() ^ parameters.keys())[0]
            raise RellmError(
                f"{path}: it was written by a run that trained other parts (first: {odd})",
                todo="Remove the folder `checkpoints` to start anew, or use the options of the first run",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                value = stored[name].to(parameter.device)
                if isinstance(parameter, DTensor):
                    value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
                parameter.copy_(value)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 has shared out, put together; all processes call it at the same time."""
    return tensor.full_tensor().clone() if isinstance(tensor, DTensor) else tensor


class _EveryStep(TrainerCallback):
    """What the trainer does around each step of the optimiser."""

    def __init__(self, trainer: ReLlmTrainer):
        self.trainer = trainer

    def on_optimizer_step(self, args: object, state: object, control: object, **_: object) -> None:
        self.trainer.check_weights()

    def on_step_end(self, args: object, state: Any, control: Any, **_: object) -> None:
        validation = self.trainer.validation
        if validation is None:
            return
        if state.global_step % validation.options.every == 0 or state.global_step >= state.max_steps:
            control.should_training_stop |= self.trainer.validate(validation)


class TerminalProgress(TrainerCallback):
    """Rows, rate and time left on a terminal; elsewhere the log file has it. A context, so that it ends with errors."""

    def __init__(self, batch_size: int, show: bool):
        self.batch_size, self.show = batch_size, show
        self._open = ExitStack()
        self._advance: Callable[[int], None] = lambda rows: None

    def __enter__(self) -> TerminalProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def on_train_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        total, done = state.max_steps * self.batch_size, state.global_step * self.batch_size
        self._advance = self._open.enter_context(progress_bar("train", total, done=done, show=self.show))

    def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
        self._advance(self.batch_size)


def cut_log(path: Path, step: int) -> None:
    """Removes what a run that goes on from `step` will log again, and a line that a kill has torn."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if line.endswith("\n") and entry["step"] <= step and "train_runtime" not in entry:
            kept.append(line)
    write_text(path, "".join(kept))


def tensorboard(folder: Path) -> TrainerCallback:
    """Writes every logged value, each loss term too, for `tensorboard --logdir`."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder)))
