"""`re-llm report`: pages and numbers of scores, and two reports beside each other."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import JsonFlag, OverwriteFlag, overwriting, print_json
from re_llm.core.errors import RellmError


class Format(StrEnum):
    PAGE = "page"
    JSON = "json"


def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")],
    scores: Annotated[
        list[Path] | None, typer.Argument(help="scores.jsonl of one or more systems, and judgements.")
    ] = None,
    replies: Annotated[
        list[Path],
        typer.Option("--replies", help="The replies that were scored: audits and examples; may be repeated."),
    ] = [],
    baseline: Annotated[str | None, typer.Option(help="System that the others are tested against.")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare systems on their common items, where they have different ones.")
    ] = False,
    training: Annotated[
        list[Path],
        typer.Option("--training", help="Manifests or continuations that a system was trained on: leakage check."),
    ] = [],
    gold: Annotated[list[Path], typer.Option("--gold", help="csv or jsonl: key and er, ip, ex by people.")] = [],
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Instead of scores: two reports, number by number, B minus A."),
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="Pages with plots and tables, or results.json alone.")
    ] = Format.PAGE,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Report",
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write tables, significance tests, slices, audits and a case study.

    Examples:

        re-llm report scores.jsonl --replies replies.jsonl --out report --baseline blsp-emo-ft

        re-llm report --compare runs/a/report runs/b/report --out difference
    """
    from re_llm.core.files import existing
    from re_llm.core.provenance import provenance
    from re_llm.report.write import write_report

    if (compare is None) == (not scores):
        raise RellmError("scores or --compare, one of the two, is needed", todo="Give scores.jsonl, or --compare A B")
    if compare:
        return _compare(*compare, out, as_json)
    files = scores or []
    made = provenance(inputs=[existing(path) for path in (*files, *replies, *gold)])
    made["command"] = shlex.join(["re-llm", *sys.argv[1:]])
    report = write_report(
        files, replies, out, baseline=baseline, common=common, training=training, gold=gold,
        pages=format_ is Format.PAGE, title=title, provenance=made, overwrite=overwriting(overwrite),
    )  # fmt: skip
    for doubt in report.doubts:
        typer.echo(f"doubtful: {doubt}", err=True)
    if as_json:
        print_json({"report": report.page, "numbers": report.numbers, "skipped": report.skipped})
    else:
        typer.echo(f"report: {report.page or report.numbers}")


def _compare(first: Path, second: Path, out: Path, as_json: bool) -> None:
    from re_llm.report.compare import write_comparison

    page = write_comparison(first, second, out)
    print_json({"report": page}) if as_json else typer.echo(f"report: {page}")


def conflict(
    replies: Annotated[list[Path], typer.Argument(help="replies.jsonl of one or more systems.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")],
    words: Annotated[
        Path | None,
        typer.Option(help="Replies of a system that reads the words alone, asked for their emotion (--recognize)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure whether a system follows the voice or the words.

    It compares the same words in several emotions, and words against the voice.
    Works on every corpus whose sentences are spoken in several emotions: RAVDESS, ESD, CREMA-D, EmoDB, the miniature.

    Example:

        re-llm conflict spoken.jsonl --words text.jsonl --out conflict
    """
    from re_llm.report.conflict_sections import write_conflict

    found = write_conflict(replies, out, words)
    if as_json:
        print_json(found)
        return
    for each in found:
        for outcome in each.explained:
            parts = ", ".join(f"{name} {value:.2f}" for name, value in outcome.explained.items())
            typer.echo(f"{each.system} on {each.corpus}, {outcome.outcome}: {parts} ({each.items} utterances)")
    typer.echo(f"report: {out / 'report.html'}")


def calibrate(
    replies: Annotated[list[Path], typer.Argument(help="replies.jsonl of systems with a categorical head.")],
    validation: Annotated[
        list[Path], typer.Option("--validation", help="Their replies to a validation split; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")],
    coverage: Annotated[float, typer.Option(help="Promised coverage of the prediction sets.")] = 0.9,
    as_json: JsonFlag = False,
) -> None:
    """Measure whether a head knows how sure it is.

    The page holds calibration error, temperature, and prediction sets with their coverage.
    Temperature and sets are fitted on the validation replies alone.

    Example:

        re-llm calibrate test.jsonl --validation validation.jsonl --out calibration
    """
    from re_llm.report.calibration_sections import write_calibration

    found = write_calibration(replies, validation, out, coverage)
    if as_json:
        print_json(found)
        return
    for each in found:
        assert each.tempered and each.sets
        typer.echo(
            f"{each.system} on {each.corpus}: ECE {each.plain.ece:.3f}, with temperature {each.temperature:.2f} "
            f"{each.tempered.ece:.3f}; sets of {each.sets.size:.2f} emotions hold the reference in "
            f"{100 * each.sets.coverage:.1f} % ({100 * coverage:.0f} % promised)"
        )
    typer.echo(f"report: {out / 'report.html'}")
