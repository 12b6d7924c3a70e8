"""`re-llm prepare`: corpora to manifests; checks and exports of manifests."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from re_llm.cli.common import (
    FAILED,
    Command,
    DefaultGroup,
    Device,
    Engine,
    JsonFlag,
    OverwriteFlag,
    RayAddress,
    Seed,
    Workers,
    more_speed,
    overwriting,
    print_json,
    print_report,
    print_result,
    print_state,
)
from re_llm.cluster.engines import Where
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.data.check import CheckReport
    from re_llm.data.corpora import CorpusInfo, PrepareReport
    from re_llm.data.leakage import Leakage
    from re_llm.data.pseudo_vad import DimensionEstimator

SHOWN_EXAMPLES = 2  # of each kind of leakage
SHOWN = 20  # problems printed; all of them are in the problems file or in --json


app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    subcommand_metavar="[run] NAME [OPTIONS] | check ... | dialogues ... | export ...",
    short_help="Read a corpus and write its manifest.",
)


@app.callback()
def _prepare() -> None:
    """Read a corpus and write its manifest; check or export a manifest. Options: re-llm prepare run --help.

    Examples:

        re-llm prepare --list

        re-llm prepare ravdess --root RAVDESS --out manifest.jsonl
    """


@app.command(cls=Command)
def run(
    name: Annotated[str | None, typer.Argument(help="Corpus, or file with a custom reader.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the corpus.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The manifest to write.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Named selection and split; see --list NAME.")] = None,
    option: Annotated[
        list[str], typer.Option("--option", metavar="KEY=VALUE", help="Setting of the reader; may be repeated.")
    ] = [],
    pseudo_vad: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="What gives missing V/A/D: an emotion encoder, or `norms`."),
    ] = None,
    seed: Seed = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first problem.")] = False,
    no_hash: Annotated[bool, more_speed("--no-hash", help="Leave SHA-256 out: faster, but no leakage check.")] = False,
    workers: Workers = 2,
    device: Device = "auto",
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overwrite: OverwriteFlag = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the corpora, or describe NAME.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Read a corpus and write its manifest (`run` may be left out).

    Examples:

        re-llm prepare --list

        re-llm prepare run ravdess --root RAVDESS --out manifest.jsonl

        re-llm prepare bells.py --root BELLS --out bells.jsonl
    """
    where = Where(engine, ray_address)
    if show_list:
        _list(name, as_json)
        return
    if name is None:
        raise RellmError("no corpus is named", todo="List them with: re-llm prepare --list")
    if root is None or out is None:
        missing = "--root" if root is None else "--out"
        raise RellmError(f"{missing} is missing", todo=f"re-llm prepare {name} --root FOLDER --out manifest.jsonl")
    from re_llm.data import corpora

    with where.connect() as cluster:
        report = corpora.prepare(
            name, root, out, pseudo_vad=_estimator(pseudo_vad, device), cluster=cluster, protocol=protocol,
            options=_options(option), seed=seed, strict=strict, hash=not no_hash, workers=workers,
            overwrite=overwriting(overwrite),
        )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        _show_report(report, out)


