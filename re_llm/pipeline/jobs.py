"""The trainings of a run, and its jobs in processes of their own, several at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from re_llm.core.errors import RellmError
from re_llm.core.files import known_hashes, remember_hashes
from re_llm.core.product import Made, Overwrite
from re_llm.core.workers import process_pool
from re_llm.recipe.config import Recipe
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions
from re_llm.recipe.systems import ClassifierOptions


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
class ClassifierJob:
    """The training of one emotion classifier; `data` are manifests."""

    name: str
    options: ClassifierOptions
    recipe: Recipe
    data: tuple[Path, ...]
    out: Path


def begin_worker(threads: int, hashes: Mapping[str, str]) -> None:
    """In a worker process: its share of the cores, so that workers do not slow each other down, and known hashes."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(threads)
    remember_hashes(hashes)


def result_line(name: str, report: Made, result: str) -> str:
    """One line about a piece of work: complete, made, or made again and why."""
    if report.skipped:
        return f"{name}: complete"
    return f"{name}: made again ({report.remade}): {result}" if report.remade else f"{name}: {result}"


def train_job(job: TrainJob) -> str:
    """Trains one checkpoint unless it is complete; returns one line about it."""
    from re_llm.train.plan import Plan
    from re_llm.train.run import train

    recipe = job.recipe
    plan = Plan(recipe.components, job.model, job.stage, recipe.emotions, job.data, job.start, job.seed)
    options = {"features": job.features, "device": recipe.device, "progress": False}
    report = train(plan, job.out, overwrite=Overwrite.OUTDATED, **options)
    terms = " ".join(f"{k} {v:.3f}" for k, v in report.final.items() if k.startswith(("response", "input", "adapter")))
    cut = f"; warm-up cut to {report.warmup_cut}" if report.warmup_cut else ""
    rate = report.utterances_per_second
    return result_line(job.name, report, f"{report.steps} steps, {rate:.0f} utt/s, {terms}{cut}")


def classifier_job(job: ClassifierJob) -> str:
    """Trains one emotion classifier unless it is complete; returns one line about it."""
    from re_llm.train.emotion.run import train_emotion

    recipe = job.options.recipe(job.name, job.recipe.emotions)
    report = train_emotion(
        recipe, job.data, job.out, seed=job.recipe.seeds[0], device=job.recipe.device, overwrite=Overwrite.OUTDATED,
        progress=False,
    )  # fmt: skip
    return result_line(job.name, report, f"UA {report.validation_accuracy} on held-out speakers")


J = TypeVar("J")


def run_jobs(work: Callable[[J], str], jobs: Sequence[J], workers: int, say: Callable[[str], None]) -> None:
    """Runs independent jobs, `workers` at a time, each with its share of the cores.

    Raises:
        RellmError: what the first failing job raised; the others are finished first, so nothing done is lost. Or a
            worker process died.
    """
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            say(work(job))
        return
    cores = max(1, (os.cpu_count() or 1) // workers)
    failure: BaseException | None = None
    with process_pool(workers, partial(begin_worker, cores, known_hashes())) as pool:
        for future in as_completed([pool.submit(work, job) for job in jobs]):
            error = future.exception()
            if error is None:
                say(future.result())
            else:
                failure = failure or error
    if isinstance(failure, BrokenExecutor):
        raise RellmError(
            "a worker process was killed, perhaps because the memory was full",
            todo="Run the same command again, with fewer at a time: --set workers=1",
        ) from failure
    if failure:
        raise failure
