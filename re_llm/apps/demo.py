"""`re-llm demo`: responses of the shipped miniature to the shipped recordings, beside those to the transcript alone.

The cascade (Whisper, then the same LLM with the same prompt) has the words only: where the model responds otherwise,
it is because of the voice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError
from re_llm.core.terminal import dimensions, likely, print_pairs

if TYPE_CHECKING:
    from rich.console import Console

MAX_NEW_TOKENS = 64
WIDTH = 16  # characters of the column of names
PLAYERS = (("aplay", "-q"), ("afplay",), ("ffplay", "-nodisp", "-autoexit", "-loglevel", "quiet"))
NEXT = (
    ("re-llm respond {recording}", "the same for a recording of yours"),
    ("re-llm chat", "talk to it"),
    ("re-llm parts get small", "a small model of real parts that hears people, 226 MB"),
    ("re-llm reproduce mini", "all six stages, eight systems, one report; about half an hour"),
    ("re-llm doctor re_llm", "what the real model needs"),
)


@dataclass(frozen=True)
class DemoResult:
    """One recording.

    Attributes:
        reference: the emotion it was synthesised with.
        valence, arousal, dominance: on 0..1.
        transcript, text_only: what the cascade recognises, and its response to that.
    """

    recording: str
    sentence: str
    speaker: str
    reference: str
    predicted_emotion: str | None
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    dominance: float | None
    transcript: str
    response: str
    text_only: str


def listing(folder: Path) -> list[dict[str, str]]:
    """Entries of `recordings.json`.

    Raises:
        RellmError: the recordings are not there, or the list is broken.
    """
    path = folder / "recordings.json"
    if not path.is_file():
        raise RellmError(
            f"the miniature's recordings are not in {folder}",
            todo="Install the package from its wheel or a clone, or make them: re-llm mini build --out FOLDER",
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [{key: str(e[key]) for key in ("recording", "sentence", "speaker", "reference")} for e in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise RellmError(f"{path} is not a list of recordings: {error}") from None


def answer_recordings(*, device: str = "auto", say: Callable[[str], None] = lambda line: None) -> list[DemoResult]:
    """Responses to all shipped recordings, in one batch of each model.

    Args:
        say: called with a line before every slow step.
    """
    say("loading torch and the models")
    from re_llm.audio import waveform
    from re_llm.core.records import Utterance
    from re_llm.inference import engine
    from re_llm.inference.reply import ReplyOptions
    from re_llm.inference.systems import text_system

    folder = engine.shipped_recordings()
    entries = listing(folder)
    samples = [waveform.load(folder / entry["recording"]) for entry in entries]
    cascade = text_system("cascade", llm="mini:llm", whisper="mini:whisper", device=device)
    model = engine.load(engine.SHIPPED_MODEL, device=device)
    say(f"answering {len(entries)} recordings")
    options = ReplyOptions(batch_size=len(samples), max_new_tokens=MAX_NEW_TOKENS)
    rows = [Utterance(key=e["recording"], corpus="mini", split="test", audio=e["recording"]) for e in entries]
    replies = model.respond_rows(rows, samples, options)
    text_only = cascade.respond_rows(rows, samples, options)
    return [
        DemoResult(
            **{**reply.predictions(), **entry},
            transcript=words.transcript or "",
            response=reply.response,
            text_only=words.response,
        )
        for entry, reply, words in zip(entries, replies, text_only, strict=True)
    ]


def player() -> tuple[str, ...]:
    """Command of the first player found.

    Raises:
        RellmError: there is none.
    """
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    raise RellmError("no program to play sound was found", allowed=", ".join(command[0] for command in PLAYERS))


def _play(command: tuple[str, ...], path: Path) -> None:
    import soundfile

    with tempfile.TemporaryDirectory() as folder:  # aplay reads no FLAC
        wav = Path(folder) / "recording.wav"
        soundfile.write(wav, *soundfile.read(path, dtype="int16"))
        subprocess.run([*command, str(wav)], check=False)


def run(*, as_json: bool = False, play: bool = False, device: str = "auto") -> None:
    """Body of the command: prints JSON, or a page for people."""
    from rich.console import Console

    command = player() if play else None
    # Loading takes less time than reading a progress bar for each file.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if as_json:
        print(json.dumps([asdict(result) for result in answer_recordings(device=device)], ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    with Console(stderr=True).status("starting") as status:
        results = answer_recordings(device=device, say=status.update)
    from re_llm.inference.engine import shipped_recordings

    _show(console, results, shipped_recordings(), command)


def _show(console: Console, results: list[DemoResult], folder: Path, command: tuple[str, ...] | None) -> None:
    from rich.markup import escape

    console.print(f"[bold]{len(results)} recordings in[/] {folder}")
    console.print("[dim]Synthetic voices that no part of the miniature was trained on.[/]")
    for sentence, items in groupby(results, key=lambda item: item.sentence):
        console.print(f"\n[bold]“{escape(sentence)}”[/]")
        # The same transcript gets the same response: it is shown once.
        for (transcript, text_only), spoken in groupby(items, key=lambda item: (item.transcript, item.text_only)):
            print_pairs(
                console,
                ("transcript", f"[dim]“{escape(transcript)}”[/]"),
                ("text-only reply", f"[yellow]{escape(text_only)}[/]"),
                width=WIDTH,
            )
            for item in spoken:
                if command:
                    _play(command, folder / item.recording)
                _show_one(console, item)
    _summarize(console, results)
    console.print("\n[bold]Next[/]")
    example = folder / results[0].recording
    for line, why in NEXT:
        console.print(f"  [green]{line.format(recording=example)}[/]  [dim]{why}[/]", soft_wrap=True)


def _show_one(console: Console, item: DemoResult) -> None:
    from rich.markup import escape

    mark = "[green]✓[/]" if item.predicted_emotion == item.reference else "[red]✗[/]"
    console.print(f"  [cyan]{item.recording}[/]  spoken [bold]{item.reference}[/]")
    shown = dimensions(item)
    print_pairs(
        console,
        ("emotion", f"{mark} {likely(item.probabilities)}"),
        ("", f"[dim]{shown}[/]" if shown else ""),
        ("reply", f"[green]{escape(item.response)}[/]"),
        width=WIDTH,
    )


def _summarize(console: Console, results: list[DemoResult]) -> None:
    right = sum(item.predicted_emotion == item.reference for item in results)
    console.print(f"\nEmotion as spoken: {right} of {len(results)}; chance among five is {len(results) / 5:.0f}.")
    by_sentence: dict[str, list[DemoResult]] = {}
    for item in results:
        by_sentence.setdefault(item.sentence, []).append(item)
    same = max(by_sentence.values(), key=len)
    if len(same) > 1:
        spoken, text = (len({getattr(item, name) for item in same}) for name in ("response", "text_only"))
        console.print(
            f"One sentence, spoken {len(same)} times in {len({item.reference for item in same})} emotions: "
            f"{spoken} different replies to the speech, {text} to the transcript."
        )
