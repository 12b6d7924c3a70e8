"""`re-llm score`: replies become scores; custom scorers are trained, or converted from the authors' files."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from re_llm.cli.common import Command, DefaultGroup, Device, JsonFlag, OverwriteFlag, overwriting, print_report
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.evaluate.empathy.scorer_training import BiEncoderPlan

_scratch = partial(typer.Option, rich_help_panel="More: an encoder from scratch")
_training = partial(typer.Option, rich_help_panel="More: training")


app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    subcommand_metavar="[run] REPLIES [OPTIONS] | train ... | convert ...",
    short_help="Score replies of any system: empathy, recognition, statistics.",
)


@app.callback()
def _score() -> None:
    """Score replies of any system; train the scorers.

    Empathy is EPITOME's ER, IP and EX; recognition is unweighted accuracy and more. Options: re-llm score run --help.

    Examples:

        re-llm score replies.jsonl --out scores.jsonl

        re-llm score replies.jsonl --out scores.jsonl --reading both
    """


@app.command(cls=Command)
def run(
    replies: Annotated[Path, typer.Argument(help="replies.jsonl; key, system, text and response are enough.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The scores.jsonl to write.")],
    metric: Annotated[
        list[str], typer.Option("--metric", help="ER, EX, IP or SER; may be repeated. Default: all that apply.")
    ] = [],
    scorer: Annotated[
        str, typer.Option(help="EPITOME scorer: `small` (shipped), or a folder that `train` or `convert` wrote.")
    ] = "small",
    reading: Annotated[
        str | None,
        typer.Option(
            help="`64`: the part of a reply that the original scorer sees; `whole`; or `both` side by side. "
            "Default: whole for small, 64 for a bi-encoder."
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

    With `--reading whole` a bi-encoder reads a long reply in overlapping windows; its level is the highest of them.

    Examples:

        re-llm score run replies.jsonl --out scores.jsonl

        re-llm score replies.jsonl --out scores.jsonl --scorer FOLDER --reading both
    """
    from re_llm.evaluate import load_scorer, score_file

    judge = load_scorer(scorer, original=original, device=device)
    report = score_file(
        replies, out, metrics=metric or None, scorer=judge, reading=reading, overwrite=overwriting(overwrite)
    )
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
    encoder: Annotated[str | None, typer.Option(help="RoBERTa to start from, folder or hub id (roberta-base).")] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="A small random encoder instead.")] = False,
    tokenizer: Annotated[str | None, _scratch(help="Folder or hub id. Default: the encoder's, or trained.")] = None,
    width: Annotated[int | None, _scratch(help="From scratch: width of the encoders (128).")] = None,
    layers: Annotated[int | None, _scratch(help="From scratch: layers of each (2).")] = None,
    heads: Annotated[int | None, _scratch(help="From scratch: attention heads (4).")] = None,
    vocabulary: Annotated[int | None, _scratch(help="From scratch: entries of the tokenizer (4000).")] = None,
    lr: Annotated[float | None, _training(help="Learning rate (2e-5; from scratch 5e-4).")] = None,
    batch_size: Annotated[int | None, _training(help="Pairs in a step (32).")] = None,
    epochs: Annotated[int | None, _training(help="Passes over the pairs (4).")] = None,
    window: Annotated[int | None, _training(help="Tokens read of each text (64).")] = None,
    rationale_weight: Annotated[float | None, _training(help="Weight of the rationale loss (0.5).")] = None,
    train_seeker: Annotated[bool, _training("--train-seeker", help="Train the seeker's encoder too.")] = False,
    patience: Annotated[int | None, _training(help="Epochs without a better macro-F1 on 5 % of the pairs.")] = None,
    test_fraction: Annotated[float | None, _training(help="Fraction of seeker posts held out (0.2).")] = None,
    original: Annotated[bool, _training("--original", help="Attend to padding, as the authors' code.")] = False,
    seed: Annotated[int | None, _training(help="Default: 12 as published; small: 0.")] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Train an empathy scorer on EPITOME's csv files.

    The published recipe: one model per mechanism, with rationale loss. Pairs are split by seeker post; metrics.json
    holds accuracy, macro-F1 and the F1 of each level on held-out pairs, beside the majority and the rules that every
    scorer has to beat. The small scorer is cross-validated instead, which takes minutes. Numbers in brackets are the
    defaults.

    Examples:

        re-llm score train epitome --encoder roberta-base --out scorer

        re-llm score train epitome/explorations-reddit.csv --from-scratch --epochs 10 --out scorer

        re-llm score train epitome --kind small --out scorer
    """
    given = {
        "encoder": encoder, "tokenizer": tokenizer, "width": width, "layers": layers, "heads": heads,
        "vocabulary": vocabulary, "lr": lr, "batch_size": batch_size, "epochs": epochs, "window": window,
        "rationale_weight": rationale_weight, "patience": patience, "test_fraction": test_fraction,
        "from_scratch": from_scratch or None, "train_seeker": train_seeker or None, "original": original or None,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if kind is Kind.SMALL:
        _refuse(list(given) + ["mechanism"] * bool(mechanism), "--kind small")
        _train_small(csv, out, seed or 0, as_json)
        return
    from re_llm.evaluate.empathy.scorer_training import train_biencoders

    plan = _plan(csv, mechanism, seed, given)
    print_report(train_biencoders(plan, out, device=device, progress=not as_json), as_json)


def _train_small(csv: Path, out: Path, seed: int, as_json: bool) -> None:
    from re_llm.evaluate.empathy.small_training import train_small
    from re_llm.evaluate.empathy.train_report import TrainReport

    found = train_small(csv, out, seed, progress=not as_json)
    print_report(TrainReport(out, f"{found['folds']}-fold cross-validation", found["mechanisms"]), as_json)


def _refuse(names: list[str], beside: str) -> None:
    if names:
        raise RellmError(f"--{names[0].replace('_', '-')} has no meaning with {beside}", todo="Leave it out")


SCRATCH = ("width", "layers", "heads", "vocabulary")


def _plan(csv: Path, mechanisms: list[str], seed: int | None, given: dict[str, Any]) -> BiEncoderPlan:
    """The plan of what was asked for; what was not keeps its published value."""
    from re_llm.evaluate.empathy.biencoder_start import ScratchOptions
    from re_llm.evaluate.empathy.biencoder_training import BiEncoderOptions
    from re_llm.evaluate.empathy.scorer_training import SCRATCH_LR, BiEncoderPlan, find_csvs

    given = dict(given)
    scratch = given.pop("from_scratch", False)
    sizes = {name: given.pop(name) for name in SCRATCH if name in given}
    fractions = {"test_fraction": given.pop("test_fraction")} if "test_fraction" in given else {}
    encoder, tokenizer = given.pop("encoder", None), given.pop("tokenizer", None)
    if scratch:
        _refuse(["encoder"] * bool(encoder), "--from-scratch")
        given.setdefault("lr", SCRATCH_LR)
    else:
        _refuse(list(sizes), "a trained encoder (it needs --from-scratch)")
    given["freeze_seeker"] = not given.pop("train_seeker", False)
    if seed is not None:
        given["seed"] = seed
    options = BiEncoderOptions(**given)
    return BiEncoderPlan(
        find_csvs(csv, mechanisms), None if scratch else encoder or "roberta-base", tokenizer, ScratchOptions(**sizes),
        options, **fractions,
    )  # fmt: skip


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
