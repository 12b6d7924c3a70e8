"""Commands that use a trained model: demo, doctor, respond, recognize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from re_llm.cli.common import (
    DEFAULT_MODEL,
    FAILED,
    BatchSize,
    Commercial,
    Device,
    Dtype,
    JsonFlag,
    MaxNewTokens,
    Model,
    Overrides,
    OverwriteFlag,
    Quantize,
    Quiet,
    chosen_model,
    more_records,
    overwriting,
    print_json,
    print_report,
)
from re_llm.cli.inputs import named_files
from re_llm.cli.servers import Concurrency, KeyEnv, Rate, Server, Timeout, Tries, chat_server
from re_llm.cli.talk import Checkpoint, refuse_label
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.cli.outputs import Shown
    from re_llm.core.product import Overwrite
    from re_llm.core.records import ReplyRecord
    from re_llm.inference.reply import ReplyOptions, SpeechSystem
    from re_llm.inference.served import ServedSystem
    from re_llm.llm.server import ChatServer

Load: TypeAlias = "Callable[[ReplyOptions], SpeechSystem]"

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT", help="Recordings, folders of them, - for standard input; or one manifest (*.jsonl)."
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Write records here; a second run goes on.")
]
Form = Annotated[
    str | None,
    typer.Option("--format", help="Print txt (a line a recording), csv, json, srt or vtt, and nothing else."),
]
Splits = Annotated[list[str], typer.Option("--split", help="Only this split of a manifest; may be repeated.")]
_change = partial(typer.Option, rich_help_panel="More: changed replies")
Earlier = Annotated[str, more_records(help="Earlier turns of a dialogue: `text`, or `speech` heard again.")]
CorruptEmotion = Annotated[
    float, _change(help="Fraction of the utterances that get the emotion information of others, drawn by --seed.")
]
MaxWords = Annotated[int | None, _change(min=1, help="Keep the whole sentences that fit into so many words.")]
EndWithQuestion = Annotated[bool, _change("--end-with-question", help="End with one question.")]
AskWhenUnsure = Annotated[
    str | None,
    _change(
        metavar="PROBABILITY|FOLDER",
        help="Ask how the person feels unless exactly one emotion is so probable; or a folder that `calibrate` wrote: "
        "unless exactly one is in the set.",
    ),
]
Microphone = Annotated[bool, typer.Option("--microphone", help="Record until Enter is pressed (extra mic).")]
System = Annotated[
    str | None,
    more_records(help="Name of this system in the records: re-llm, or with a server its model, if not given."),
]
OURS = "re-llm"


def demo(
    model: Annotated[
        str | None,
        typer.Option(
            help="small:re-llm, small:re-llm-open or mini:re-llm alone.",
            show_default="the first and the last, if the parts of small are here",
        ),
    ] = None,
    as_json: JsonFlag = False,
    play: Annotated[bool, typer.Option("--play", help="Play each recording (aplay, afplay or ffplay).")] = False,
    commercial: Commercial = False,
    device: Device = "auto",
) -> None:
    """Respond to shipped recordings of people and of synthetic voices.

    The small model hears the people, the miniature the synthetic voices. Shows the recognised emotion and the reply,
    beside the same LLM's reply to the transcript alone. Needs no network and no GPU. People are shown where the parts
    of the small model are here (`re-llm parts get small`). Examples:

        re-llm demo

        re-llm demo --model mini:re-llm
    """
    from re_llm.apps import demo as module

    if commercial:
        model = chosen_model(model or DEFAULT_MODEL, quiet=True, commercial=True)
    module.run(model=model, as_json=as_json, play=play, device=device)


def doctor(
    recipe: Annotated[str | None, typer.Argument(help="A recipe: file, or name of a shipped one.")] = None,
    overrides: Overrides = [],
    convert: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Convert parts in original formats into this folder of a run.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what this machine has, and what a recipe lacks here.

    Parts, corpora, splits, memory and disk are checked; nothing is downloaded. The exit code is 1 when something that
    the recipe needs is missing. Examples:

        re-llm doctor re_llm

        re-llm doctor re_llm --convert runs/re_llm
    """
    from re_llm.apps import doctor as module
    from re_llm.recipe.files import load_recipe, parse_overrides

    if convert and recipe is None:
        raise RellmError("--convert needs a recipe", todo="re-llm doctor RECIPE --convert RUN")

    chosen = load_recipe(recipe, parse_overrides(overrides)) if recipe else None
    machine = module.examine_machine()
    say = partial(typer.echo, err=True)
    needs = module.examine_recipe(chosen, machine, convert_into=convert, say=say) if chosen else None
    if as_json:
        print_json(module.as_dict(machine, needs))
    else:
        module.show(machine, needs)
    if needs and needs.missing:
        raise typer.Exit(FAILED)


