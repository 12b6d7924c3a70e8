"""`re-llm reproduce RECIPE`: every stage, one after another, skipping what is complete; one report at the end.

What was made from something else (another recipe, a changed corpus, another checkpoint before it) is made again, and
so is everything that depends on it. What nobody knows the origin of, or what was changed by hand, is left alone and
reported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from re_llm.core.files import lock
from re_llm.core.product import Overwrite
from re_llm.core.provenance import RESOLVED, provenance, write_provenance
from re_llm.pipeline.jobs import TrainJob, classifier_job, result_line, run_jobs, train_job
from re_llm.pipeline.judging import comparisons, judge_all, judgements
from re_llm.pipeline.layout import Run, Say
from re_llm.pipeline.preflight import preflight
from re_llm.pipeline.responding import respond_job
from re_llm.recipe.config import Recipe
from re_llm.recipe.systems import DIALOGUES

SMALL_SCORER = " (ER, Ex and IP by the small scorer, not the paper's)"


@dataclass
class ReproduceReport:
    """What a run did: the report's path, and the seconds of every stage (0 when it was complete already)."""

    report: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def reproduce(
    recipe: Recipe,
    out: str | os.PathLike[str],
    *,
    world: Path | None = None,
    world_seed: int = 0,
    say: Say = lambda line: None,
    until: str | None = None,
    convert: bool = False,
) -> ReproduceReport:
    """Runs a recipe from corpora to the report; everything that is complete is skipped.

    Before anything is made, everything that the recipe names is looked at (`pipeline.preflight`).

    Args:
        convert: convert parts in a format of the original systems into `out/converted` first.
        world: folder with the miniature's corpora, shared by several runs; default `out/world`.
        world_seed: of the miniature's sentences and voices.
        say: receives one line per finished piece of work.
        until: stop after this stage (`prepare`, `continue`, `train`, `respond`, `score`).

    Raises:
        RellmError: something of the recipe is missing or does not fit; what was finished is kept.
    """
    recipe, found = preflight(recipe, Path(out), convert=convert, say=say)
    found.check()
    run = Run(recipe, Path(out), say, world, world_seed)
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
        "judge": lambda: judge_all(run),
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
    for each in run.classifier_jobs():
        run.say(classifier_job(each))
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
        report = score_file(
            job.out, run.scores(job.out), metrics=job.metrics(), scorer=run.recipe.scorer, overwrite=Overwrite.OUTDATED
        )
        run.say(result_line(f"{job.system_name} on {job.out.parent.name}", report, f"{report.replies} replies scored"))


def _gold(run: Run) -> list[Path]:
    """The file of gold levels, where replies to the miniature's corpora have any."""
    from re_llm.mini.levels import has_gold, write_gold

    spoken = [job.out for job in run.respond_jobs() if run.of_miniature(job.corpus)]
    if not has_gold(spoken):
        return []
    report = write_gold(spoken, run.gold, overwrite=Overwrite.OUTDATED)
    run.say(result_line("gold levels", report, f"{report.rows} replies, {report.others} not of the miniature's world"))
    return [run.gold]


def _report(run: Run, result: ReproduceReport) -> None:
    if not run.recipe.systems:
        return
    from re_llm.report.write import write_report

    replies = [job.out for job in run.respond_jobs()]
    made = provenance(seed=run.recipe.seeds[0], inputs=[run.manifest(c) for c in run.evaluated()])
    report = write_report(
        [*(run.scores(r) for r in replies), *judgements(run)],
        replies,
        run.out / "report",
        baseline=run.recipe.baseline,
        training=[run.manifest(name) for name, each in run.recipe.corpora.items() if each.reader != DIALOGUES],
        shown=run.recipe.shown if run.recipe.shown.model_fields_set else None,
        judged=list(comparisons(run).values()),
        gold=_gold(run),
        title=run.recipe.title + (SMALL_SCORER if run.recipe.scorer == "small" else ""),
        provenance={**made, "recipe": run.recipe.name, "seconds": result.seconds},
        overwrite=Overwrite.OUTDATED,
    )
    run.say(result_line("report", report, str(report.page)))
    result.report = report.page
