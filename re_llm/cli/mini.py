"""`re-llm mini`: makes the miniature world and what is trained on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from re_llm.cli.common import (
    Command,
    JsonFlag,
    OverwriteFlag,
    Seed,
    overwriting,
    print_json,
    print_report,
    print_result,
)

app = typer.Typer(
    no_args_is_help=True,
    help="Make the miniature: synthetic corpora, small components, a small RE-LLM. Needs the extra `mini`.",
    short_help="Make the miniature: corpora, components, a small RE-LLM.",
)

Scale = Annotated[float, typer.Option(min=0.001, max=2.0, help="Size of the world; below 1 to try things out.")]


@app.command(cls=Command)
def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the build; a second run resumes.")],
    seed: Seed = 0,
    scale: Scale = 1.0,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Build although the source tree has uncommitted changes.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make everything that ships from nothing: world, LLM, Whisper, emotion encoder, BLSP-Emo, RE-LLM.

    Takes about two hours on two CPU cores. Example:

        re-llm mini build --out runs/build
    """
    from re_llm.mini.training.build import build as run

    assets = run(out, seed=seed, scale=scale, allow_changes=allow_changes, say=partial(typer.echo, err=True))
    print_result({"assets": assets}, [f"built: {assets}; use it with RE_LLM_MINI={assets}"], as_json)


@app.command(cls=Command)
def world(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the corpora into.")],
    corpus: Annotated[list[str], typer.Option("--corpus", help="Only this one; may be repeated. Default: all.")] = [],
    seed: Seed = 0,
    scale: Scale = 1.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that synthesise.")] = 2,
    as_json: JsonFlag = False,
) -> None:
    """Write the synthetic corpora in the genuine layouts of IEMOCAP, ESD, MSP-Podcast and Common Voice.

    Example:

        re-llm mini world --out world --corpus esd
    """
    from re_llm.mini.layouts import CORPORA, write_world

    found = write_world(out, seed=seed, scale=scale, workers=workers, corpora=corpus or CORPORA)
    sizes = {name: f"{each['recordings']} recordings, {each['hours']:.1f} h" for name, each in found.items()}
    print_result(found, (f"{name}: {size}, in {out / name}" for name, size in sizes.items()), as_json)


@app.command(cls=Command)
def quality(
    replies: Annotated[list[Path], typer.Argument(help="replies.jsonl of the miniature's corpora; may be several.")],
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Say how often replies name the right topic and fit the emotion: both can be read off in the miniature world.

    And their levels of empathy as they were written, beside those of the small scorer.

    Example:

        re-llm mini quality runs/mini/replies/esd/re-llm.0.jsonl
    """
    from dataclasses import asdict

    from re_llm.core.records import ReplyRecord, read_records
    from re_llm.mini.levels import compare_levels
    from re_llm.mini.quality import quality as rates_of

    found = {str(path): rates_of(read_records(path, ReplyRecord), seed=seed) for path in replies}
    levels = {str(path): compare_levels(read_records(path, ReplyRecord)) for path in replies}
    if as_json:
        print_json({name: {**asdict(result), "levels": asdict(levels[name])} for name, result in found.items()})
        return
    for name, result in found.items():
        for group, rates in (("all", result), *result.by_words.items()):
            named = "" if rates.named_emotion is None else f", UA by prompt {rates.named_emotion:.3f}"
            line = f"{rates.replies} replies, right topic {rates.topic:.3f}, tone UA {rates.tone:.3f}{named}"
            typer.echo(f"{name}, {group}: {line}")
        if result.of_five:
            five = ", ".join(f"{count} with {fits}" for fits, count in enumerate(result.of_five) if count)
            typer.echo(f"{name}, one voice, one sentence, five emotions: replies that fit: {five}")
        if result.voices_agree is not None:
            typer.echo(f"{name}, two voices, one sentence, one emotion: the same tone {result.voices_agree:.3f}")
        if result.unplaced:
            typer.echo(f"{name}: {result.unplaced} utterances are not of this world")
        for mechanism, each in levels[name].mechanisms.items():
            kappa = "none"
            if each.kappa is not None and each.interval:
                kappa = f"{each.kappa:.2f} [{each.interval[0]:.2f}, {each.interval[1]:.2f}]"
            toned = "" if each.gold_right_tone is None else f" ({each.gold_right_tone:.2f} in the right tone alone)"
            typer.echo(
                f"{name}, {mechanism}: as written {each.gold:.2f}{toned}, small scorer {each.scorer:.2f}, "
                f"the same level {each.accuracy:.3f}, quadratic kappa {kappa}"
            )
        typer.echo(f"{name}: {levels[name].others} replies are none of this world's, word for word")


@app.command(cls=Command)
def gold(
    replies: Annotated[list[Path], typer.Argument(help="replies.jsonl of the miniature's corpora; may be several.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of gold levels, for `re-llm report --gold`.")],
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Write the levels of empathy that replies of the miniature were written with.

    Example:

        re-llm mini gold runs/mini/replies/esd/re-llm.0.jsonl --out gold.jsonl
    """
    from re_llm.core.files import existing
    from re_llm.mini.levels import write_gold

    print_report(write_gold([existing(path) for path in replies], out, overwrite=overwriting(overwrite)), as_json)


@app.command(cls=Command)
def conversations(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, or mini:re-llm.")],
    manifest: Annotated[Path, typer.Argument(help="manifest.jsonl of a corpus of the miniature.")],
    split: Annotated[str, typer.Option(help="Split of voices that the model has not heard.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Conversations of six turns.")] = 80,
    seed: Seed = 0,
    as_json: JsonFlag = False,
) -> None:
    """Hold conversations of six turns: does a reply fit its own turn, and is the first turn remembered?

    Example:

        re-llm mini conversations mini:re-llm runs/mini/corpora/esd/manifest.jsonl
    """
    from dataclasses import asdict

    from re_llm.core.records import Utterance, read_records
    from re_llm.inference import engine
    from re_llm.mini.conversations import converse

    rows = [row for row in read_records(manifest, Utterance) if row.split == split]
    found = converse(engine.load(model), rows, manifest.parent, count=count, seed=seed)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(f"{found.conversations} conversations of {found.voices} voices, fractions with 95 % intervals")
    named = {
        "a reply fits its recording, as a first turn": found.first_fits,
        "the same recording as a second turn": found.second_fits,
        "difference": found.second_less_first,
        "the second reply fits the first turn's emotion": found.second_keeps,
        **{f"turn {turn}: right topic": rate for turn, rate in enumerate(found.topics, 1)},
        **{f"turn {turn}: a whole reply": rate for turn, rate in enumerate(found.whole, 1)},
        **found.asked,
    }
    for name, rate in named.items():
        typer.echo(f"{name}: {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]")