def respond(
    inputs: Inputs = [],
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the prompt that is answered.")] = "chat-empathetic",
    recognize: Annotated[bool, typer.Option("--recognize", help="Ask the LLM to name the emotion as well.")] = False,
    out: Out = None,
    split: Splits = [],
    system: System = None,
    batch_size: BatchSize = 16,
    max_new_tokens: MaxNewTokens = 128,
    seed: Annotated[int | None, more_records(help="Recorded in the replies; decoding is greedy.")] = None,
    commercial: Commercial = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    form: Form = None,
    history: Earlier = "text",
    server: Server = None,
    concurrency: Concurrency = 8,
    rate: Rate = None,
    timeout: Timeout = 120.0,
    tries: Tries = 8,
    key_env: KeyEnv = None,
    max_words: MaxWords = None,
    end_with_question: EndWithQuestion = False,
    ask_when_unsure: AskWhenUnsure = None,
    corrupt_emotion: CorruptEmotion = 0.0,
    microphone: Microphone = False,
    quiet: Quiet = False,
) -> None:
    """Respond to recordings: the recognised emotion and the reply.

    Utterances that cannot be used (broken, silent, too long for the LLM) are listed in replies.dropped.jsonl. A second
    run goes on with the same model and options. With --server a speech LLM behind an OpenAI-compatible server answers;
    replies.answers.jsonl keeps what it said. Changed replies are of another system (`re-llm, 20 words`) in a report.

    Examples:

        re-llm respond question.wav --max-words 20 --end-with-question

        re-llm respond manifest.jsonl --split test --out replies.jsonl

        re-llm respond manifest.jsonl --server http://127.0.0.1:8000/v1 --model qwen-omni --out replies.jsonl
    """
    from re_llm.cli.outputs import Shown
    from re_llm.inference.reply import RECOGNITION_PROMPT, ReplyOptions
    from re_llm.inference.variant import Unsure, Variant

    if server and commercial:
        raise RellmError(
            "--commercial chooses a model that is loaded here; what a server's model allows is not known here",
            todo="Leave out --commercial or --server",
        )
    named = system or (model if server else OURS)
    unsure = Unsure.parse(ask_when_unsure, named) if ask_when_unsure else None
    options = ReplyOptions(
        named, prompt, RECOGNITION_PROMPT if recognize else None, batch_size, max_new_tokens, seed=seed,
        history=_history(history), variant=Variant(corrupt_emotion, seed or 0, max_words, end_with_question, unsure),
    )  # fmt: skip
    connect = partial(chat_server, server or "", model, concurrency, rate, timeout, tries, key_env)
    local = None if server else Checkpoint(chosen_model(model, quiet, commercial), device, dtype, quantize)
    load = local.load_system if local else _served(model, out, connect)
    with named_files(inputs, microphone, out) as given:
        shown = Shown(as_json, form, quiet, called=given.called)
        _respond(given.files, options, load, out, split, overwriting(overwrite), shown)


def _history(name: str) -> Literal["text", "speech"]:
    if name not in ("text", "speech"):
        raise RellmError(f"--history {name}", allowed="text, speech")
    return "speech" if name == "speech" else "text"


def _served(model: str, out: Path | None, connect: Callable[[], ChatServer]) -> Load:
    """Loads a system behind a server.

    Raises:
        RellmError: the model or the file has no name.
    """
    if model == DEFAULT_MODEL or out is None:
        raise RellmError("a server answers under a name, into a file", todo="Add: --model NAME --out FILE.jsonl")
    server = connect()

    def load(options: ReplyOptions) -> ServedSystem:
        from re_llm.inference.served import ServedSystem

        return ServedSystem.of(server, out)

    return load


