"""One training run: a stage of a recipe, from continuation files to a checkpoint folder. Resumable, repeatable."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from re_llm.cluster.engines import HERE, Where
from re_llm.core import files
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.product import Overwrite, Product, Standing, State, recall
from re_llm.core.provenance import write_resolved
from re_llm.llm.device import pick_attention
from re_llm.model.hub import locate
from re_llm.model.inputs import load_tokenizer
from re_llm.model.transfer import Transfer
from re_llm.train.copies import Copies
from re_llm.train.data import Loaded, load_examples
from re_llm.train.examples import Examples
from re_llm.train.features import build_features
from re_llm.train.identity import SegmentIds, segment_ids, training_product
from re_llm.train.plan import Plan, TrainReport, build_model
from re_llm.train.processes import Division, Processes
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.schedule import warmup_cut
from re_llm.train.setup import make_trainer
from re_llm.train.trainer import ReLlmTrainer, TerminalProgress, cut_log, tensorboard
from re_llm.train.validation import held_out

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Surroundings:
    """How a run is carried out; decides nothing about its outcome.

    Attributes:
        features: folder of cached encoder states, and of what a teacher predicts, to use or fill; None = `features` in
            the checkpoint's folder.
        keep_checkpoints: keep what a resume would need.
        loaders: processes that read recordings and make batches ahead of the step; None = 4 for a GPU, none on a CPU,
            whose step takes far longer than its batch.
        where: machines that fill the store; training itself runs in this process.
        track: write the curves to `OUT/tensorboard` as well; `OUT/log.jsonl` has them in any case.
    """

    features: Path | None = None
    device: str = "auto"
    keep_checkpoints: bool = False
    loaders: int | None = None
    progress: bool = True
    where: Where = HERE
    track: Literal["tensorboard"] | None = None

    def __post_init__(self) -> None:
        if self.track and importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra("tensorboard", "track", "--track tensorboard")


def train(plan: Plan, out: str | Path, *, overwrite: Overwrite = Overwrite.NO, **surroundings: Any) -> TrainReport:
    """Trains one stage and writes a checkpoint folder; goes on with an interrupted run of the same plan.

    A folder that is complete, made from the same rows, recordings and models with the same options, stays as it is.

    Args:
        overwrite: what happens to a checkpoint that was made from something else.
        surroundings: fields of `Surroundings`.

    Raises:
        RellmError: data, components or options do not fit; `out` holds another run and may not be overwritten (names
            what differs); another process trains into it.
    """
    around, out = Surroundings(**surroundings), Path(out)
    begun = time.monotonic()
    processes = Processes.start(around.device)
    Division.of(plan.stage, processes.count)
    inputs = _inputs(plan)
    recall(out)
    examples = inputs.train.then(inputs.held_out)
    segments = segment_ids(examples, around.features or out / "features", processes)
    product = training_product(plan, out, examples, segments)
    with _making(product, overwrite, processes) as before:
        if before.state is State.SAME:
            report = product.stored(TrainReport)
        else:
            report = _train(plan, out, processes, inputs, segments, around)
            report.seconds, report.remade = time.monotonic() - begun, before.why
            if processes.first:
                _write_about(out, plan, report)
                product.finish(report)
        if processes.first and not around.keep_checkpoints:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        processes.wait()
    return report


@contextmanager
def _making(product: Product, overwrite: Overwrite, processes: Processes) -> Iterator[Standing]:
    """`Product.making` by the first process, which tells the others how the product stands."""
    if not processes.first:
        yield processes.from_first(lambda: Standing(State.ABSENT))
        return
    with product.making(overwrite, run={"device": processes.device.type, "processes": processes.count}) as before:
        yield processes.from_first(lambda: before)


@dataclass(frozen=True)
class _Inputs:
    """The rows of a run, and how they become token ids. All of it is checked before hours of encoding."""

    train: Examples
    held_out: Examples
    loaded: Loaded
    maker: RowMaker


def _inputs(plan: Plan) -> _Inputs:
    folders = {role: locate(name) for role, name in plan.parts().items() if name is not None}  # downloads what it must
    tokenizer = load_tokenizer(folders["llm"])
    loaded = load_examples(plan.data, plan.stage, plan.emotions, tokenizer)
    if plan.model.adapter.kind == "cformer":
        _refuse_wordless(loaded.examples)
    train, kept = loaded.examples, loaded.examples[:0]
    if plan.stage.validation is not None:
        train, kept = held_out(loaded.examples, plan.stage.validation, plan.seed)
    maker = RowMaker(tokenizer, plan.stage, plan.stage.spelled_units(plan.model))
    TrainingRows(loaded.examples, maker, seed=plan.seed)
    for task in plan.stage.tasks:
        maker.make(0, loaded.examples[0], task)
    return _Inputs(train, kept, loaded, maker)


def _train(
    plan: Plan, out: Path, processes: Processes, inputs: _Inputs, segments: SegmentIds, around: Surroundings
) -> TrainReport:
    if processes.first:
        _write_dropped(out, inputs.loaded)
    set_seed(plan.seed)
    attention = pick_attention(plan.stage.attention, processes.device, training=True)
    model, processor = build_model(plan, attention=attention, device=processes.device)
    model.config.trained_seconds = _longest(inputs.train)
    model.to(processes.device)
    show = around.progress and processes.first
    features, kept = None, around.features or out / "features"
    if plan.stage.features == "disk" and "speech_encoder" not in plan.stage.train:
        features = build_features(
            kept, inputs.loaded.examples, segments, model, processor, copies=Copies.of(plan.stage),
            progress=show, where=around.where, device=around.device, processes=processes,
        )  # fmt: skip
    with TerminalProgress(plan.stage.batch_size * plan.stage.accumulate, show) as progress:
        callbacks: list[TrainerCallback] = [progress]
        if around.track and processes.first:
            callbacks.append(tensorboard(out / "tensorboard"))
        rows = (inputs.train, inputs.held_out)
        trainer = make_trainer(plan, out, processes, model, processor, *rows, features, kept, callbacks, around.loaders)
        report = _run(trainer, plan, out, processes)
    report.examples, report.held_out = len(inputs.train), len(inputs.held_out)
    report.dropped, report.shortened = dict(inputs.loaded.dropped), inputs.loaded.shortened
    if processes.first:
        processor.save_pretrained(out)
        report.start = _write_start(out, model.taken_over)
    return report


def _longest(examples: Examples) -> float | None:
    """Seconds of the longest utterance; None when the length of one is not known."""
    longest = float(examples.durations.max(initial=0.0))
    return longest if longest > 0 else None  # NaN is not


def _run(trainer: ReLlmTrainer, plan: Plan, out: Path, processes: Processes) -> TrainReport:
    """Trains from the last checkpoint on and saves the model."""
    last = processes.from_first(lambda: _last_checkpoint(out / CHECKPOINTS))
    done = 0 if last is None else int(last.rpartition("-")[2])
    if processes.first:
        cut_log(out / "log.jsonl", done)
    seconds = 0.0
    if last is not None and done >= trainer.args.max_steps:  # the Trainer would make one more step
        trainer.restore(last)
    else:
        seconds = trainer.train(resume_from_checkpoint=last).metrics["train_runtime"]
    report = TrainReport(out=out, steps=trainer.state.global_step, examples=0)
    report.warmup_cut = warmup_cut(plan.stage.warmup, trainer.args.max_steps)
    if trainer.validation is not None:
        trainer.take_best(trainer.validation)
        report.best = {"step": trainer.state.best_global_step, "eval_loss": trainer.state.best_metric}
    trainer.save_model_to(out)
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    report.final = {name: value for name, value in logged.items() if name not in ("epoch", "step")}
    if seconds:
        rows = (report.steps - done) * plan.stage.batch_size * plan.stage.accumulate
        report.utterances_per_second = rows / seconds
    return report


def _write_start(out: Path, taken_over: Transfer | None) -> str:
    """Every tensor of the checkpoint that was started from, taken or left out; returns the short form."""
    if taken_over is None:
        return ""
    start = Path(taken_over.start)  # a folder without its path: both may be moved
    named = replace(taken_over, start=start.name if start.is_dir() else taken_over.start)
    files.write_json(out / "start.json", asdict(named))
    return "; ".join(named.summary())


def _write_about(out: Path, plan: Plan, report: TrainReport) -> None:
    """`report.json` and `recipe.resolved.yaml`: about what is in the folder now, so only when it is."""
    told = json.loads(json.dumps(asdict(report), default=str))
    files.write_json(out / "report.json", {name: value for name, value in told.items() if name != "out"})
    write_resolved(out, _plain(plan))


def _plain(plan: Plan) -> dict[str, Any]:
    value = json.dumps(asdict(plan), default=lambda v: v.model_dump() if hasattr(v, "model_dump") else str(v))
    return dict(json.loads(value))


def _refuse_wordless(examples: Examples) -> None:
    """A CFormer is trained to give as many tokens as the transcript has; none at all it cannot give."""
    silent = np.flatnonzero(examples.wordless)
    if len(silent):
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        raise RellmError(
            f"{examples.key(silent[0])}{more}: no transcript, which an adapter of the kind cformer needs in training",
            todo="Remove these rows, or train a subsampler",
        )


def _write_dropped(out: Path, loaded: Loaded) -> None:
    """Lists what was left out; a list of an earlier start goes."""
    lines = [json.dumps({"key": key, "dropped": reason}) + "\n" for key, reason in loaded.dropped_keys]
    if lines:
        files.write_text(out / "dropped.jsonl", "".join(lines))
    else:
        (out / "dropped.jsonl").unlink(missing_ok=True)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written whole. Torn ones, left by a kill or a full disk, are removed."""
    while folder.is_dir() and (last := get_last_checkpoint(str(folder))):
        try:
            json.loads((Path(last) / TRAINER_STATE_NAME).read_bytes())  # the last file of a checkpoint
            return last
        except (OSError, ValueError):
            shutil.rmtree(last)
    return None
