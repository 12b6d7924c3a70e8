"""The jobs of a run: one training, one system answering one test set; several at a time in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from re_llm.recipe.config import Recipe, StageOptions, SystemOptions
from re_llm.recipe.options import ModelOptions


@dataclass(frozen=True)
class TrainJob:
    """One training run, with everything a worker process needs."""

    name: str
    recipe: Recipe
    model: ModelOptions
    stage: StageOptions
    start: str | None
    data: tuple[Path, ...]
    out: Path
    features: Path
    seed: int


@dataclass(frozen=True)
class RespondJob:
    """One system answering one corpus' test set."""

    system_name: str
    system: SystemOptions
    recipe: Recipe
    checkpoint: str | None
    manifest: Path
    out: Path
    seed: int


def _threads(count: int) -> None:
    """Starter of a worker process: its share of the cores, so that workers do not slow each other down."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(count)


def train_job(job: TrainJob) -> str:
    """Trains one checkpoint unless it is complete; returns one line about it."""
    from re_llm.train.run import Plan, train

    if (job.out / "report.json").is_file():
        return f"{job.name}: complete"
    recipe = job.recipe
    plan = Plan(recipe.components, job.model, job.stage, recipe.emotions, job.data, job.start, job.seed)
    report = train(plan, job.out, features=job.features, device=recipe.device, progress=False)
    terms = " ".join(f"{k} {v:.3f}" for k, v in report.final.items() if k.startswith(("response", "input", "adapter")))
    return f"{job.name}: {report.steps} steps, {report.utterances_per_second:.0f} utt/s, {terms}"


def respond_job(job: RespondJob) -> str:
    """Lets one system answer one test set; rows that are answered already are skipped."""
    from re_llm.inference import engine
    from re_llm.inference.reply import ReplyOptions, System
    from re_llm.inference.respond import respond_manifest
    from re_llm.inference.systems import text_system

    recipe, parts = job.recipe, job.recipe.components
    done = job.out.with_suffix(".done")
    if done.is_file():
        return f"{job.system_name}: complete"
    system: System
    if job.checkpoint:
        system = engine.load(job.checkpoint, device=recipe.device, quantize=recipe.decoding.quantize)
    else:
        system = text_system(job.system.kind, llm=parts.llm, whisper=parts.speech_encoder, device=recipe.device)
    options = ReplyOptions(
        system=job.system_name,
        prompt=job.system.prompt,
        recognize=recipe.decoding.recognize_prompt,
        batch_size=recipe.decoding.batch_size,
        max_new_tokens=recipe.decoding.max_new_tokens,
        seed=job.seed,
    )
    report = respond_manifest(system, job.manifest, job.out, options, splits=("test",), progress=False)
    done.write_text(f"{report.rows}\n")
    return f"{job.system_name} on {job.manifest.parent.name}: {report.rows} replies, {report.rate:.1f}/s"


def run_jobs(work: Callable[[Any], str], jobs: Sequence[Any], workers: int, say: Callable[[str], None]) -> None:
    """Runs independent jobs, `workers` at a time, each with its share of the cores.

    Raises:
        RellmError: what the first failing job raised; the others are finished first, so nothing done is lost.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            say(work(job))
        return
    cores = max(1, (os.cpu_count() or 1) // workers)
    failure: BaseException | None = None
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_threads, initargs=(cores,)) as pool:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            error = future.exception()
            if error is None:
                say(future.result())
            else:
                failure = failure or error
    if failure:
        raise failure
