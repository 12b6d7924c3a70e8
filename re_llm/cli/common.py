"""What the commands share: options, help, exit codes, error messages, JSON.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from typer.core import TyperCommand, TyperGroup

from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.core.product import Overwrite

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

# The disk is full, the user's quota is, the file is too large for it, or it is read-only.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
DISK_TODO = "Free space or choose another --out, then run the same command again: what was\n  finished is kept"

# What the parser raises (typer brings its own click in new versions, so it is named through typer).
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for machines, nothing else, to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result alone: no progress, no hints.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="RE_LLM_MODEL",
        help="Checkpoint: folder, hub id, small:re-llm, small:re-llm-open, mini:re-llm. auto: the small one if its "
        "parts are here.",
    ),
]
# Options that few runs need stand in panels of their own, behind the main options.
more_loading = partial(typer.Option, rich_help_panel="More: loading the model")
more_machines = partial(typer.Option, rich_help_panel="More: several machines")
more_records = partial(typer.Option, rich_help_panel="More: records")
more_speed = partial(typer.Option, rich_help_panel="More: speed")
more_existing = partial(typer.Option, rich_help_panel="More: an output that exists")

Commercial = Annotated[
    bool, more_loading("--commercial", help="Of what ships, the model that may be used commercially; refuses another.")
]
Device = Annotated[str, more_loading(help="auto, cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, more_loading(help="auto, float32, bfloat16 or float16.")]
Quantize = Annotated[str | None, more_loading(help="8bit or 4bit for the LLM alone; needs the extra quantize.")]
BatchSize = Annotated[int, more_speed(min=1, help="Utterances decoded at once.")]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest reply, in tokens of the LLM.")]
Workers = Annotated[int, more_speed(min=1, help="Threads that read recordings.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
Engine = Annotated[str, more_machines(help="local, gpus: all of this machine, or ray: the machines of a Ray cluster.")]
RayAddress = Annotated[
    str | None, more_machines("--ray-address", help="auto (default), or HOST:PORT of the head of the Ray cluster.")
]
OverwriteFlag = Annotated[
    bool, more_existing("--overwrite", help="Replace one that was made from other inputs or with other settings.")
]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one option of the recipe; may be repeated.")
]

DEFAULT_MODEL = "auto"


def chosen_model(name: str, quiet: bool = False, commercial: bool = False) -> str:
    """The model that a command uses; of `auto`, the small one or the miniature, with a line about what is missing.

    Raises:
        RellmError: it is to be used commercially and may not be.
    """
    from re_llm.core.assets import default_model, hint_at_small, refuse_non_commercial

    hint = hint_at_small() if name == DEFAULT_MODEL else None
    if hint and not quiet:
        typer.echo(hint, err=True)
    chosen = default_model(commercial) if name == DEFAULT_MODEL else name
    if commercial:
        refuse_non_commercial(chosen)
    return chosen


class Formatter(Protocol):
    """What is used of click's help formatter, which typer carries under a private name."""

    width: int

    def section(self, name: str) -> AbstractContextManager[None]: ...

    def write_dl(self, rows: list[tuple[str, str]]) -> None: ...


