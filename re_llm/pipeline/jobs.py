"""The jobs of a run: one training, one system answering one test set; several at a time in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from re_llm.core.errors import RellmError
from re_llm.core.files import known_hashes, remember_hashes
from re_llm.core.product import Made, Overwrite, State
from re_llm.core.workers import process_pool
from re_llm.recipe.config import Recipe
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions
from re_llm.recipe.systems import SystemOptions

if TYPE_CHECKING:
    from re_llm.inference.reply import Models, ReplyOptions, System


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
    splits: tuple[str, ...]

    def options(self) -> ReplyOptions:
        """What is asked about every recording."""
        from re_llm.inference.reply import ReplyOptions

        decoding = self.recipe.decoding
        return ReplyOptions(
            system=self.system_name,
            prompt=self.system.prompt,
            recognize=decoding.recognize_prompt,
            batch_size=decoding.batch_size,
            max_new_tokens=decoding.max_new_tokens,
            recognize_tokens=decoding.recognize_tokens,
            repetition_penalty=decoding.repetition_penalty,
            seed=self.seed,
        )

    def models(self) -> Models:
        """The models of the system, without loading them."""
        from re_llm.inference.reply import NamedModels
        from re_llm.llm.device import pick_device, pick_dtype

        parts = self.recipe.components
        words = parts.speech_encoder if self.system.kind == "cascade" else None
        texts = tuple(name for name in (parts.llm, words, self.system.classifier) if name)
        dtype = pick_dtype("auto", pick_device(self.recipe.device))
        if self.checkpoint:
            return NamedModels((self.checkpoint,), dtype, self.recipe.decoding.quantize)
        return NamedModels(texts, dtype)

    def load(self) -> System:
        """The system itself."""
        from re_llm.inference import engine
        from re_llm.inference.systems import text_system

        recipe, parts = self.recipe, self.recipe.components
        if self.checkpoint:
            return engine.load(self.checkpoint, device=recipe.device, quantize=recipe.decoding.quantize)
        return text_system(
            self.system.kind, llm=parts.llm, whisper=parts.speech_encoder, classifier=self.system.classifier,
            emotions=recipe.emotions, device=recipe.device,
        )  # fmt: skip


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


def respond_job(job: RespondJob) -> str:
    """Lets one system answer one test set; rows that are answered already are skipped."""
    from re_llm.inference import respond

    name = f"{job.system_name} on {job.manifest.parent.name}"
    rows, known = respond.manifest_rows(job.manifest, job.splits)
    audio = job.system.kind in ("cascade", "speech") or job.system.classifier is not None
    sources = respond.row_sources(rows, job.manifest.parent, audio=audio)
    product = job.options().product(job.out, job.models())
    if respond.standing(product, sources, known).state is State.SAME:
        return f"{name}: complete"
    report = respond.respond_manifest(
        job.load(),
        job.manifest,
        job.out,
        job.options(),
        splits=job.splits,
        progress=False,
        overwrite=Overwrite.OUTDATED,
    )
    return result_line(name, report, f"{report.rows} replies, {report.rate:.1f}/s")


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
