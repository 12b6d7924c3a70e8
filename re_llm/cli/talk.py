"""Commands that talk: chat, serve; and the checkpoint that a command names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from re_llm.cli.common import (
    DEFAULT_MODEL,
    Commercial,
    Device,
    Dtype,
    MaxNewTokens,
    Model,
    Quantize,
    Quiet,
    RayAddress,
    chosen_model,
    more_machines,
)
from re_llm.cli.common import Engine as Machines
from re_llm.cluster.engines import Where
from re_llm.core.errors import RellmError
from re_llm.llm.prompts import PROMPTS, get_prompt

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine
    from re_llm.inference.recognizer import EmotionRecognizer
    from re_llm.inference.reply import ReplyOptions

_limit = partial(typer.Option, rich_help_panel="More: limits")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and how it is loaded."""

    name: str
    device: str
    dtype: str
    quantize: str | None

    def load(self) -> Engine:
        from re_llm.inference.engine import load

        engine = load(self.name, device=self.device, dtype=self.dtype, quantize=self.quantize)
        if self.dtype == "auto" and engine.device.type == "cpu" and engine.dtype.itemsize == 2:
            typer.echo("This processor multiplies bfloat16: computed in it (--dtype float32 does not)", err=True)
        return engine

    def load_system(self, options: ReplyOptions) -> Engine | EmotionRecognizer:
        """What answers; an emotion encoder where nothing is asked."""
        from re_llm.inference.recognizer import EmotionRecognizer

        if options.prompt or options.recognize:
            return self.load()
        return EmotionRecognizer.load(self.name, device=self.device, dtype=self.dtype)

    def load_for_emotion(self) -> Engine | EmotionRecognizer:
        """What tells the emotion: a RE-LLM or an emotion encoder, whichever it is."""
        from re_llm.inference.recognizer import EmotionRecognizer
        from re_llm.inference.reply_records import is_recognizer

        if is_recognizer(self.name):
            return EmotionRecognizer.load(self.name, device=self.device, dtype=self.dtype)
        return self.load()


def refuse_label(*prompts: str | None) -> None:
    """Raises a RellmError for a prompt that names the emotion which the model has to recognise."""
    for name in prompts:
        if name and get_prompt(name).needs_emotion:
            allowed = ", ".join(name for name, prompt in PROMPTS.items() if not prompt.needs_emotion)
            raise RellmError(f"prompt {name!r} names the emotion that the model has to recognise", allowed=allowed)


def chat(
    model: Model = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option(help="Id of the prompt that is answered.")] = "chat-empathetic",
    remember: Annotated[int, typer.Option(min=0, help="Earlier exchanges that stay in the LLM's row.")] = 4,
    whisper: Annotated[
        str | None, typer.Option(help="Whisper that gives /why the words: folder, hub id, or mini:whisper.")
    ] = None,
    microphone: Annotated[
        bool, typer.Option("--microphone", help="An empty line records a turn until Enter is pressed (extra mic).")
    ] = False,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Annotated[float, typer.Option(help="0 answers greedily, up to 2 more freely.")] = 0.0,
    commercial: Commercial = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    quiet: Quiet = False,
) -> None:
    """Talk to a model in the terminal.

    Each line is the path of a recording, or text. Shows the recognised emotion and the answer as it is decoded. /why
    tells what was heard, /save FILE writes it all, /reset starts again, /quit leaves; Ctrl-C ends an answer.

    Example:

        re-llm chat --model checkpoints/re-llm
    """
    refuse_label(prompt)
    from rich.console import Console

    from re_llm.apps import chat as module
    from re_llm.inference.decoding import Decoding

    if microphone:
        from re_llm.audio.microphone import require

        require()
    decoding, model = Decoding(max_new_tokens, temperature), chosen_model(model, quiet, commercial)
    with Console(stderr=True, quiet=quiet).status(f"loading {model}"):
        engine = Checkpoint(model, device, dtype, quantize).load()
    console = Console(highlight=False)
    if console.is_terminal and not quiet:
        console.print(module.HELP + (module.MICROPHONE_HELP if microphone else ""), markup=False, style="dim")
    talk = engine.chat(prompt=prompt, remember=remember, **vars(decoding))
    module.run(module.Chat(talk, console, whisper, microphone))


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
    rows: Annotated[int, _limit(min=1, help="Answers decoded at once; the others wait.")] = 16,
    queue_size: Annotated[int, _limit(min=1, help="Requests that may wait; the next one is refused.")] = 16,
    timeout: Annotated[float, _limit(help="Longest time to an answer, in seconds; then its work ends too.")] = 120.0,
    host_name: Annotated[
        list[str], _limit(help="Name that it may be reached by beside its address, a proxy's; may be repeated.")
    ] = [],
    cors_origin: Annotated[
        list[str], _limit(help="Origin whose pages may use the API, https://example.org; may be repeated.")
    ] = [],
    whisper: Annotated[
        str | None, typer.Option(help="Whisper that transcribes. Default: the one that the checkpoint was made of.")
    ] = None,
    engine: Machines = "local",
    ray_address: RayAddress = None,
    replicas: Annotated[int, more_machines(min=1, help="Copies of the model on a Ray cluster, at least.")] = 1,
    max_replicas: Annotated[
        int | None, more_machines(min=1, help="At most, while requests wait. Default: as many as --replicas.")
    ] = None,
    commercial: Commercial = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Serve a model over HTTP, as OpenAI's chat API with audio.

    The address itself shows a page with a microphone.

    Needs the extra serve (with --engine ray, serve-ray). Recordings and texts are neither stored nor logged. Example:

        re-llm serve --port 8000
    """
    from re_llm.apps.serve import ray_serve
    from re_llm.apps.serve import run as module
    from re_llm.apps.serve.options import ServeOptions

    module.require()
    start: Callable[..., None] = module.run
    copies, where = ray_serve.Copies(replicas, max_replicas or replicas), Where(engine, ray_address)
    if where.engine == "ray":
        ray_serve.require()
        start = partial(ray_serve.run, where=where, copies=copies)
    elif where.engine == "gpus":
        raise RellmError("serve answers on one GPU", allowed="--engine local, --engine ray")
    elif copies.most > 1:
        raise RellmError("--replicas and --max-replicas are for --engine ray")
    from re_llm.apps.serve.connections import LOOPBACK

    model = chosen_model(model, commercial=commercial)
    options = ServeOptions(
        name, prompt, api_key, max_body_mb, max_audio_seconds, max_new_tokens, queue_size, rows, timeout,
        tuple(cors_origin), whisper,
    )  # fmt: skip
    if host not in LOOPBACK and api_key is None:
        typer.echo(f"Anyone who reaches {host} can use this server: set RE_LLM_API_KEY to ask for a key.", err=True)
    typer.echo(f"Loading {model}; then at http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
    start(model, options, host=host, port=port, device=device, dtype=dtype, quantize=quantize, names=host_name)
