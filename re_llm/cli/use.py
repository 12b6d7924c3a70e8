"""Commands that use a trained model: demo, doctor, respond, recognize, chat, serve."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from re_llm.cli.common import (
    DEFAULT_MODEL,
    FAILED,
    BatchSize,
    Device,
    Dtype,
    JsonFlag,
    MaxNewTokens,
    Model,
    Overrides,
    OverwriteFlag,
    Quantize,
    chosen_model,
    more_records,
    overwriting,
    print_json,
    print_report,
)
from re_llm.core.errors import RellmError
from re_llm.core.terminal import dimensions, likely, print_pairs
from re_llm.llm.prompts import PROMPTS, get_prompt

if TYPE_CHECKING:
    from re_llm.core.product import Overwrite
    from re_llm.core.records import ReplyRecord
    from re_llm.inference.engine import Engine
    from re_llm.inference.recognizer import EmotionRecognizer
    from re_llm.inference.reply import ReplyOptions

_limit = partial(typer.Option, rich_help_panel="More: limits")

Inputs = Annotated[
    list[str], typer.Argument(metavar="INPUT", help="Recordings, or one manifest of utterances (*.jsonl).")
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE.jsonl", help="Write records here; a second run goes on.")
]
Splits = Annotated[list[str], typer.Option("--split", help="Only this split of a manifest; may be repeated.")]
System = Annotated[str, more_records(help="Name of this system in the records, for the report.")]


def demo(
    as_json: JsonFlag = False,
    play: Annotated[bool, typer.Option("--play", help="Play each recording (aplay, afplay or ffplay).")] = False,
    device: Device = "auto",
) -> None:
    """Respond to the shipped recordings with the shipped miniature.

    Shows the recognised emotion and the reply, beside the same LLM's reply to the transcript alone. Needs no network
    and no GPU. Example:

        re-llm demo
    """
    from re_llm.apps import demo as module

    module.run(as_json=as_json, play=play, device=device)


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
    inputs: Inputs,
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the prompt that is answered.")] = "chat-empathetic",
    recognize: Annotated[bool, typer.Option("--recognize", help="Ask the LLM to name the emotion as well.")] = False,
    out: Out = None,
    split: Splits = [],
    system: System = "re-llm",
    batch_size: BatchSize = 16,
    max_new_tokens: MaxNewTokens = 128,
    seed: Annotated[int | None, more_records(help="Recorded in the replies; decoding is greedy.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Respond to recordings: the recognised emotion and the reply.

    Utterances of a manifest that cannot be used (broken, silent, too long for the LLM) are listed in
    replies.dropped.jsonl. A second run goes on with the same model and options, which replies.provenance.json holds.

    Examples:

        re-llm respond question.wav

        re-llm respond manifest.jsonl --split test --out replies.jsonl
    """
    from re_llm.inference.reply import RECOGNITION_PROMPT, ReplyOptions

    model = chosen_model(model)
    options = ReplyOptions(
        system, prompt, RECOGNITION_PROMPT if recognize else None, batch_size, max_new_tokens, seed=seed
    )
    _respond(inputs, options, _Checkpoint(model, device, dtype, quantize), out, split, overwriting(overwrite), as_json)


