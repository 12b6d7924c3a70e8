"""`re-llm demo`: responses of shipped models to shipped recordings, beside those to the transcript alone.

Real people answered by the small model, where its parts are here, and synthetic voices answered by the miniature. The
cascade (Whisper, then the same LLM with the same prompt) has the words only: where the model responds otherwise, it is
because of the voice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.assets import MINI_MODEL, OPEN_MODEL, PACKAGE, SMALL_MODEL, mini_assets, missing_parts
from re_llm.core.errors import RellmError
from re_llm.core.terminal import dimensions, likely, print_pairs

if TYPE_CHECKING:
    from rich.console import Console

MAX_NEW_TOKENS = 64
WIDTH = 16  # characters of the column of names
PLAYERS = (("aplay", "-q"), ("afplay",), ("ffplay", "-nodisp", "-autoexit", "-loglevel", "quiet"))
GET_SMALL = ("re-llm parts get small", "a small model of real parts that hears people, 226 MB")
NEXT = (
    ("re-llm respond {recording}", "the same for a recording of yours"),
    ("re-llm chat", "talk to it"),
    GET_SMALL,
    ("re-llm reproduce mini", "all six stages, eight systems, one report; about half an hour"),
    ("re-llm doctor re_llm", "what the real model needs"),
)


@dataclass(frozen=True)
class Scene:
    """Recordings and who answers them.

    Attributes:
        model, llm, whisper: the speech LLM, and the parts of the cascade beside it.
        missing: what to do where there is no list of recordings.
    """

    model: str
    llm: str
    whisper: str
    folder: Path
    about: str
    missing: str


def scenes(model: str | None = None) -> list[Scene]:
    """What is shown: people where the parts of the small model are here, and the miniature; or one of them.

    Raises:
        RellmError: no recordings ship for the model.
    """
    reinstall = "Install the package from its wheel or a clone"
    people = Scene(
        SMALL_MODEL, "small:llm", "small:whisper", PACKAGE / "small" / "assets" / "people",
        "Real people, heard by the small model, which knows English words alone.", reinstall,
    )  # fmt: skip
    miniature = Scene(
        MINI_MODEL, "mini:llm", "mini:whisper", mini_assets() / "recordings",
        "Synthetic voices that no part of the miniature was trained on.",
        f"{reinstall}, or make them: re-llm mini build --out FOLDER",
    )  # fmt: skip
    if model is None:
        return [miniature] if missing_parts() else [people, miniature]
    if model == OPEN_MODEL:
        return [replace(people, model=model)]
    found = [scene for scene in (people, miniature) if scene.model == model]
    if not found:
        raise RellmError(f"no recordings ship for {model}", allowed=f"{SMALL_MODEL}, {OPEN_MODEL}, {MINI_MODEL}")
    return found


@dataclass(frozen=True)
class DemoResult:
    """One recording.

    Attributes:
        model: that answers.
        reference: the emotion it was synthesised with, or that an actor was asked for; None where nobody knows.
        valence, arousal, dominance: on 0..1.
        transcript, text_only: what the cascade recognises, and its response to that.
    """

    model: str
    recording: str
    sentence: str
    speaker: str
    reference: str | None
    predicted_emotion: str | None
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    dominance: float | None
    transcript: str
    response: str
    text_only: str


def listing(scene: Scene) -> list[dict[str, str | None]]:
    """Entries of `recordings.json`.

    Raises:
        RellmError: the recordings are not there, or the list is broken.
    """
    path = scene.folder / "recordings.json"
    if not path.is_file():
        raise RellmError(f"the recordings for {scene.model} are not in {scene.folder}", todo=scene.missing)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        said = [{key: str(e[key]) for key in ("recording", "sentence", "speaker")} for e in entries]
        return [
            {**one, "reference": e["reference"] and str(e["reference"])} for one, e in zip(said, entries, strict=True)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise RellmError(f"{path} is not a list of recordings: {error}") from None


def answer_recordings(
    scene: Scene, *, device: str = "auto", say: Callable[[str], None] = lambda line: None
) -> list[DemoResult]:
    """Responses to all recordings of a scene, in one batch of each model.

    Args:
        say: called with a line before every slow step.
    """
    say("loading torch and the models")
    from re_llm.audio import waveform
    from re_llm.core.records import Utterance
    from re_llm.inference import engine
    from re_llm.inference.reply import ReplyOptions
    from re_llm.inference.systems import text_system

    entries = listing(scene)
    files = [str(entry["recording"]) for entry in entries]
    samples = [waveform.load(scene.folder / file) for file in files]
    cascade = text_system("cascade", llm=scene.llm, whisper=scene.whisper, device=device)
    model = engine.load(scene.model, device=device)
    say(f"answering {len(entries)} recordings")
    options = ReplyOptions(batch_size=len(samples), max_new_tokens=MAX_NEW_TOKENS)
    rows = [Utterance(key=file, corpus="demo", split="test", audio=file) for file in files]
    replies = model.respond_rows(rows, samples, options)
    text_only = cascade.respond_rows(rows, samples, options)
    return [
        DemoResult(
            **{**reply.predictions(), **entry},
            model=scene.model,
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


def run(*, model: str | None = None, as_json: bool = False, play: bool = False, device: str = "auto") -> None:
    """Body of the command: prints JSON, or a page for people."""
    from rich.console import Console

    command = player() if play else None
    # Loading takes less time than reading a progress bar for each file.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    shown = scenes(model)
    if as_json:
        results = [asdict(result) for scene in shown for result in answer_recordings(scene, device=device)]
        print(json.dumps(results, ensure_ascii=False, indent=2))
        return
    console = Console(highlight=False)
    for scene in shown:
        with Console(stderr=True).status("starting") as status:
            found = answer_recordings(scene, device=device, say=status.update)
        _show(console, scene, found, command)
    console.print("\n[bold]Next[/]")
    example = shown[0].folder / str(listing(shown[0])[0]["recording"])
    for line, why in NEXT if missing_parts() else (each for each in NEXT if each != GET_SMALL):
        console.print(f"  [green]{line.format(recording=example)}[/]  [dim]{why}[/]", soft_wrap=True)


def _show(console: Console, scene: Scene, results: Sequence[DemoResult], command: tuple[str, ...] | None) -> None:
    from rich.markup import escape

    console.print(f"\n[bold]{scene.model}: {len(results)} recordings in[/] {scene.folder}")
    console.print(f"[dim]{escape(scene.about)}[/]")
    for (speaker, sentence), items in groupby(results, key=lambda item: (item.speaker, item.sentence)):
        console.print(f"\n[bold]“{escape(sentence)}”[/]  [dim]{escape(speaker)}[/]")
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
                    _play(command, scene.folder / item.recording)
                _show_one(console, item)
    _summarize(console, results)


def _show_one(console: Console, item: DemoResult) -> None:
    from rich.markup import escape

    mark = "[green]✓[/]" if item.predicted_emotion == item.reference else "[red]✗[/]"
    asked = f"  spoken [bold]{item.reference}[/]" if item.reference else ""
    console.print(f"  [cyan]{item.recording}[/]{asked}")
    shown = dimensions(item)
    print_pairs(
        console,
        ("emotion", f"{mark if item.reference else ' '} {likely(item.probabilities)}"),
        ("", f"[dim]{shown}[/]" if shown else ""),
        ("reply", f"[green]{escape(item.response)}[/]"),
        width=WIDTH,
    )


def _summarize(console: Console, results: Sequence[DemoResult]) -> None:
    known = [item for item in results if item.reference]
    right = sum(item.predicted_emotion == item.reference for item in known)
    console.print(f"\nEmotion as spoken: {right} of {len(known)}; chance among five is {len(known) / 5:.1f}.")
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