class Command(TyperCommand):
    """A command whose help lists the main options first, and the others by panel."""

    def format_options(self, ctx: Any, formatter: Formatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            default = "Arguments" if parameter.param_type_name == "argument" else "Options"
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
        _write_panels(formatter, panels)


def _write_panels(formatter: Formatter, panels: dict[str, list[tuple[str, str]]]) -> None:
    for title, rows in panels.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


class DefaultGroup(TyperGroup):
    """A group whose command `run` may be left out: `re-llm score replies.jsonl` is `re-llm score run replies.jsonl`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)


class CommandGroup(TyperGroup):
    """The top group: help by panels; errors of commands become a message on stderr and an exit code."""

    def format_commands(self, ctx: Any, formatter: Formatter) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                title = panel if isinstance(panel, str) else "Commands"
                panels.setdefault(title, []).append((name, command.get_short_help_str(formatter.width)))
        _write_panels(formatter, panels)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, UsageError):
            raise
        except KeyboardInterrupt:
            typer.echo("\nInterrupted. Finished rows are kept: run the same command again to go on.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # `| head` closed the pipe: typer ends quietly
                raise
            raise typer.Exit(_report(error, ctx.params.get("debug"))) from None
        except Exception as error:
            raise typer.Exit(_report(error, ctx.params.get("debug"))) from None


def _report(error: Exception, debug: bool | None) -> int:
    """Writes the error to stderr; returns the exit code."""
    if debug:
        traceback.print_exc()
    code = FAILED
    if isinstance(error, RellmError):
        shown, code = error, error.code
    elif disk := _disk_error(error):
        shown, code = RellmError(disk, todo=DISK_TODO), WRONG_INPUT
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        shown = RellmError("out of memory", todo="Try a smaller --batch-size, or --dtype bfloat16")
    else:
        todo = "This was not expected. `re-llm --debug COMMAND ...` shows where it happened"
        shown = RellmError(f"{type(error).__name__}: {error}", todo=None if debug else todo)
    typer.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    allowed = f"Allowed: {shown.allowed}" if shown.allowed else None
    typer.echo("\n  ".join(filter(None, (shown.what, allowed, shown.todo))), err=True)
    return code


def _disk_error(error: Exception) -> str | None:
    """The message for a full or read-only disk, however a library reports it; None for any other error."""
    if isinstance(error, OSError):
        return f"cannot write {error.filename or 'the output'}: {error.strerror}" if error.errno in DISK else None
    # Weights are written by compiled code: the number stands in the text of the error, or only the place does.
    text = str(error)
    number = re.search(r"\(os error (\d+)\)", text)
    if number and int(number[1]) in DISK:
        return f"cannot write the weights: {os.strerror(int(number[1]))}"
    return "cannot write a training checkpoint: the disk is full" if "PytorchStreamWriter failed" in text else None


SPINS = "10000"  # of a waiting thread of libgomp; `benchmarks/waiting.py`


def prepare_environment() -> None:
    """Settings that libraries read when they are imported; what the user has set stays."""
    # Waiting threads of OpenMP spin for the time between two small operations (a fraction of a millisecond) and sleep
    # then. Without a limit a reply on a busy machine takes ten times as long, without any 1.4 times on an idle one.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def print_json(value: object) -> None:
    """One JSON document on stdout; pydantic records and paths included."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_plain))


def print_result(value: object, lines: Iterable[str], as_json: bool) -> None:
    """Prints a result: `value` for machines, `lines` for people."""
    if as_json:
        print_json(value)
    else:
        for line in lines:
            typer.echo(line)


def _plain(value: object) -> object:
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_none=True)
    if hasattr(value, "__dataclass_fields__"):
        # Counters keyed by pairs (split, emotion) become keys that JSON can hold.
        return {name: _keyed(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def _keyed(value: object) -> object:
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        return {" ".join(map(str, key)): each for key, each in value.items()}
    return value


def overwriting(flag: bool) -> Overwrite:
    """What `--overwrite` means to a stage."""
    from re_llm.core.product import Overwrite

    return Overwrite.YES if flag else Overwrite.NO


def print_state(report: object) -> None:
    """Prints whether a stage had nothing to do, or why it has made its output again."""
    if getattr(report, "skipped", False):
        typer.echo("Complete already: made from the same inputs with the same settings. Nothing was done.", err=True)
    elif remade := getattr(report, "remade", ""):
        typer.echo(f"Made again: {remade}", err=True)


def print_report(report: object, as_json: bool) -> None:
    """Prints the report of a stage: all of its fields for machines, its summary or its fields for people."""
    print_state(report)
    if as_json:
        print_json(report)
    elif hasattr(report, "summary"):
        typer.echo(report.summary())
    else:
        fields = _plain(report)
        assert isinstance(fields, dict), fields
        for name, value in fields.items():
            if value not in (None, [], {}):
                typer.echo(f"  {name.replace('_', ' '):12} {_short(value)}")


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items())
    return str(value)