def recognize(
    inputs: Inputs = [],
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the recognition prompt.")] = "recognize",
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="The emotion over time, window by window; the LLM is not asked.")
    ] = False,
    window: Annotated[
        float | None, typer.Option(help="Longest window in seconds. Default: what the model was trained on.")
    ] = None,
    whisper: Annotated[
        str | None, typer.Option(help="Whisper that writes the words of each window: folder, hub id, mini:whisper.")
    ] = None,
    out: Out = None,
    split: Splits = [],
    system: System = None,
    batch_size: BatchSize = 16,
    commercial: Commercial = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
    form: Form = None,
    microphone: Microphone = False,
    quiet: Quiet = False,
) -> None:
    """Recognise the emotion of recordings.

    `named_emotion` is what the LLM names when asked; `predicted_emotion`, probabilities, valence, arousal and dominance
    come from the model's heads. With an emotion encoder as --model there is no LLM, and nothing is asked. Examples:

        re-llm recognize question.wav --json

        re-llm recognize question.wav --model encoders/mine

        re-llm recognize question.wav --trajectory --format csv
    """
    from re_llm.cli.outputs import Shown
    from re_llm.inference.reply import ReplyOptions
    from re_llm.inference.reply_records import is_recognizer

    model = chosen_model(model, quiet, commercial)
    options = ReplyOptions(system or OURS, None, None if is_recognizer(model) else prompt, batch_size)
    checkpoint = Checkpoint(model, device, dtype, quantize)
    over_time = trajectory or window is not None or whisper is not None
    with named_files(inputs, microphone, out) as given:
        shown = Shown(as_json, form, quiet, trajectory, given.called)
        if over_time:
            _refuse_records(given.files, out, split)
            shown.print(_over_time(given.files, replace(options, recognize=None), checkpoint, window, whisper, shown))
        else:
            _respond(given.files, options, checkpoint.load_system, out, split, overwriting(overwrite), shown)


def _refuse_records(inputs: list[str], out: Path | None, splits: list[str]) -> None:
    if out or splits or any(name.endswith(".jsonl") for name in inputs):
        raise RellmError(
            "--trajectory, --window and --whisper are for recordings, without --out and --split",
            todo="Name the recordings or their folder, and redirect the output: --json > FILE",
        )


def _over_time(
    inputs: list[str],
    options: ReplyOptions,
    checkpoint: Checkpoint,
    window: float | None,
    whisper: str | None,
    shown: Shown,
) -> list[ReplyRecord]:
    from re_llm.inference.over_time import trajectory_records
    from re_llm.inference.respond import rows_for

    shown.check()
    rows, system, transcriber = rows_for(inputs), checkpoint.load_for_emotion(), None
    if whisper:
        from re_llm.inference.transcribe import Transcriber

        transcriber = Transcriber.load(whisper, device=checkpoint.device)
    return trajectory_records(system, rows, options, window=window, transcriber=transcriber)


def _respond(
    inputs: list[str],
    options: ReplyOptions,
    load: Load,
    out: Path | None,
    splits: list[str],
    overwrite: Overwrite,
    shown: Shown,
) -> None:
    """Both commands: a manifest goes to a file, recordings go to the screen (and to a file when one is named)."""
    from re_llm.core.records import ReplyRecord, Utterance, read_records
    from re_llm.inference.respond import respond_files, respond_manifest, respond_rows, rows_for

    refuse_label(options.prompt, options.recognize)
    # Wrong paths are reported before the model is loaded, which takes seconds.
    shown.check()
    manifest = _manifest(inputs, out, splits)
    rows = [] if manifest else rows_for(inputs)
    engine = load(options)
    if manifest and out:
        report = respond_manifest(
            engine, manifest, out, options, splits=splits or None, overwrite=overwrite, progress=not shown.quiet
        )
        if not shown.quiet or shown.as_json:
            print_report(report, shown.as_json)
        return
    # What somebody has named is answered or refused; in a folder there may be anything.
    several, failed = any(Path(name).is_dir() for name in inputs), False

    def tell(row: Utterance, error: RellmError) -> None:
        nonlocal failed
        failed = True
        typer.echo(f"left out: {error.what}", err=True)

    if out:
        progress = not shown.quiet
        report = respond_rows(
            engine, rows, Path(), out, options, strict=not several, overwrite=overwrite, progress=progress
        )
        found = {reply.key: reply for reply in read_records(out, ReplyRecord)}
        replies = [found[row.key] for row in rows if row.key in found]
        if report.dropped:
            failed = True
            typer.echo(f"left out: {report.dropped} recordings, see {report.dropped_file}", err=True)
    else:
        replies = respond_files(engine, rows, options, tell if several else None)
    shown.print(replies)
    if failed:
        raise typer.Exit(1)


def _manifest(inputs: list[str], out: Path | None, splits: list[str]) -> Path | None:
    manifest = next((Path(name) for name in inputs if name.endswith(".jsonl")), None)
    if manifest and len(inputs) > 1:
        raise RellmError(f"{manifest} stands beside other inputs", allowed="recordings, or one manifest")
    if manifest and not manifest.is_file():
        raise RellmError(f"no such file: {manifest}", todo="Check the path")
    if manifest and out is None:
        raise RellmError("a manifest needs --out", todo=f"Add: --out {manifest.stem}.replies.jsonl")
    if splits and not manifest:
        raise RellmError("--split chooses among the utterances of a manifest, and recordings were named")
    return manifest
