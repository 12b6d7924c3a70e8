"""The Trainer of a plan: its arguments, and how a batch gets its speech."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.model.adapter import set_dropout
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import ReLlmProcessor
from re_llm.recipe.stages import StageOptions
from re_llm.train.collate import Collator, Encode, SpeechInputs
from re_llm.train.copies import Copies
from re_llm.train.examples import Example
from re_llm.train.features import FRAMES_PER_SECOND, Features
from re_llm.train.objective import Objective
from re_llm.train.openings import Openings
from re_llm.train.order import BucketedSampler
from re_llm.train.plan import Plan
from re_llm.train.processes import Division, Processes
from re_llm.train.rows import SPEECH_TOKENS_PER_SECOND, RowMaker, TrainingRows
from re_llm.train.schedule import warmup_steps
from re_llm.train.teacher import TeacherStore
from re_llm.train.trainer import ReLlmTrainer
from re_llm.train.validation import Validation, row_batches

LOADERS = 4  # processes that make the batches for a GPU


def make_trainer(
    plan: Plan,
    out: Path,
    processes: Processes,
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    train: Sequence[Example],
    held_out: Sequence[Example],
    features: Features | None,
    computed: Path,
    callbacks: list[TrainerCallback],
    loaders: int | None = None,
) -> ReLlmTrainer:
    """The Trainer that carries out a plan.

    Args:
        train, held_out: rows to train on and to validate on; the second are none without validation.
        features: states of the encoders; None encodes every batch anew.
        computed: folder of what is computed once.
        loaders: processes that make batches; None = as many as the device needs.
    """
    stage, division = plan.stage, Division.of(plan.stage, processes.count)
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if stage.adapter_dropout:
        set_dropout(model.adapter, stage.adapter_dropout)
    maker = RowMaker(processor.tokenizer, stage, stage.spelled_units(plan.model))
    copies = stage.augment.copies if stage.augment else 0
    rows = TrainingRows(train, maker, seed=plan.seed, copies=copies, hides=stage.time_mask > 0)
    openings = Openings.of(model, stage)
    lengths = _lengths(rows, features)
    _refuse_few_rows(len(rows), stage, processes)
    validation = None
    if stage.validation is not None:
        kept = TrainingRows(held_out, maker, seed=plan.seed)
        batches = list(row_batches(kept, _lengths(kept, features), stage.batch_size))
        collate = _collator(plan, held_out, model, processor, features, apart=openings is not None)
        validation = Validation(stage.validation, batches, collate, out / "checkpoints")
    trainer = ReLlmTrainer(
        Objective(model, stage, TeacherStore.of(computed, stage, model), openings),
        training_arguments(plan, out, processes.device, len(rows), division, loaders),
        rows=rows,
        collate=_collator(plan, train, model, processor, features, apart=openings is not None),
        sampler=BucketedSampler(
            lengths, stage.batch_size, seed=plan.seed, accumulate=stage.accumulate, longer=_longer(rows)
        ),
        log_file=out / "log.jsonl",
        callbacks=callbacks,
        processes=processes,
        parted=division.parted,
        validation=validation,
    )
    if not processes.first:  # dropout of its own; the Trainer has set the same seed everywhere
        torch.manual_seed(plan.seed + processes.index)
    return trainer


def _refuse_few_rows(rows: int, stage: StageOptions, processes: Processes) -> None:
    step = stage.batch_size * stage.accumulate
    if processes.count > 1 and rows < step:
        raise RellmError(
            f"{rows} rows are less than one step of {step}, which {processes.count} processes share",
            todo="Use one process, or a smaller batch_size or accumulate",
        )


def _lengths(rows: TrainingRows, features: Features | None) -> list[int]:
    """Encoder frames of each row, estimated where they are not known."""
    if features is None:
        seconds = np.nan_to_num(rows.examples.durations[rows.places], nan=1.0)
        return (seconds * FRAMES_PER_SECOND).astype(np.int64).tolist()
    return features.lengths(rows.examples.take(rows.places)).tolist()


def _longer(rows: TrainingRows) -> Callable[[int], list[int]] | None:
    """Frames by which earlier turns make each row of an epoch longer; None where no task has any."""
    if all(task.history == "none" for task in rows.maker.tasks):
        return None
    frames = round(FRAMES_PER_SECOND / SPEECH_TOKENS_PER_SECOND)
    return lambda epoch: [frames * tokens for tokens in rows.earlier_tokens(epoch)]


def _collator(
    plan: Plan,
    examples: Sequence[Example],
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    features: Features | None,
    *,
    apart: bool = False,
) -> Collator:
    encode, counts = _speech_inputs(model, processor, features, Copies.of(plan.stage))
    losses = {*plan.stage.losses, *(plan.stage.warm_losses or {})}
    pad = processor.tokenizer.pad_token_id
    return Collator(
        examples,
        encode,
        counts,
        speech_token=model.config.speech_token_id,
        pad_token=pad if pad is not None else processor.tokenizer.eos_token_id,
        teacher=bool({"response_kl", "input_kl"} & losses),
        compare_input="input_kl" in losses,
        kl_at_tokens=plan.stage.kl_at == "token",
        keep_teacher=plan.stage.teacher_top_k is not None,
        apart=apart,
        time_mask=plan.stage.time_mask,
    )


def _speech_inputs(
    model: ReLlmForConditionalGeneration, processor: ReLlmProcessor, features: Features | None, copies: Copies
) -> tuple[Encode, Callable[[SpeechInputs], list[int]] | None]:
    """How a batch gets its speech: from the store, or from the recordings.

    And how many speech tokens that gives; None when there are as many as the transcript has (CFormer).
    """
    settings = model.config.adapter

    def raw(examples: Sequence[Example], felt: Sequence[Example], heard: Sequence[int]) -> SpeechInputs:
        waves = [waveform.load(e.audio, start=e.start, duration=e.duration) for e in examples]
        waves = [copies.wave(wave, e.key, copy) for wave, e, copy in zip(waves, examples, heard, strict=True)]
        return SpeechInputs(**processor.audio_inputs(waves))  # type: ignore[typeddict-item]

    def cached(examples: Sequence[Example], felt: Sequence[Example], heard: Sequence[int]) -> SpeechInputs:
        assert features is not None
        return {"speech": features.batch([e.key for e in examples], [e.key for e in felt], heard)}

    def counts(speech: SpeechInputs) -> list[int]:
        if "speech" in speech:
            return [settings.token_count(n) for n in speech["speech"].speech_lengths.tolist()]
        return [settings.token_count((frames - 1) // 2 + 1) for frames in speech["feature_lengths"].tolist()]

    return (cached if features else raw), counts if settings.kind != "cformer" else None


def total_steps(plan: Plan, rows: int) -> int:
    """Optimiser steps of a plan; `rows` is the number of examples."""
    stage = plan.stage
    per_epoch = max(1, rows // (stage.batch_size * stage.accumulate))
    return stage.max_steps or max(1, round(stage.epochs * per_epoch))


def training_arguments(
    plan: Plan, out: Path, device: torch.device, rows: int, division: Division, loaders: int | None = None
) -> TrainingArguments:
    """What transformers' Trainer is told; `rows` is the number of examples."""
    stage = plan.stage
    steps = total_steps(plan, rows)
    if loaders is None:  # a GPU's step is shorter than making its batch
        loaders = LOADERS if device.type == "cuda" else 0
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=division.batch_size,
        gradient_accumulation_steps=division.accumulate,
        max_steps=steps,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        warmup_steps=warmup_steps(stage.warmup, steps),
        # ReLlmTrainer makes the others itself.
        **({} if stage.schedule == "warmup_decay" else {"lr_scheduler_type": stage.schedule}),
        bf16=stage.precision == "bf16",
        logging_steps=10,
        save_steps=stage.save_every,
        save_total_limit=1,
        seed=plan.seed,
        use_cpu=device.type == "cpu",
        dataloader_drop_last=rows >= stage.batch_size,
        dataloader_pin_memory=device.type == "cuda",
        dataloader_num_workers=loaders,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        logging_nan_inf_filter=False,  # a loss that is not finite ends the run
    )
    if device.type == "cuda":
        _keep_to(arguments, device)
    return arguments


def _keep_to(arguments: TrainingArguments, device: torch.device) -> None:
    """Without a launcher the Trainer would take the first GPU, and nn.DataParallel over all that are visible."""
    torch.cuda.set_device(device)
    arguments.__dict__["_setup_devices"] = device
    arguments._n_gpu = 1
    arguments.distributed_state.device = device