@app.command(cls=Command)
def check(
    manifest: Annotated[Path, typer.Argument(help="manifest.jsonl, as `re-llm prepare` writes it.")],
    against: Annotated[list[Path], typer.Option(help="Training manifest to search for leakage; may be repeated.")] = [],
    page: Annotated[Path | None, typer.Option(help="HTML page to write the findings into.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="A recording that occurs twice is an error too.")] = False,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Check the rows alone, not their recordings.")] = False,
    workers: Workers = 2,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the rows of a manifest, and search for leakage.

    The exit code is 1 when something is wrong, or shared with a manifest of --against. Example:

        re-llm prepare check manifest.jsonl --against other.jsonl --page check.html
    """
    from re_llm.data.check import check as run_check

    if page and any(page.exists() and path.exists() and page.samefile(path) for path in (manifest, *against)):
        raise RellmError(f"--page {page} is a manifest that is checked", todo="Give another name")
    with Where(engine, ray_address).connect() as cluster:
        report = run_check(manifest, decode=not no_audio, workers=workers, cluster=cluster, against=against)
    other = report.against
    if page:
        from re_llm.data.manifest_page import write_page

        write_page(report, page, other)
    if as_json:
        print_json({"check": replace(report, against=None), "against": other})
    else:
        _show_check(report)
        _show_leakage(report.leakage, "this manifest")
        _show_leakage(other, "the others")
    if not (report.spotless if strict else report.ok) or (other is not None and other.any):
        raise typer.Exit(FAILED)


@app.command(cls=Command)
def dialogues(
    manifest: Annotated[Path, typer.Argument(help="manifest.jsonl of a corpus of dialogues, prepared whole.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The dialogues to write, a manifest as well.")],
    turns: Annotated[int, typer.Option(min=1, help="Turns of the user's, the answered one included.")] = 3,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Cut the dialogues of a corpus into turns of a user and an assistant.

    As BLSP-Emo does: the first of two speakers is the user, the last turn is answered, what was said before is its
    `history`. `respond`, `score`, `judge` and `report` take the file as any other. Example:

        re-llm prepare dialogues iemocap.jsonl --out dialogues.jsonl
    """
    from re_llm.data.dialogues import write_dialogues

    print_report(write_dialogues(manifest, out, turns=turns, overwrite=overwriting(overwrite)), as_json)


@app.command(cls=Command)
def export(
    manifest: Annotated[Path, typer.Argument(help="manifest.jsonl, as `re-llm prepare` writes it.")],
    to: Annotated[str, typer.Option(help="peers, emobox, lhotse, webdataset or hf.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File or folder to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Export a manifest to the format of another toolkit.

    Example:

        re-llm prepare export manifest.jsonl --to lhotse --out cuts.jsonl.gz
    """
    from re_llm.data.interchange import export as run_export

    rows = run_export(manifest, out, to)
    print_result({"rows": rows, "out": out, "format": to}, [f"{rows} utterances as {to}: {out}"], as_json)


def _estimator(model: str | None, device: str) -> DimensionEstimator | Literal["norms"] | None:
    if model is None or model == "norms":
        return "norms" if model else None
    from re_llm.data.pseudo_vad import DimensionEstimator

    return DimensionEstimator.load(model, device=device)


def _options(items: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in items]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise RellmError(f"--option {key!r} is not of the form KEY=VALUE", allowed="e.g. min_seconds=1")
    return {key.strip(): value for key, _, value in pairs}


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def _show_report(report: PrepareReport, out: Path) -> None:
    print_state(report)
    typer.echo(f"{report.rows} utterances, {report.seconds / 3600:.2f} h: {out}")
    typer.echo(f"  splits    {_counts(report.by_split)}")
    typer.echo(f"  emotions  {_counts(report.by_emotion)}")
    if report.published:
        given = ", ".join(f"{split} {size}" for split, size in report.published.items())
        odd = ", ".join(f"{split} {here} instead of {size}" for split, (here, size) in report.differing().items())
        typer.echo(f"  published {given}: {'here ' + odd if odd else 'the same here'}")
    for note in report.notes:
        typer.echo(f"  note      {note}")
    for reason, count in report.dropped.most_common():
        typer.echo(f"  left out  {count} x {reason}")
    if report.problems:
        typer.echo(f"  {len(report.problems)} problems, all of them in {report.problems_file}; the first:", err=True)
        for problem in report.problems[:SHOWN]:
            typer.echo(f"    {problem}", err=True)


def _list(name: str | None, as_json: bool) -> None:
    from re_llm.data import corpora

    infos = [corpora.get(name)[0]] if name else corpora.infos()
    if as_json:
        print_json(infos)
    elif name:
        _describe(infos[0])
    else:
        _table(infos)


def _table(infos: list[CorpusInfo]) -> None:
    for info in infos:
        about = [info.title, " ".join(info.languages) or "any language", _size(info)]
        typer.echo(f"{info.name:15} {', '.join(part for part in about if part)}")
        dimensions = ["valence, arousal, dominance"] * info.dimensions
        for line in (
            "; ".join([", ".join(info.emotions) or "no emotions of its own", *dimensions]),
            f"protocols {', '.join(info.protocols)}" if info.protocols else "",
            f"{info.licence}; {info.get}",
        ):
            if line:
                typer.echo(f"{'':15} {line}")


def _size(info: CorpusInfo) -> str:
    utterances = f"{info.utterances:,} utterances" if info.utterances else ""
    hours = f"{info.hours:g} h" if info.hours else ""
    return ", ".join(part for part in (utterances, hours) if part)


def _describe(info: CorpusInfo) -> None:
    typer.echo(f"{info.name}: {info.title}")
    rows = {
        "languages": " ".join(info.languages),
        "size": _size(info),
        "licence": info.licence,
        "get it": info.get,
        "--root": info.root,
        "emotions": ", ".join(info.emotions),
        "cite": info.citation,
    }
    for key, value in rows.items():
        if value:
            typer.echo(f"  {key:9} {value}")
    for title, choices in (("--protocol", info.protocols), ("--option", info.options)):
        for key, sentence in choices.items():
            typer.echo(f"  {title} {key}: {sentence}")
            if title == "--protocol" and key in info.published:
                typer.echo(f"    published: {', '.join(f'{s} {n:,}' for s, n in info.published[key].items())}")


def _show_leakage(found: Leakage | None, where: str) -> None:
    for kind, overlap in (found.overlaps if found else {}).items():
        if overlap.shared:
            rows = f"{overlap.test_rows} test rows, {overlap.train_rows} training rows"
            typer.echo(f"  leak      {overlap.shared} x {kind} shared with the training data of {where} ({rows})")
            for value, trained, tested in overlap.examples[:SHOWN_EXAMPLES]:
                typer.echo(f"              {trained} and {tested}: {value}")
    if found is None:
        return
    missing = found.not_compared()
    for sentence in missing:
        typer.echo(f"  unknown   {sentence} with {where}")
    if not found.any:
        known = "of what could be compared, nothing" if missing else "no recording, speaker or sentence"
        typer.echo(f"  {known} is shared with the training data of {where}")


def _show_check(report: CheckReport) -> None:
    summary = report.summary
    typer.echo(f"{report.manifest}: {summary.rows} utterances, {summary.seconds / 3600:.2f} h")
    for split, rows in summary.splits.most_common():
        emotions = Counter({name: n for (side, name), n in summary.emotions.items() if side == split})
        speakers = summary.number_of_speakers(split)
        typer.echo(f"  {split:9} {rows} utterances, {speakers} speakers: {_counts(emotions)}")
    if summary.shortest is not None:
        typer.echo(f"  length    {summary.shortest:.2f} to {summary.longest:.2f} s")
    for problem in report.problems[:SHOWN]:
        typer.echo(f"  problem   {problem}")
    if len(report.problems) > SHOWN:
        typer.echo(f"  ... and {len(report.problems) - SHOWN} more problems; --json lists all")
    for keys in report.duplicates[:SHOWN]:
        typer.echo(f"  same recording  {', '.join(keys)}")
    if len(report.duplicates) > SHOWN:
        typer.echo(f"  ... and {len(report.duplicates) - SHOWN} more recordings that are there twice; --json lists all")
    if not report.problems:
        typer.echo("  nothing is wrong with its rows" + (" and recordings" if report.decoded else ""))
