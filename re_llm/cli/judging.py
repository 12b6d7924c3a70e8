"""`re-llm judge`: an LLM behind a server judges replies; judges and people are compared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import Command, DefaultGroup, JsonFlag, OverwriteFlag, overwriting, print_report
from re_llm.core.errors import RellmError

_server = partial(typer.Option, rich_help_panel="More: the server")
_cost = partial(typer.Option, rich_help_panel="More: cost")

app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    subcommand_metavar="[run] REPLIES [OPTIONS] | agree FIRST SECOND",
    short_help="Let an LLM judge replies of any system: quality, empathy, pairwise.",
)


@app.callback()
def _judge() -> None:
    """Let an LLM judge replies, with the prompts of BLSP-Emo; compare judges with each other and with people.

    Options: re-llm judge run --help.

    Examples:

        re-llm judge replies.jsonl --out judged.jsonl --server http://127.0.0.1:8000/v1 --model Qwen2.5-72B-Instruct

        re-llm judge agree judged.jsonl people.csv
    """


@app.command(cls=Command)
def run(
    replies: Annotated[Path, typer.Argument(help="replies.jsonl; key, system, text, emotion and response are enough.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Judgements to write; `re-llm report` reads them.")],
    server: Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible server: http://HOST:PORT/v1.")],
    model: Annotated[str, typer.Option(help="Name of the judge at the server.")],
    criterion: Annotated[
        list[str],
        typer.Option("--criterion", help="QUALITY, EMPATHY or PAIRWISE; may be repeated. Default: all that apply."),
    ] = [],
    against: Annotated[
        Path | None, typer.Option(help="Replies of another system to the same utterances, for PAIRWISE.")
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="The judge's answers, kept and used again (default: NAME.answers.jsonl).")
    ] = None,
    concurrency: Annotated[int, _server(min=1, help="Requests at once.")] = 8,
    rate: Annotated[float | None, _server(help="Requests a minute, at most.")] = None,
    timeout: Annotated[float, _server(help="Seconds for one request.")] = 120.0,
    tries: Annotated[int, _server(min=1, help="Tries of a question before the run stops.")] = 8,
    key_env: Annotated[
        str | None, _server(metavar="NAME", help="Environment variable with the key: OPENAI_API_KEY, ...")
    ] = None,
    price_in: Annotated[float | None, _cost(help="Price of a million tokens of questions.")] = None,
    price_out: Annotated[float | None, _cost(help="Price of a million tokens of answers.")] = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Judge replies (the word `run` may be left out).

    Quality and empathy are scores from 0 to 10. PAIRWISE asks in both orders: a win needs both, a loss as well, all
    else is a tie. Refusals and answers without a readable score are counted, never guessed.

    Examples:

        re-llm judge run replies.jsonl --out judged.jsonl --server http://127.0.0.1:8000/v1 --model JUDGE

        re-llm judge re-llm.jsonl --against cascade.jsonl --out judged.jsonl --server https://HOST/v1 --model JUDGE
    """
    from re_llm.evaluate.judge.judging import judge_file
    from re_llm.llm.server import ChatServer
    from re_llm.llm.server_options import ServerOptions, key_from

    if (price_in is None) != (price_out is None):
        raise RellmError("one price is given", todo="Give both: --price-in and --price-out")
    options = ServerOptions(server, model, concurrency, rate, timeout, tries, key=key_from(key_env))
    prices = None if price_in is None or price_out is None else (price_in, price_out)
    report = judge_file(
        replies, out, ChatServer(options), criteria=criterion or None, against=against, answers=answers, prices=prices,
        progress=not as_json, overwrite=overwriting(overwrite),
    )  # fmt: skip
    print_report(report, as_json)


@app.command(cls=Command)
def agree(
    first: Annotated[Path, typer.Argument(help="Judgements of `re-llm judge`, or a csv file of people.")],
    second: Annotated[Path, typer.Argument(help="The same of another judge.")],
    as_json: JsonFlag = False,
) -> None:
    """Say how far two judges, or a judge and people, agree: kappa, rank correlation, mean difference.

    A csv file has the columns key and value (0 to 10, or win, tie, loss), and criterion, system and seed where a key
    alone does not say which judgement it is.

    Example:

        re-llm judge agree judged.jsonl people.csv
    """
    from re_llm.evaluate.judge.agreement import judge_agreement

    print_report(judge_agreement(first, second), as_json)
