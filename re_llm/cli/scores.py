"""`re-llm score`: replies become scores; custom scorers are trained, or converted from the authors' files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import Command, DefaultGroup, Device, JsonFlag, OverwriteFlag, overwriting, print_report
from re_llm.core.errors import RellmError

app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    subcommand_metavar="[run] REPLIES [OPTIONS] | take ... | train ... | convert ...",
    short_help="Score replies of any system: empathy, recognition, statistics.",
)


@app.callback()
def _score() -> None:
    """Score replies of any system; train the scorers.

    Empathy is EPITOME's ER, IP and EX; recognition is unweighted accuracy and more. Options: re-llm score run --help.

    Examples:

        re-llm score replies.jsonl --out scores.jsonl

        re-llm score replies.jsonl --out scores.jsonl --truncation both
    """


@app.command(cls=Command)
def run(
    replies: Annotated[Path, typer.Argument(help="replies.jsonl; key, system, text and response are enough.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The scores.jsonl to write.")],
    metric: Annotated[
        list[str],
        typer.Option(
            "--metric", help="ER, EX, IP, SER, HEAD, VAD, WER, CHOICE or ROUGE_L; may be repeated. Default: all."
        ),
    ] = [],
    scorer: Annotated[
        str, typer.Option(help="EPITOME scorer: `small` (shipped), or a folder that `train` or `convert` wrote.")
    ] = "small",
    truncation: Annotated[
        str | None,
        typer.Option(
            help="`64`: only the tokens of a reply that the original scorer sees; `none`; or `both` side by side. "
            "Default: none for small, 64 for a bi-encoder."
        ),
    ] = None,
    original: Annotated[
        bool, typer.Option("--original", help="A bi-encoder attends to padding, as the authors' code does.")
    ] = False,
    device: Device = "auto",
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Score replies (the word `run` may be left out).

    With `--truncation none` a bi-encoder scores a long reply in overlapping windows; its level is the highest of them.

    Examples:

        re-llm score run replies.jsonl --out scores.jsonl

        re-llm score replies.jsonl --out scores.jsonl --scorer FOLDER --truncation both
    """
    from re_llm.evaluate import load_scorer, score_file

    judge = load_scorer(scorer, original=original, device=device)
    report = score_file(
        replies, out, metrics=metric or None, scorer=judge, truncation=truncation, overwrite=overwriting(overwrite)
    )
    print_report(report, as_json)


@app.command(cls=Command)
def take(
    replies: Annotated[Path, typer.Argument(help="jsonl with `response`, and `key`; or with `text` or `prompt`.")],
    manifest: Annotated[Path, typer.Option(help="The manifest that was answered; references and words are its.")],
    system: Annotated[str, typer.Option(help="Name of the system in the records.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The replies.jsonl to write.")],
    split: Annotated[list[str], typer.Option(help="Only this split of the manifest; may be repeated.")] = [],
    as_json: JsonFlag = False,
) -> None:
    """Take the replies that another system gave elsewhere, such as the results of VoiceBench's main.py.

    Lines without a key are found by the words that they answer. An utterance without a reply is an error.

    Example:

        re-llm score take results.jsonl --manifest manifest.jsonl --system qwen2 --out qwen2.jsonl
    """
    from re_llm.inference.given_replies import take_replies
    from re_llm.inference.reply import ReplyOptions
    from re_llm.inference.sources import manifest_rows

    rows, _ = manifest_rows(manifest, split or None)
    report = take_replies(replies, rows, manifest.parent, out, ReplyOptions(system=system, prompt=None))
    print_report(report, as_json)


class Kind(StrEnum):
    BIENCODER = "biencoder"
    SMALL = "small"


