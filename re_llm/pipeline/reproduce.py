"""`re-llm reproduce RECIPE`: every stage, one after another, skipping what is complete; one report at the end.

What was made from something else (another recipe, a changed corpus, another checkpoint before it) is made again, and
so is everything that depends on it. What nobody knows the origin of, or what was changed by hand, is left alone and
reported.

Folders of a run:
    corpora/NAME/manifest.jsonl    continuations/NAME.PROMPT.jsonl    features/
    checkpoints/STAGE/ and checkpoints/SYSTEM/CORPUS/SEED/
    replies/CORPUS/SYSTEM.SEED.jsonl    scores/CORPUS/SYSTEM.SEED.jsonl    report/
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from re_llm.core.errors import RellmError
from re_llm.core.files import lock
from re_llm.core.product import Overwrite, State
from re_llm.core.provenance import RESOLVED, provenance, write_provenance
from re_llm.pipeline.jobs import RespondJob, TrainJob, respond_job, result_line, run_jobs, train_job
from re_llm.pipeline.preflight import TRAIN, preflight
from re_llm.recipe.config import CorpusOptions, Recipe, StageOptions

Say = Callable[[str], None]
SMALL_SCORER = " (ER, Ex and IP by the small scorer, not the paper's)"
MINI_ROOTS = {"common_voice": "speech/en"}  # where the miniature world puts a corpus that is not named after its reader


@dataclass
class ReproduceReport:
    """What a run did: the report's path, and the seconds of every stage (0 when it was complete already)."""

    report: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Run:
    """Lays out the folders of one run and knows what depends on what."""

    def __init__(self, recipe: Recipe, out: Path, say: Say, world: Path | None = None):
        self.recipe, self.out, self.say = recipe, out, say
        self.world = world or out / "world"
        self.features = out / "features"  # one place: states are found by their content

    # -- corpora ------------------------------------------------------------------------------------------------

    def manifest(self, corpus: str) -> Path:
        return self.out / "corpora" / corpus / "manifest.jsonl"

    def root(self, corpus: CorpusOptions) -> Path:
        """Folder of a corpus; the miniature's are rendered once per scale."""
        if corpus.root != "mini":
            return Path(corpus.root)
        return self.world / f"x{corpus.scale:g}" / MINI_ROOTS.get(corpus.reader, corpus.reader)

    def write_world(self) -> None:
        """Renders the miniature's corpora that the recipe names; finished ones are skipped."""
        for options in self.recipe.corpora.values():
            if options.root == "mini":
                from re_llm.mini.layouts import write_world

                name = MINI_ROOTS.get(options.reader, options.reader).split("/")[0]
                root = self.world / f"x{options.scale:g}"
                write_world(root, corpora=[name], scale=options.scale, workers=self.recipe.workers)

    def prepare(self) -> None:
        """Manifests of all corpora, with pseudo V/A/D where the recipe asks for it."""
        from re_llm.data.corpora import prepare
        from re_llm.data.corpora.product import manifest_product, manifest_standing

        for name, options in self.recipe.corpora.items():
            root, estimator = self.root(options), self._estimator(name, options)
            made: dict[str, Any] = {"protocol": options.protocol, "options": options.options}
            product = manifest_product(self.manifest(name), options.reader, root, pseudo_vad=estimator, **made)
            if manifest_standing(product, root).state is State.SAME:
                self.say(f"{name}: complete")
                continue
            if estimator in (None, "norms"):
                made["pseudo_vad"] = estimator
            else:
                from re_llm.data.pseudo_vad import DimensionEstimator

                made["pseudo_vad"] = DimensionEstimator.load(estimator, device=self.recipe.device)
            made |= {"workers": self.recipe.workers, "overwrite": Overwrite.OUTDATED}
            report = prepare(options.reader, root, product.out, **made)
            self.say(result_line(name, report, f"{report.rows} utterances, {len(report.problems)} problems"))

    def _estimator(self, corpus: str, options: CorpusOptions) -> str | None:
        """What estimates missing V/A/D: the name of an emotion encoder, `norms`, or None."""
        if options.pseudo_vad in (False, "norms"):
            return options.pseudo_vad or None
        if self.recipe.components.emotion_encoder is None:
            raise RellmError(f"corpus {corpus!r} asks for pseudo_vad, but components.emotion_encoder is null")
        return self.recipe.components.emotion_encoder

    # -- continuations ------------------------------------------------------------------------------------------

    def continuation(self, corpus: str, prompt: str, split: str = TRAIN) -> Path:
        ending = "jsonl" if split == TRAIN else f"{split}.jsonl"
        return self.out / "continuations" / f"{corpus}.{prompt}.{ending}"

    def continuations(self, corpora: Iterable[str], stage: StageOptions) -> tuple[Path, ...]:
        """The files that a stage reads: of its training set, and of the split that it holds out."""
        return tuple(self.continuation(*each) for each in _continuations(corpora, stage))

    def continue_all(self) -> None:
        """The LLM's continuations of every training set that a stage reads."""
        from re_llm.continuations import NamedLlm, continue_manifest
        from re_llm.continuations.plan import CHUNK

        decoding = self.recipe.decoding
        llm = NamedLlm.of(  # loaded once, if at all
            self.recipe.components.llm, device=self.recipe.device, tokens=decoding.continuation_tokenization
        )
        for corpus, prompt, split in sorted(self._wanted_continuations()):
            report = continue_manifest(
                self.manifest(corpus),
                self.continuation(corpus, prompt, split),
                llm=llm,
                prompt=prompt,
                splits=(split,),
                batch_size=decoding.batch_size,
                chunk=max(CHUNK, decoding.batch_size),
                max_new_tokens=decoding.continuation_tokens,
                overwrite=Overwrite.OUTDATED,
            )
            dropped = dict(report.dropped) or 0
            result = f"{report.rows} continuations, {report.rate:.0f}/s, dropped {dropped}"
            name = ", ".join((corpus, prompt) if split == TRAIN else (corpus, prompt, split))
            self.say(result_line(name, report, result))

    def _wanted_continuations(self) -> set[tuple[str, str, str]]:
        wanted = {each for stage in self.recipe.stages.values() for each in _continuations(stage.data, stage)}
        for system in self.recipe.systems.values():
            if system.stage in self.recipe.stages and system.per_corpus:
                wanted |= set(_continuations(self.evaluated(), self.recipe.stage_for(system)))
        return wanted

    def evaluated(self) -> list[str]:
        return [name for name, options in self.recipe.corpora.items() if options.evaluate]

    # -- training -----------------------------------------------------------------------------------------------

    def stage_order(self) -> list[str]:
        """Stages after the ones that they start from; a stage that only systems fine-tune is not run by itself."""
        order: list[str] = []

        def visit(name: str, path: tuple[str, ...]) -> None:
            if name in path:
                raise RellmError(f"the stages {' -> '.join((*path, name))} start from each other")
            if name in order or name not in self.recipe.stages:
                return
            visit(self.recipe.stages[name].start, (*path, name))
            if self.recipe.stages[name].data:
                order.append(name)

        for name in self.recipe.stages:
            visit(name, ())
        return order

    def _start(self, stage: StageOptions) -> str | None:
        if stage.start == "components":
            return None
        return str(self.out / "checkpoints" / stage.start) if stage.start in self.recipe.stages else stage.start

    def stage_job(self, name: str) -> TrainJob:
        stage = self.recipe.stages[name]
        data = self.continuations(stage.data, stage)
        model = self.recipe.model_of(stage)
        out, seed = self.out / "checkpoints" / name, self.recipe.seeds[0]
        return TrainJob(name, self.recipe, model, stage, self._start(stage), data, out, self.features, seed)

    def tuning_job(self, name: str, corpus: str, seed: int) -> TrainJob:
        system = self.recipe.systems[name]
        stage = self.recipe.stage_for(system)
        data = self.continuations([corpus], stage)
        out = self.checkpoint(name, corpus, seed)
        model = self.recipe.model_for(system)
        title = f"{name} on {corpus}, seed {seed}"
        return TrainJob(title, self.recipe, model, stage, self._start(stage), data, out, self.features, seed)

    def checkpoint(self, system_name: str, corpus: str, seed: int) -> Path:
        return self.out / "checkpoints" / system_name / corpus / str(seed)

    def tuning_jobs(self) -> list[TrainJob]:
        return [
            self.tuning_job(name, corpus, seed)
            for seed in self.recipe.seeds
            for corpus in self.evaluated()
            for name, system in self.recipe.systems.items()
            if system.per_corpus
        ]

    # -- answers ------------------------------------------------------------------------------------------------

    def respond_jobs(self) -> list[RespondJob]:
        jobs = []
        for name, system in self.recipe.systems.items():
            # Only training is random: a system that is not trained here answers the same whatever the seed.
            for seed in self.recipe.seeds if system.per_corpus else self.recipe.seeds[:1]:
                for corpus in self.evaluated():
                    checkpoint = None
                    if system.per_corpus:
                        checkpoint = str(self.checkpoint(name, corpus, seed))
                    elif system.stage in self.recipe.stages:
                        checkpoint = str(self.out / "checkpoints" / system.stage)
                    elif system.stage:
                        checkpoint = system.stage
                    out = self.out / "replies" / corpus / f"{name}.{seed}.jsonl"
                    splits = self.recipe.corpora[corpus].test_splits
                    jobs.append(
                        RespondJob(name, system, self.recipe, checkpoint, self.manifest(corpus), out, seed, splits)
                    )
        return jobs

    def scores(self, replies: Path) -> Path:
        return self.out / "scores" / replies.parent.name / replies.name


