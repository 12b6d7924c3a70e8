"""`re-llm small`: makes the small model from real parts."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import Command, Device, JsonFlag, Seed, more_speed, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Make the small model from real parts: text, speech, the LLM. Needs the extra `small-build`.",
    short_help="Make the small model from real parts.",
)


@app.command(cls=Command)
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the build; a second run resumes.")],
    epitome: Annotated[Path | None, typer.Option(help="Folder of EPITOME's tables, a source of text.")] = None,
    wordnet: Annotated[
        Path | None, typer.Option(help="Folder of WordNet's data.noun and so on, a source of text.")
    ] = None,
    stage: Annotated[list[str], typer.Option("--stage", help="Only this one; may be repeated. Default: all.")] = [],
    without: Annotated[
        list[str], typer.Option("--without", help="Synthesiser to leave out; may be repeated: kokoro, flite, ...")
    ] = [],
    seed: Seed = 0,
    scale: Annotated[float, typer.Option(min=0.001, max=4.0, help="Size of the build; below 1 to try it.")] = 1.0,
    hours: Annotated[
        float | None, typer.Option(min=0.001, help="Hours of training speech.", show_default="23 times the scale")
    ] = None,
    dialogues: Annotated[
        int | None, typer.Option(min=0, help="Dialogues that the LLM writes.", show_default="1600 times the scale")
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="Times each recording is disturbed, in different ways.")] = 3,
    workers: Annotated[int, more_speed(min=1, help="Processes that speak and disturb.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Write and speak the text that the small model learns words from: stages text, speech, voices, rooms,
    drawn.

    Takes some hours on one core; stopped at any moment, the same command resumes. Needs the parts (`re-llm parts get
    all`). Example:

        re-llm small build --out runs/small
    """
    from re_llm.small.build import STAGES, Job, choose_engines
    from re_llm.small.build import build as run

    job = Job(
        out, epitome, wordnet, choose_engines(without), scale, hours=hours, dialogues=dialogues, seed=seed,
        copies=copies, workers=workers,
    )  # fmt: skip
    found = run(job, stages=stage or tuple(STAGES), say=partial(typer.echo, err=True))
    if as_json:
        print_json(found)
        return
    for name, figures in found.items():
        shown = {figure: value for figure, value in figures.items() if isinstance(value, int | float)}
        typer.echo(f"{name}: " + ", ".join(f"{figure} {value}" for figure, value in shown.items()))


@app.command()
def llm(
    text: Annotated[Path, typer.Option(help="Sentences of a build: text/sentences.jsonl.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the LoRA, the merged LLM, and a report.")],
    base: Annotated[str, typer.Option(help="Chat LLM that is taught.")] = "small:llm-base",
    rows: Annotated[int, typer.Option(min=10, help="Rows of training text.")] = 12_000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step; 32 or fewer fit a laptop.")] = 32,
    lr: Annotated[float, typer.Option(min=0.0, help="Peak learning rate.")] = 1e-3,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Teach a small chat LLM to answer kindly and to the point, on text alone; OUT/llm is the component small:llm.

    About an hour on two cores, a minute on a GPU. Example:

        re-llm small llm --text runs/small/text/sentences.jsonl --out runs/small-llm
    """
    from re_llm.core.assets import resolve_component
    from re_llm.small.llm import Kindness, teach

    options = Kindness(rows=rows, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    figures = teach(
        Path(resolve_component(base)), text, out, options, device=device, say=partial(typer.echo, err=True)
    )  # fmt: skip
    typer.echo(", ".join(f"{name} {value}" for name, value in figures.items()))


@app.command("check-llm")
def check_llm(
    text: Annotated[Path, typer.Option(help="Sentences of a build: text/sentences.jsonl; the test split is asked.")],
    llm: Annotated[str, typer.Option(help="Chat LLM to ask.")] = "small:llm",
    sentences: Annotated[int, typer.Option(min=1, help="Sentences, each in five emotions.")] = 100,
    show: Annotated[int, typer.Option(min=0, help="Replies to print, drawn at random.")] = 0,
    prompt: Annotated[str, typer.Option(help="Prompt that names the emotion.")] = "cascade",
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """How kindly an LLM answers held-out sentences in five emotions: topic named, tone fits, no two replies the same.

    Example:

        re-llm small check-llm --text runs/small/text/sentences.jsonl --llm small:llm --show 10
    """
    import random

    from re_llm.small.check_replies import check

    figures, said = check(llm, text, sentences=sentences, prompt=prompt, device=device)
    if as_json:
        print_json(asdict(figures))
        return
    typer.echo(figures.summary())
    for sentence, emotion, reply in random.Random(0).sample(said, min(show, len(said))):
        typer.echo(f"{emotion}: {sentence} -> {reply}")


@app.command("check")
def check_model(
    model: Annotated[str, typer.Argument(help="Checkpoint: folder, hub id, or a name that ships.")],
    manifest: Annotated[Path, typer.Argument(help="Manifest with transcripts; labels are used where it has them.")],
    split: Annotated[str, typer.Option(help="Rows that are asked.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for what was said, a line a recording.")] = None,
    device: Device = "auto",
    as_json: JsonFlag = False,
) -> None:
    """What a speech LLM hears: word errors, words repeated by prompt, emotion by prompt and head, tone of its replies.

    Example:

        re-llm small check mini:re-llm manifest.jsonl --limit 2
    """
    from re_llm.core.records import write_records
    from re_llm.inference.engine import load
    from re_llm.small.check_speech import check_manifest, figures

    engine = load(model, device=device)
    found = check_manifest(engine, manifest, split=split, emotions=engine.emotions, limit=limit)
    if out:
        write_records(out, found)
    result = figures(found)
    if as_json:
        print_json(vars(result))
    else:
        typer.echo(result.summary())


@app.command("limit")
def limit_words(
    model: Annotated[Path, typer.Argument(help="Folder of a checkpoint; its config.json is written.")],
    manifest: Annotated[Path, typer.Argument(help="Speech of a language that it knows, by voices that it does not.")],
    split: Annotated[str, typer.Option(help="Rows that are heard: none that are tested on.")] = "dev",
    miss: Annotated[float, typer.Option(min=0.0, max=0.5, help="Fraction of them that may count as unclear.")] = 0.02,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    device: Device = "auto",
) -> None:
    """Finds from when on words count as not understood, and writes it into a checkpoint.

    The model then says so instead of answering words that were not said: to music, noise, other languages.

    Example:

        re-llm small limit runs/re-llm manifest.jsonl --split dev
    """
    from re_llm.core.files import write_json
    from re_llm.inference.engine import load
    from re_llm.small.check_speech import words_limit

    config = model / "config.json"
    found = round(words_limit(load(str(model), device=device), manifest, split=split, miss=miss, limit=limit), 3)
    about = json.loads(config.read_text(encoding="utf-8"))
    write_json(config, {**about, "words_unsure_below": found})
    typer.echo(f"words_unsure_below: {found} in {config}")