@app.command(cls=Command)
def train(
    csv: Annotated[Path, typer.Argument(help="Folder with the EPITOME csv files, or one of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the scorer, for `--scorer`.")],
    kind: Annotated[
        Kind, typer.Option(help="Two RoBERTa encoders as published, or the small scorer (all three files).")
    ] = Kind.BIENCODER,
    mechanism: Annotated[
        list[str], typer.Option("--mechanism", help="ER, IP or EX; may be repeated. Default: every file there is.")
    ] = [],
    encoder: Annotated[
        str | None, typer.Option(help="RoBERTa to start from: folder or hub id (default: roberta-base).")
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="A small encoder with random weights instead.")
    ] = False,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id. Default: the encoder's, or trained on the data.")
    ] = None,
    changes: Annotated[
        list[str],
        typer.Option("--set", metavar="KEY=VALUE", help="Change one option of the training; may be repeated."),
    ] = [],
    seed: Annotated[int | None, typer.Option(help="Default: 12 as published; small: 0.")] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train an empathy scorer on EPITOME's csv files.

    The published recipe: one model per mechanism, with rationale loss. Pairs are split by seeker post; metrics.json
    holds accuracy, macro-F1 and the F1 of each level on held-out pairs, beside the majority and the rules that every
    scorer has to beat. The small scorer is cross-validated instead, which takes minutes.

    Options for --set, with their defaults: lr=2e-5 (from scratch 5e-4), batch_size=32, epochs=4, max_grad_norm=1,
    window=64 (tokens of each text), empathy_weight=1, rationale_weight=0.5, freeze_seeker=true, patience=0 (early
    stopping on 5 % development pairs), original=false (attend to padding, as the authors' code does),
    test_fraction=0.2, dev_fraction=0.05; from scratch also width=128, layers=2, heads=4, vocabulary=4000.

    Examples:

        re-llm score train epitome --encoder roberta-base --out scorer

        re-llm score train epitome/explorations-reddit.csv --from-scratch --set epochs=10 --out scorer

        re-llm score train epitome --kind small --out scorer
    """
    given = {"mechanism": mechanism, "encoder": encoder, "from_scratch": from_scratch, "tokenizer": tokenizer}
    if kind is Kind.SMALL:
        from re_llm.evaluate.empathy.small_training import train_small

        _refuse({**given, "set": changes}, "--kind small")
        print_report(train_small(csv, out, seed or 0, progress=not as_json), as_json)
        return
    from re_llm.evaluate.empathy.scorer_training import make_plan, train_biencoders
    from re_llm.recipe.files import parse_overrides

    _refuse({"encoder": from_scratch and encoder}, "--from-scratch")
    options = parse_overrides(changes) | ({} if seed is None else {"seed": seed})
    plan = make_plan(csv, mechanism, None if from_scratch else encoder or "roberta-base", tokenizer, options)
    print_report(train_biencoders(plan, out, device=device, progress=not as_json), as_json)


def _refuse(given: dict[str, object], beside: str) -> None:
    for name in (name for name, value in given.items() if value):
        raise RellmError(f"--{name.replace('_', '-')} has no meaning with {beside}", todo="Leave it out")


@app.command(cls=Command)
def convert(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the scorer, for `--scorer`.")],
    tokenizer: Annotated[str, typer.Option(help="Tokenizer of the encoders: folder or hub id.")] = "roberta-base",
    er: Annotated[Path | None, typer.Option("--er", help="The authors' .pth file of ER.")] = None,
    ip: Annotated[Path | None, typer.Option("--ip", help="The same of IP.")] = None,
    ex: Annotated[Path | None, typer.Option("--ex", help="The same of EX.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a scorer of the authors' .pth files.

    They are pickles, read with torch's restricted unpickler: tensors only, no code.

    Example:

        re-llm score convert --er reddit_ER.pth --ip reddit_IP.pth --ex reddit_EX.pth --out scorer
    """
    from re_llm.evaluate.empathy.scorer_files import convert_files

    files = {m: path for m, path in {"ER": er, "IP": ip, "EX": ex}.items() if path}
    print_report(convert_files(files, out, tokenizer=tokenizer), as_json)