def _continuations(corpora: Iterable[str], stage: StageOptions) -> list[tuple[str, str, str]]:
    """(corpus, prompt, split) of everything that a stage reads."""
    held_out = stage.validation.split if stage.validation else None
    splits = [TRAIN, held_out] if held_out else [TRAIN]
    return [(corpus, prompt, split) for corpus in corpora for prompt in stage.continuations() for split in splits]


def reproduce(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    world: Path | None = None,
    say: Say = lambda line: None,
    until: str | None = None,
    convert: bool = False,
) -> ReproduceReport:
    """Runs a recipe from corpora to the report; everything that is complete is skipped.

    Before anything is made, everything that the recipe names is looked at (`pipeline.preflight`).

    Args:
        convert: convert parts in a format of the original systems into `out/converted` first.
        world: folder with the miniature's corpora, shared by several runs; default `out/world`.
        say: receives one line per finished piece of work.
        until: stop after this stage (`prepare`, `continue`, `train`, `respond`, `score`).

    Raises:
        RellmError: something of the recipe is missing or does not fit; what was finished is kept.
    """
    recipe, found = preflight(recipe, Path(out), convert=convert, say=say)
    found.check()
    run = Run(recipe, Path(out), say, world)
    result = ReproduceReport(notes=found.notes)
    with lock(run.out, folder=True):
        _forget(run)
        for name, work in _stages(run, result).items():
            start = time.monotonic()
            say(f"== {name}")
            work()
            result.seconds[name] = round(time.monotonic() - start, 1)
            if name == until:
                break
        if until in (None, "report"):
            write_provenance(run.out, seed=recipe.seeds[0], settings=_resolved(recipe))
        # One line per run: a resumed run's times do not hide the first one's.
        with (run.out / "seconds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.seconds) + "\n")
    return result


def _stages(run: Run, result: ReproduceReport) -> dict[str, Callable[[], None]]:
    return {
        "world": run.write_world,
        "prepare": run.prepare,
        "continue": run.continue_all,
        "train": lambda: _train_all(run),
        "respond": lambda: run_jobs(respond_job, run.respond_jobs(), run.recipe.workers, run.say),
        "score": lambda: _score_all(run),
        "report": lambda: _report(run, result),
    }


def _resolved(recipe: Recipe) -> dict[str, Any]:
    return dict(json.loads(recipe.model_dump_json()))


def _forget(run: Run) -> None:
    """Removes what tells of another recipe: from now on the folder may hold parts of both. It is written at the end."""
    file = run.out / RESOLVED
    try:
        before = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (ValueError, yaml.YAMLError):
        before = None
    if before != _resolved(run.recipe):
        for path in (file, run.out / "provenance.json"):
            path.unlink(missing_ok=True)


def _train_all(run: Run) -> None:
    for name in run.stage_order():
        run.say(train_job(run.stage_job(name)))
    # The first job of a corpus encodes it, the emotion encoder included; the others find the states.
    first: dict[tuple[Path, ...], TrainJob] = {}
    jobs = run.tuning_jobs()
    for job in sorted(jobs, key=lambda job: job.model.fusion == "none"):
        first.setdefault(job.data, job)
    run_jobs(train_job, list(first.values()), run.recipe.workers, run.say)
    run_jobs(train_job, [job for job in jobs if job not in first.values()], run.recipe.workers, run.say)


def _score_all(run: Run) -> None:
    from re_llm.evaluate import score_file

    for job in run.respond_jobs():
        report = score_file(job.out, run.scores(job.out), scorer=run.recipe.scorer, overwrite=Overwrite.OUTDATED)
        run.say(result_line(f"{job.system_name} on {job.out.parent.name}", report, f"{report.replies} replies scored"))


def _report(run: Run, result: ReproduceReport) -> None:
    if not run.recipe.systems:
        return
    from re_llm.report.write import write_report

    replies = [job.out for job in run.respond_jobs()]
    made = provenance(seed=run.recipe.seeds[0], inputs=[run.manifest(c) for c in run.evaluated()])
    report = write_report(
        [run.scores(r) for r in replies],
        replies,
        run.out / "report",
        baseline=run.recipe.baseline,
        training=[run.manifest(name) for name in run.recipe.corpora],
        title=run.recipe.title + (SMALL_SCORER if run.recipe.scorer == "small" else ""),
        provenance={**made, "recipe": run.recipe.name, "seconds": result.seconds},
        overwrite=Overwrite.OUTDATED,
    )
    run.say(result_line("report", report, str(report.page)))
    result.report = report.page
