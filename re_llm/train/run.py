"""One training run: a stage of a recipe, from continuation files to a checkpoint folder. Resumable, repeatable."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from re_llm.audio import waveform
from re_llm.cluster.engines import HERE, Where
from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.parts import PREFIX
from re_llm.core.provenance import write_provenance
from re_llm.llm.device import DTYPES, pick_device
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.transfer import Transfer
from re_llm.recipe.config import Components, StageOptions, unfit
from re_llm.recipe.options import ModelOptions
from re_llm.train.collate import Collator
from re_llm.train.data import BucketedSampler, Example, Loaded, RowMaker, TrainingRows, load_examples
from re_llm.train.features import FeatureStore, build_store
from re_llm.train.trainer import ReLlmTrainer, TerminalProgress, tensorboard


@dataclass(frozen=True)
class Plan:
    """Everything that decides the outcome of one run.

    Attributes:
        components: where the frozen parts come from.
        model: how they are joined.
        stage: what is trained, on what, how.
        start: checkpoint folder to continue from; None = a fresh adapter on the components.
        data: continuation files.

    Raises:
        RellmError: the stage's losses do not fit the model.
    """

    components: Components
    model: ModelOptions
    stage: StageOptions
    emotions: tuple[str, ...]
    data: tuple[Path, ...]
    start: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = unfit(self.stage, self.model)
        if wrong:
            raise RellmError(f"this stage cannot train this model: {wrong}")


@dataclass
class TrainReport:
    """What a run did. `start`: what it took over from the checkpoint it continues; `start.json` names every tensor."""

    out: Path
    steps: int
    examples: int
    dropped: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    utterances_per_second: float = 0.0
    final: dict[str, float] = field(default_factory=dict)
    start: str = ""


def build_model(plan: Plan, *, attention: str | None = None) -> tuple[Any, Any]:
    """Model and processor to train: fresh from the components, or continued from `plan.start`.

    Args:
        attention: attention implementation of the LLM, in transformers' names; None = its default.

    A checkpoint with another fusion (stage 2 to RE-LLM) hands over its adapter as `init_adapter` says.
    """
    options, parts = plan.model, plan.components
    llm, speech = _component(parts.llm), _component(parts.speech_encoder)
    with_emotion = options.fusion != "none" and parts.emotion_encoder is not None
    emotion = _component(parts.emotion_encoder or "") if with_emotion else None
    model = ReLlmForConditionalGeneration.from_components(
        llm,
        speech,
        emotion,
        emotions=plan.emotions,
        fusion=options.fusion,
        speech_window=options.speech_window,
        adapter=options.adapter,
        lora=options.lora,
        dtype=DTYPES.get(options.frozen_dtype, "auto"),
        attn_implementation=attention,
    )
    if plan.start:
        model.continue_from(resolve_component(plan.start), adapter=options.init_adapter)
    if "lora" in plan.stage.train and options.lora is None:
        raise RellmError("the stage trains `lora`, but model.lora is null", todo="Give model.lora, or do not train it")
    if any("adapter_ctc" in (weights or {}) for weights in (plan.stage.losses, plan.stage.warm_losses)):
        model.add_ctc_blank()
    model.set_trainable(plan.stage.train, dtype=torch.float32)
    return model, ReLlmProcessor.from_components(
        llm, speech, emotion, speech_window=options.speech_window, adapter=model.config.adapter
    )


def _component(name: str) -> str:
    """Folder or hub id; a fetched part keeps its name, by which the checkpoint finds it on any machine."""
    folder = resolve_component(name)
    return name if name.startswith(PREFIX) else folder


def _speech_inputs(
    model: Any, processor: Any, store: FeatureStore | None
) -> tuple[Callable[[Sequence[Example]], dict[str, Any]], Callable[[dict[str, Any]], list[int]] | None]:
    """How a batch gets its speech: from the store, or from the recordings when the speech encoder is trained too.

    And how many speech tokens that gives; None when there are as many as the transcript has (CFormer).
    """
    uses_emotion = model.emotion_encoder is not None
    settings = model.config.adapter

    def cached(examples: Sequence[Example]) -> dict[str, Any]:
        assert store is not None
        return {"speech": store.batch([e.key for e in examples], with_emotion=uses_emotion)}

    def raw(examples: Sequence[Example]) -> dict[str, Any]:
        return processor.audio_inputs([waveform.load(e.audio, start=e.start, duration=e.duration) for e in examples])

    def counts(speech: dict[str, Any]) -> list[int]:
        if "speech" in speech:
            return [settings.token_count(n) for n in speech["speech"].speech_lengths.tolist()]
        return [settings.token_count((frames - 1) // 2 + 1) for frames in speech["feature_lengths"].tolist()]

    return (cached if store else raw), counts if settings.counts_beforehand else None


def _arguments(plan: Plan, out: Path, device: torch.device, rows: int) -> TrainingArguments:
    stage = plan.stage
    per_epoch = max(1, rows // (stage.batch_size * stage.accumulate))
    steps = stage.max_steps or max(1, round(stage.epochs * per_epoch))
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulate,
        max_steps=steps,
        learning_rate=stage.lr,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        warmup_steps=min(stage.warmup, steps // 2),
        lr_scheduler_type=stage.schedule,
        bf16=stage.precision == "bf16",
        logging_steps=10,
        save_steps=stage.save_every,
        save_total_limit=1,
        seed=plan.seed,
        use_cpu=device.type == "cpu",
        dataloader_drop_last=rows >= stage.batch_size,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        # Only when asked for: transformers is about to rename the argument, and says so each time.
        **({"gradient_checkpointing": True} if stage.gradient_checkpointing else {}),
    )


def train(
    plan: Plan,
    out: str | Path,
    *,
    features: Path | None = None,
    device: str = "auto",
    keep_checkpoints: bool = False,
    progress: bool = True,
    where: Where = HERE,
    track: Literal["tensorboard"] | None = None,
) -> TrainReport:
    """Trains one stage and writes a checkpoint folder; continues an interrupted run of the same plan.

    Args:
        features: folder of cached encoder states to use or fill; default `out/features`.
        where: machines that fill it; training itself runs in this process.
        track: write the curves to `out/tensorboard` as well; `out/log.jsonl` has them in any case.

    Raises:
        RellmError: data, components or options do not fit; an interrupted run in `out` had other options.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    home = pick_device(device)
    set_seed(plan.seed)
    # On a CPU the backward pass of eager attention is faster than that of the fused kernel.
    model, processor = build_model(plan, attention="eager" if home.type == "cpu" else None)
    loaded = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer)
    _write_dropped(out, loaded)
    _same_plan(out, plan)
    model.to(home)
    store = None
    if "speech_encoder" not in plan.stage.train:
        store = build_store(
            features or out / "features",
            loaded.examples,
            model,
            processor,
            progress=progress,
            where=where,
            device=device,
        )
    trainer = _trainer(plan, out, home, model, processor, loaded.examples, store, progress)
    if track == "tensorboard":
        trainer.add_callback(tensorboard(out / "tensorboard"))
    last = _last_checkpoint(Path(trainer.args.output_dir))
    result = trainer.train(resume_from_checkpoint=last)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    steps = trainer.state.global_step
    seconds = time.monotonic() - begun
    final = {k: v for entry in trainer.state.log_history[-2:] for k, v in entry.items() if k != "epoch"}
    rate = steps * plan.stage.batch_size * plan.stage.accumulate / max(result.metrics["train_runtime"], 1e-9)
    start = _write_start(out, model.taken_over)
    report = TrainReport(out, steps, len(loaded.examples), dict(loaded.dropped), seconds, rate, final, start)
    told = {name: value for name, value in _as_json(report).items() if name != "out"}  # a folder may be moved
    (out / "report.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if not keep_checkpoints:
        _remove_checkpoints(Path(trainer.args.output_dir))
    return report


def _trainer(
    plan: Plan,
    out: Path,
    device: torch.device,
    model: Any,
    processor: Any,
    examples: Sequence[Example],
    store: FeatureStore | None,
    progress: bool,
) -> ReLlmTrainer:
    stage = plan.stage
    encode, counts = _speech_inputs(model, processor, store)
    maker = RowMaker(processor.tokenizer, stage)
    if counts is None:
        _refuse_wordless(examples)
    named = {*stage.losses, *(stage.warm_losses or {})}
    lengths = [store.length(e.key) if store else int((e.duration or 1.0) * 50) for e in examples]
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
        args=_arguments(plan, out, device, len(examples)),
        train_dataset=TrainingRows(examples, maker, seed=plan.seed),
        data_collator=collator,
        callbacks=[TerminalProgress(stage.batch_size * stage.accumulate, progress)],
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


def _as_json(value: Any) -> Any:
    return json.loads(
        json.dumps(asdict(value), default=lambda v: v.model_dump() if hasattr(v, "model_dump") else str(v))
    )


def _same_plan(out: Path, plan: Plan) -> None:
    """An interrupted run may only be continued with the options it was started with."""
    file = out / "recipe.resolved.yaml"
    mine = _as_json(plan)
    if file.is_file() and (out / "checkpoints").is_dir():
        theirs = yaml.safe_load(file.read_text(encoding="utf-8"))
        if theirs != mine:
            changed = [k for k in mine if theirs.get(k) != mine[k]]
            raise RellmError(
                f"{out} holds an interrupted run with other options ({', '.join(changed)} differ)",
                todo="Run it with its own options, or give another --out",
            )
    write_provenance(out, seed=plan.seed, inputs=plan.data, settings=mine)


def _write_dropped(out: Path, loaded: Loaded) -> None:
    lines = [json.dumps({"key": key, "dropped": reason}) + "\n" for key, reason in loaded.dropped_keys]
    if lines:
        (out / "dropped.jsonl").write_text("".join(lines), encoding="utf-8")


def _write_start(out: Path, taken_over: Transfer | None) -> str:
    """Every tensor of the checkpoint that was started from, taken or left out; returns the short form."""
    if taken_over is None:
        return ""
    (out / "start.json").write_text(json.dumps(asdict(taken_over), indent=2) + "\n", encoding="utf-8")
    return "; ".join(taken_over.summary())


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written whole. Torn ones, left by a kill or a full disk, are removed."""
    while folder.is_dir() and (last := get_last_checkpoint(str(folder))):
        try:
            json.loads((Path(last) / TRAINER_STATE_NAME).read_bytes())  # the last file of a checkpoint
            return last
        except (OSError, ValueError):
            shutil.rmtree(last)
    return None


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
