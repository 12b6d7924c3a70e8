"""The judge of a run: scores of quality and empathy, and the comparisons that the recipe's report shows."""

from __future__ import annotations

from pathlib import Path

from re_llm.core.product import Overwrite
from re_llm.pipeline.jobs import result_line
from re_llm.pipeline.layout import Run


def judge_all(run: Run) -> None:
    """Asks the judge about everything that the recipe names; answers that it gave before are not asked again."""
    judge = run.recipe.judge
    if judge is None:
        return
    from re_llm.evaluate.judge.judging import judge_file
    from re_llm.llm.server import ChatServer

    server = ChatServer(judge.server.options())
    answers = run.out / "judged" / "answers.jsonl"
    asked: list[tuple[str, Path, Path, Path | None]] = [
        (f"{job.system_name} on {job.corpus}", job.out, run.judged(job.out), None)
        for job in run.respond_jobs()
        if job.corpus in judge.corpora
    ]
    for (system, against, corpus), out in comparisons(run).items():
        ours, theirs = (run.replies(corpus, name, run.recipe.seeds[0]) for name in (system, against))
        asked.append((f"{system} against {against} on {corpus}", ours, out, theirs))
    for name, replies, out, opponent in asked:
        out.parent.mkdir(parents=True, exist_ok=True)
        report = judge_file(
            replies, out, server, criteria=["PAIRWISE"] if opponent else None, against=opponent, answers=answers,
            progress=False, overwrite=Overwrite.OUTDATED,
        )  # fmt: skip
        run.say(result_line(f"judge: {name}", report, f"{report.asked} questions asked, {report.cached} before"))


def comparisons(run: Run) -> dict[tuple[str, str, str], Path]:
    """(system, against, corpus) of every comparison that the recipe shows, and the file of its judgements."""
    if run.recipe.judge is None:
        return {}
    return {
        (each.system, against, each.corpus): run.out / "judged" / each.corpus / f"{each.system}.against.{against}.jsonl"
        for each in run.recipe.shown.wins
        for against in each.against
    }


def judgements(run: Run) -> list[Path]:
    """Files of scores of quality and empathy."""
    judge = run.recipe.judge
    return [run.judged(job.out) for job in run.respond_jobs() if judge and job.corpus in judge.corpora]
