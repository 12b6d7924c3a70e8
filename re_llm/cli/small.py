"""`re-llm small`: makes the small model from real parts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import JsonFlag, Seed, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Make the small model from real parts: text, speech. Needs the extra `small-build`.",
    short_help="Make the small model from real parts.",
)


@app.callback()
def _group() -> None:
    """Keeps `build` a command of its own while it is the only one."""


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the build; a second run goes on.")],
    epitome: Annotated[Path | None, typer.Option(help="Folder of EPITOME's tables, a source of text.")] = None,
    stage: Annotated[list[str], typer.Option("--stage", help="Only this one; may be repeated. Default: all.")] = [],
    without: Annotated[
        list[str], typer.Option("--without", help="Synthesiser to leave out; may be repeated: kokoro, flite, ...")
    ] = [],
    seed: Seed = 0,
    scale: Annotated[float, typer.Option(min=0.001, max=4.0, help="Size of the build; below 1 to try it.")] = 1.0,
    as_json: JsonFlag = False,
) -> None:
    """Write and speak the text that the small model learns words from: stages text, speech, voices, rooms.

    Takes some hours on one core; stopped at any moment, the same command goes on. Needs the parts (`re-llm parts get
    all`). Example:

        re-llm small build --out runs/small
    """
    from re_llm.small.build import STAGES, Job, choose_engines
    from re_llm.small.build import build as run

    job = Job(out, epitome, choose_engines(without), scale, seed)
    found = run(job, stages=stage or tuple(STAGES), say=partial(typer.echo, err=True))
    if as_json:
        print_json(found)
        return
    for name, figures in found.items():
        shown = {figure: value for figure, value in figures.items() if isinstance(value, int | float)}
        typer.echo(f"{name}: " + ", ".join(f"{figure} {value}" for figure, value in shown.items()))
