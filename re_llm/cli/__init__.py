"""The command line. Each command imports its stage when it runs, so that `re-llm --help` needs no torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from re_llm.cli import corpora, dose, judging, mini, parts, reports, scores, small, stages, talk, use
from re_llm.cli.common import Command, CommandGroup, prepare_environment
from re_llm.core.version import __version__

_ORDER = (
    "demo", "doctor", "respond", "recognize", "chat", "serve", "parts",
    "prepare", "continue", "train", "score", "judge", "report", "reproduce",
)  # fmt: skip


class _Commands(CommandGroup):
    """Lists the commands in the order of use; typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The way through: prepare, continue, train, respond, score, report; `reproduce RECIPE` runs them all.",
)


def _version(wanted: bool) -> None:
    if wanted:
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
for _panel, _functions in (
    (_USE, (use.demo, use.doctor, use.respond, use.recognize, talk.chat, talk.serve)),
    (_STAGES, (stages.continue_, stages.train, reports.report, stages.reproduce)),
    (_MORE, (reports.calibrate, reports.conflict, dose.dose, stages.continue_merge, stages.convert)),
):
    for _function in _functions:
        _name = _function.__name__.rstrip("_").replace("_", "-")
        app.command(_name, cls=Command, rich_help_panel=_panel)(_function)
app.add_typer(parts.app, name="parts", rich_help_panel=_USE)
app.add_typer(corpora.app, name="prepare", rich_help_panel=_STAGES)
app.add_typer(scores.app, name="score", rich_help_panel=_STAGES)
app.add_typer(judging.app, name="judge", rich_help_panel=_STAGES)
app.add_typer(mini.app, name="mini", rich_help_panel=_MORE)
app.add_typer(small.app, name="small", rich_help_panel=_MORE)


def main() -> None:
    """Entry point of the command `re-llm`."""
    prepare_environment()
    app(prog_name="re-llm")
