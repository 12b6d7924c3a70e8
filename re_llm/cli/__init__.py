"""The command line. Each command imports its stage when it runs, so that `re-llm --help` needs no torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from re_llm.cli import corpora, mini, scores, small, stages, use
from re_llm.cli.common import CommandGroup, prepare_environment
from re_llm.core.version import __version__


class _Commands(CommandGroup):
    """Lists `score` where it stands on the way through; typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = [name for name in super().list_commands(ctx) if name != "score"]
        names.insert(names.index("report"), "score")
        return names


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The way through: prepare, continue, train, respond, score, report; `reproduce RECIPE` runs them all.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"re-llm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="RE_LLM_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """RE-LLM: a speech LLM that hears how something is said, and answers accordingly."""


_USE, _STAGES, _MORE = "Use a model", "From corpora to a report", "More"
for _function, _panel in (
    (use.demo, _USE),
    (use.doctor, _USE),
    (use.respond, _USE),
    (use.recognize, _USE),
    (use.chat, _USE),
    (use.serve, _USE),
    (corpora.prepare, _STAGES),
    (stages.continue_, _STAGES),
    (stages.train, _STAGES),
    (stages.report, _STAGES),
    (stages.reproduce, _STAGES),
):
    app.command(_function.__name__.rstrip("_"), rich_help_panel=_panel)(_function)
app.command("continue-merge", rich_help_panel=_MORE)(stages.continue_merge)
app.command("convert", rich_help_panel=_MORE)(stages.convert)
app.add_typer(scores.app, name="score", rich_help_panel=_STAGES)
app.add_typer(mini.app, name="mini", rich_help_panel=_MORE)
app.add_typer(small.app, name="small", rich_help_panel=_MORE)


def main() -> None:
    """Entry point of the command `re-llm`."""
    prepare_environment()
    app(prog_name="re-llm")