def recognize(
    inputs: Inputs,
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the recognition prompt.")] = "recognize",
    out: Out = None,
    split: Splits = [],
    system: System = "re-llm",
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Recognise the emotion of recordings.

    `named_emotion` is what the LLM names when asked; `predicted_emotion`, probabilities, valence, arousal and dominance
    come from the model's heads. With an emotion encoder as --model there is no LLM, and nothing is asked. Examples:

        re-llm recognize question.wav --json

        re-llm recognize question.wav --model encoders/mine
    """
    from re_llm.inference.reply import ReplyOptions, is_recognizer

    model = chosen_model(model)
    options = ReplyOptions(system, None, None if is_recognizer(model) else prompt, batch_size)
    _respond(inputs, options, _Checkpoint(model, device, dtype, quantize), out, split, overwriting(overwrite), as_json)


def chat(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the prompt that is answered.")] = "chat-empathetic",
    remember: Annotated[int, typer.Option(min=0, help="Earlier exchanges that stay in the LLM's row.")] = 4,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Annotated[float, typer.Option(help="0 answers greedily, up to 2 more freely.")] = 0.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Talk to a model in the terminal.

    Each line is the path of a recording, or text. Shows the recognised emotion and the answer as it is decoded. /reset
    starts the conversation again, /quit leaves. Example:

        re-llm chat --model checkpoints/re-llm
    """
    _refuse_label(prompt)
    from rich.console import Console

    from re_llm.apps import chat as module
    from re_llm.inference.reply import Decoding

    decoding, model = Decoding(max_new_tokens, temperature), chosen_model(model)
    with Console(stderr=True).status(f"loading {model}"):
        engine = _Checkpoint(model, device, dtype, quantize).load()
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(module.HELP, markup=False, style="dim")
    module.run(module.Chat(engine, console, decoding, prompt, remember))


def serve(
    model: Model = DEFAULT_MODEL,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is for other machines to reach.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="RE_LLM_API_KEY", help="Key that clients have to send. Better by environment.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model in the API.")] = None,
    prompt: Annotated[
        str, typer.Option(help="Id of the prompt, unless a request brings a system text.")
    ] = "chat-empathetic",
    max_new_tokens: MaxNewTokens = 256,
    max_body_mb: Annotated[float, _limit(help="Largest request, in MB.")] = 16.0,
    max_audio_seconds: Annotated[float, _limit(help="Longest audio of one request, in seconds.")] = 60.0,
    queue_size: Annotated[int, _limit(min=1, help="Requests that may wait; the next one is refused.")] = 16,
    timeout: Annotated[float, _limit(help="Longest time to an answer, in seconds; then its work ends too.")] = 120.0,
    host_name: Annotated[
        list[str], _limit(help="Name that it may be reached by beside its address, a proxy's; may be repeated.")
    ] = [],
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Serve a model over HTTP, as OpenAI's chat API with audio.

    The address itself shows a page with a microphone.

    Needs the extra serve. Recordings and texts are neither stored nor logged. Example:

        re-llm serve --port 8000
    """
    from re_llm.apps.serve import run as module
    from re_llm.apps.serve.options import ServeOptions

    module.require()
    from re_llm.apps.serve.connections import LOOPBACK

    options = ServeOptions(
        name, prompt, api_key, max_body_mb, max_audio_seconds, max_new_tokens, queue_size, timeout_seconds=timeout
    )
    if host not in LOOPBACK and api_key is None:
        typer.echo(f"Anyone who reaches {host} can use this server: set RE_LLM_API_KEY to ask for a key.", err=True)
    typer.echo(f"Loading {model}; then at http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    module.run(model, options, host=host, port=port, device=device, dtype=dtype, quantize=quantize, names=host_name)


@dataclass(frozen=True)
class _Checkpoint:
    """A checkpoint, and how it is loaded."""

    name: str
    device: str
    dtype: str
    quantize: str | None

    def load(self) -> Engine:
        from re_llm.inference.engine import load

        return load(self.name, device=self.device, dtype=self.dtype, quantize=self.quantize)

    def load_system(self, options: ReplyOptions) -> Engine | EmotionRecognizer:
        """What answers; an emotion encoder where nothing is asked."""
        from re_llm.inference.recognizer import EmotionRecognizer

        if options.prompt or options.recognize:
            return self.load()
        return EmotionRecognizer.load(self.name, device=self.device, dtype=self.dtype)


def _respond(
    inputs: list[str],
    options: ReplyOptions,
    checkpoint: _Checkpoint,
    out: Path | None,
    splits: list[str],
    overwrite: Overwrite,
    as_json: bool,
) -> None:
    """Both commands: a manifest goes to a file, recordings go to the screen (and to a file when one is named)."""
    from re_llm.core.records import ReplyRecord, read_records
    from re_llm.inference.respond import respond_files, respond_manifest, respond_rows, rows_for

    _refuse_label(options.prompt, options.recognize)
    # Wrong paths are reported before the model is loaded, which takes seconds.
    manifest = _manifest(inputs, out, splits)
    rows = [] if manifest else rows_for(inputs)
    engine = checkpoint.load_system(options)
    if manifest and out:
        report = respond_manifest(engine, manifest, out, options, splits=splits or None, overwrite=overwrite)
        print_report(report, as_json)
        return
    if out:
        respond_rows(engine, rows, Path(), out, options, strict=True, overwrite=overwrite)
        found = {reply.key: reply for reply in read_records(out, ReplyRecord)}
        replies = [found[row.key] for row in rows]
    else:
        replies = respond_files(engine, rows, options)
    if as_json:
        print_json(replies)
    else:
        _show(replies)


def _refuse_label(*prompts: str | None) -> None:
    """Raises a RellmError for a prompt that names the emotion which the model has to recognise."""
    for name in prompts:
        if name and get_prompt(name).needs_emotion:
            allowed = ", ".join(name for name, prompt in PROMPTS.items() if not prompt.needs_emotion)
            raise RellmError(f"prompt {name!r} names the emotion that the model has to recognise", allowed=allowed)


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


def _show(replies: list[ReplyRecord]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    for reply in replies:
        named = f"{reply.named_emotion or 'no emotion'}  [dim]“{escape(reply.answer or '')}”[/]"
        cut = " [yellow](cut at the token limit)[/]" if reply.finish_reason == "length" else ""
        console.print(f"[bold]{escape(reply.key)}[/]", soft_wrap=True)
        print_pairs(
            console,
            ("named", named if reply.answer is not None else ""),
            ("predicted", likely(reply.probabilities)),
            ("", f"[dim]{dimensions(reply)}[/]" if reply.dimensions() else ""),
            ("reply", f"[green]{escape(reply.response)}[/]{cut}" if reply.prompt else ""),
            width=11,
        )
