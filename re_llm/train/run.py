"""One training run: a stage of a recipe, from continuation files to a checkpoint folder. Resumable, repeatable."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from re_llm.audio import waveform
from re_llm.cluster.engines import HERE, Where
from re_llm.core import files
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.product import Overwrite, State, recall
from re_llm.core.provenance import write_resolved
from re_llm.llm.device import pick_device
from re_llm.model.hub import locate
from re_llm.model.inputs import load_tokenizer
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.transfer import Transfer
from re_llm.train.collate import Collator
from re_llm.train.data import BucketedSampler, Example, Loaded, RowMaker, TrainingRows, load_examples
from re_llm.train.features import FRAMES_PER_SECOND, Features, build_features
from re_llm.train.identity import segment_ids, training_product
from re_llm.train.plan import Plan, TrainReport, build_model, training_arguments
from re_llm.train.trainer import ReLlmTrainer, TerminalProgress, cut_log, tensorboard

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Surroundings:
    """How a run is carried out; decides nothing about its outcome.

    Attributes:
        features: folder of cached encoder states to use or fill; None = `features` in the checkpoint's folder.
        keep_checkpoints: keep what a resume would need.
        where: machines that fill the store; training itself runs in this process.
        track: write the curves to `OUT/tensorboard` as well; `OUT/log.jsonl` has them in any case.
    """

    features: Path | None = None
    device: str = "auto"
    keep_checkpoints: bool = False
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
    home = pick_device(around.device)
    folders = {role: locate(name) for role, name in plan.parts().items() if name is not None}  # downloads what it must
    loaded = load_examples(plan.data, plan.stage, plan.emotions, load_tokenizer(folders["llm"]))
    if plan.model.adapter.kind == "cformer":
        _refuse_wordless(loaded.examples)
    recall(out)
    segments = segment_ids(loaded.examples, around.features or out / "features")
    product = training_product(plan, out, segments)
    with product.making(overwrite, run={"device": home.type}) as before:
        if before.state is State.SAME:
            report = product.stored(TrainReport)
        else:
            report = _train(plan, out, home, loaded, segments, around)
            report.seconds, report.remade = time.monotonic() - begun, before.why
            _write_about(out, plan, report)
            product.finish(report)
        if not around.keep_checkpoints:
            shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return report


def _train(
    plan: Plan, out: Path, home: torch.device, loaded: Loaded, segments: Mapping[str, str], around: Surroundings
) -> TrainReport:
    _write_dropped(out, loaded)
    set_seed(plan.seed)
    # On a CPU the backward pass of eager attention is faster than that of the fused kernel.
    model, processor = build_model(plan, attention="eager" if home.type == "cpu" else None)
    model.to(home)
    features = None
    if "speech_encoder" not in plan.stage.train:
        features = build_features(
            around.features or out / "features", loaded.examples, segments, model, processor,
            progress=around.progress, where=around.where, device=around.device,
        )  # fmt: skip
    callbacks: list[TrainerCallback] = [
        TerminalProgress(plan.stage.batch_size * plan.stage.accumulate, around.progress)
    ]
    if around.track:
        callbacks.append(tensorboard(out / "tensorboard"))
    report = _run(_trainer(plan, out, home, model, processor, loaded.examples, features, callbacks), plan, out)
    report.examples, report.dropped = len(loaded.examples), dict(loaded.dropped)
    processor.save_pretrained(out)
    report.start = _write_start(out, model.taken_over)
    return report


def _run(trainer: ReLlmTrainer, plan: Plan, out: Path) -> TrainReport:
    """Trains from the last checkpoint on and saves the model."""
    last = _last_checkpoint(out / CHECKPOINTS)
    done = 0 if last is None else int(last.rpartition("-")[2])
    cut_log(out / "log.jsonl", done)
    seconds = 0.0
    if last is not None and done >= trainer.args.max_steps:  # the Trainer would make one more step
        trainer.restore(last)
    else:
        seconds = trainer.train(resume_from_checkpoint=last).metrics["train_runtime"]
    trainer.bare.save_pretrained(out)
    steps = trainer.state.global_step
    final = {k: v for entry in trainer.state.log_history[-2:] for k, v in entry.items() if k != "epoch"}
    rate = (steps - done) * plan.stage.batch_size * plan.stage.accumulate / seconds if seconds else 0.0
    return TrainReport(out, steps, 0, utterances_per_second=rate, final=final)


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


SpeechInputs = dict[str, Any]


def _speech_inputs(
    model: ReLlmForConditionalGeneration, processor: ReLlmProcessor, features: Features | None
) -> tuple[Callable[[Sequence[Example], Sequence[Example]], SpeechInputs], Callable[[SpeechInputs], list[int]] | None]:
    """How a batch gets its speech: from the store, or from the recordings.

    And how many speech tokens that gives; None when there are as many as the transcript has (CFormer).
    """
    settings = model.config.adapter

    def raw(examples: Sequence[Example], felt: Sequence[Example]) -> SpeechInputs:
        return processor.audio_inputs([waveform.load(e.audio, start=e.start, duration=e.duration) for e in examples])

    def cached(examples: Sequence[Example], felt: Sequence[Example]) -> SpeechInputs:
        assert features is not None
        return {"speech": features.batch([e.key for e in examples], [e.key for e in felt])}

    def counts(speech: SpeechInputs) -> list[int]:
        if "speech" in speech:
            return [settings.token_count(n) for n in speech["speech"].speech_lengths.tolist()]
        return [settings.token_count((frames - 1) // 2 + 1) for frames in speech["feature_lengths"].tolist()]

    return (cached if features else raw), counts if settings.counts_beforehand else None


def _trainer(
    plan: Plan,
    out: Path,
    device: torch.device,
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    examples: Sequence[Example],
    features: Features | None,
    callbacks: list[TrainerCallback],
) -> ReLlmTrainer:
    stage = plan.stage
    encode, counts = _speech_inputs(model, processor, features)
    maker = RowMaker(processor.tokenizer, stage)
    named = {*stage.losses, *(stage.warm_losses or {})}
    rows = TrainingRows(examples, maker, seed=plan.seed)
    spoken = [examples[index] for index in rows.places]
    lengths = [features.length(e.key) if features else int((e.duration or 1.0) * FRAMES_PER_SECOND) for e in spoken]
    pad = processor.tokenizer.pad_token_id
    collator = Collator(
        examples,
        encode,
        counts,
        speech_token=model.config.speech_token_id,
        pad_token=pad if pad is not None else processor.tokenizer.eos_token_id,
        teacher=bool({"response_kl", "input_kl"} & named),
        compare_input="input_kl" in named,
    )
    return ReLlmTrainer(
        model=model,
        args=training_arguments(plan, out, device, len(rows)),
        train_dataset=rows,
        data_collator=collator,
        callbacks=callbacks,
        options=stage,
        sampler=BucketedSampler(lengths, stage.batch_size, seed=plan.seed),
        log_file=out / "log.jsonl",
    )


def _refuse_wordless(examples: Sequence[Example]) -> None:
    """A CFormer is trained to give as many tokens as the transcript has; none at all it cannot give."""
    silent = [example.key for example in examples if not example.text.strip()]
    if silent:
        more = f" and {len(silent) - 1} more" if silent[1:] else ""
        raise RellmError(
            f"{silent[0]}{more}: no transcript, which an adapter of the kind cformer needs in training",
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
