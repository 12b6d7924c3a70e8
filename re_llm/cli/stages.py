"""Commands of the way from corpora to report: prepare, continue, train, report, reproduce, convert."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from re_llm.cli.common import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    JsonFlag,
    Overrides,
    RayAddress,
    Seed,
    print_json,
    print_report,
)
from re_llm.cluster.engines import Where
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    from re_llm.llm.server import ChatServer
    from re_llm.recipe.config import ModelOptions, Recipe, StageOptions

_WHO = "Name who continues: --llm NAME, or --server URL --model NAME"


def continue_(
    manifest: Annotated[Path, typer.Argument(help="manifest.jsonl, as `re-llm prepare` writes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="continuations.jsonl; a second run goes on where it ended.")],
    llm: Annotated[
        str | None, typer.Option(help="Chat LLM, the one that will be trained on: folder, hub id, or mini:llm.")
    ] = None,
    prompt: Annotated[
        str, typer.Option(help="Id of the prompt: continue, continue-emotion, continue-emotion-code, ...")
    ] = "continue-emotion",
    split: Annotated[list[str], typer.Option("--split", help="Splits to continue; may be repeated.")] = ["train"],
    batch_size: BatchSize = 32,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of a continuation, in tokens.")] = 48,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokens: Annotated[
        str, typer.Option(help="`pieces`: instruction and transcript apart, as in training; `joined`: as servers do.")
    ] = "pieces",
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Answer part I (from 0) of N; `continue-merge` joins the files.")
    ] = "0/1",
    chunk: Annotated[
        int, typer.Option(min=1, help="Rows between two writes: what a kill can cost, and the unit of a shard.")
    ] = 256,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="OpenAI-compatible server instead of --llm: http://HOST:PORT/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model at the server.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the server at once.")] = 32,
    rate: Annotated[float | None, typer.Option(help="Requests a minute, at most.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 120.0,
    tries: Annotated[int, typer.Option(min=1, help="How often a row is asked before the run stops.")] = 8,
    key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable with the server's key: OPENAI_API_KEY, ...")
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Let the LLM continue every transcript: the targets of training.

    Example:

        re-llm continue manifest.jsonl --out continuations.jsonl --llm Qwen/Qwen2.5-7B-Instruct

        re-llm continue manifest.jsonl --out c.jsonl --server http://127.0.0.1:8000/v1 --model Qwen2.5-7B-Instruct
    """
    from re_llm.continuations import continue_manifest

    where = Where(engine, ray_address)
    own = {"--llm": llm, "--device": device != "auto", "--dtype": dtype != "auto", "--tokens": tokens != "pieces"}
    foreign = {"--model": model, "--rate": rate, "--key-env": key_env}
    for name, given in (own if server else foreign).items():
        if given:
            other = "a model of this machine, and --server is given" if server else "--server, which is not given"
            raise RellmError(f"{name} is an option of {other}", todo=_WHO)
    asked: str | ChatServer
    if server and model:
        from re_llm.llm.server import ChatServer
        from re_llm.llm.server_options import ServerOptions, key_from

        asked = ChatServer(ServerOptions(server, model, concurrency, rate, timeout, tries, key=key_from(key_env)))
    elif llm and not server:
        asked = llm
    else:
        raise RellmError("no LLM is named", todo=_WHO)
    with where.connect() as cluster:
        report = continue_manifest(
            manifest, out, llm=asked, prompt=prompt, splits=split, batch_size=batch_size,
            max_new_tokens=max_new_tokens, device=device, dtype=dtype, tokens=tokens, shard=shard, chunk=chunk,
            cluster=cluster,
        )  # fmt: skip
    print_report(report, as_json)


def continue_merge(
    manifest: Annotated[Path, typer.Argument(help="The manifest that the shards were made from.")],
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD...", help="Files of `continue --shard`, all of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The continuations.jsonl to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Join the shards of `continue` into one file.

    None of the rows that they were asked for may be missing.

    Example:

        re-llm continue-merge manifest.jsonl c.0.jsonl c.1.jsonl --out continuations.jsonl
    """
    from re_llm.continuations import merge_shards

    print_report(merge_shards(manifest, shards, out), as_json)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: file, or name of a shipped one.")],
    stage: Annotated[str, typer.Option(help="Stage of the recipe to train.")],
    data: Annotated[list[Path], typer.Option("--data", help="continuations.jsonl; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder; a second run goes on where it ended.")],
    start: Annotated[
        str | None, typer.Option(help="Checkpoint to continue from, when the stage starts from another stage.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Train the stage as this system of the recipe changes it (ablations).")
    ] = None,
    features: Annotated[Path | None, typer.Option(help="Folder of cached encoder states, to use or fill.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep what a resume would need.")
    ] = False,
    track: Annotated[
        Literal["tensorboard"] | None, typer.Option(help="Write the curves to OUT/tensorboard too.")
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overrides: Overrides = [],
    as_json: JsonFlag = False,
) -> None:
    """Train one stage of a recipe on continuations.

    Example:

        re-llm train re_llm --stage finetune --data continuations.jsonl --out runs/finetune
    """
    from re_llm.core.provenance import read_sidecar
    from re_llm.recipe.files import load_recipe, parse_overrides

    where = Where(engine, ray_address)
    chosen = load_recipe(recipe, parse_overrides(overrides))
    model, options = _stage(chosen, stage, system)
    begin = _start(chosen, options, start)
    missing = next((path for path in data if not path.is_file()), None)
    if missing:
        raise RellmError(f"no such file: {missing}", todo="Write it with: re-llm continue MANIFEST --out FILE")
    for path in data:
        side = read_sidecar(path)
        if side is not None and not side.get("complete"):
            typer.echo(f"{path} is unfinished: its `re-llm continue` ended early; training on what is there", err=True)
    from re_llm.train.run import Plan
    from re_llm.train.run import train as run

    plan = Plan(chosen.components, model, options, chosen.emotions, tuple(data), begin, seed)
    report = run(
        plan, out, features=features, device=device, keep_checkpoints=keep_checkpoints, where=where, track=track
    )
    print_report(report, as_json)


def _stage(recipe: Recipe, stage: str, system: str | None) -> tuple[ModelOptions, StageOptions]:
    """Options of a stage, as the recipe has it or as one of its systems changes it."""
    from re_llm.recipe.config import ModelOptions

    if stage not in recipe.stages:
        raise RellmError(f"recipe {recipe.name} has no stage {stage!r}", allowed=", ".join(recipe.stages))
    if system is None:
        options = recipe.stages[stage]
        changed = {**recipe.model.model_dump(exclude_unset=True), **options.model}
        return ModelOptions.model_validate(changed), options
    trained = [name for name, each in recipe.systems.items() if each.stage == stage]
    if system not in trained:
        raise RellmError(f"no system {system!r} trains stage {stage!r}", allowed=", ".join(trained) or "none")
    return recipe.model_for(recipe.systems[system]), recipe.stage_for(recipe.systems[system])


def _start(recipe: Recipe, stage: StageOptions, start: str | None) -> str | None:
    """Checkpoint that the stage continues from; None for a fresh adapter on the components."""
    begin = start or stage.start
    if begin in recipe.stages:
        raise RellmError(f"this stage starts from the stage {begin!r}", todo="Give its checkpoint: --start FOLDER")
    return None if begin == "components" else begin


def report(
    scores: Annotated[list[Path], typer.Argument(help="scores.jsonl of one or more systems.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")],
    replies: Annotated[
        list[Path],
        typer.Option("--replies", help="The replies that were scored: audits and examples; may be repeated."),
    ] = [],
    baseline: Annotated[str | None, typer.Option(help="System that the others are tested against.")] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Report",
    as_json: JsonFlag = False,
) -> None:
    """Write tables, significance tests and a case study.

    Example:

        re-llm report scores.jsonl --replies replies.jsonl --out report --baseline blsp-emo-ft
    """
    from re_llm.core.provenance import provenance
    from re_llm.report.write import write_report

    made = provenance(inputs=[*scores, *replies])
    page = write_report(scores, replies, out, baseline=baseline, title=title, provenance=made)
    if as_json:
        print_json({"report": page})
    else:
        typer.echo(f"report: {page}")


def reproduce(
    recipe: Annotated[str, typer.Argument(help="A recipe: file, or name of a shipped one.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/NAME.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Stop after: world, prepare, continue, train, respond or score.")
    ] = None,
    overrides: Overrides = [],
    as_json: JsonFlag = False,
) -> None:
    """Run every stage of a recipe, skipping what is complete.

    Example:

        re-llm reproduce mini --out runs/mini
    """
    from re_llm.pipeline.reproduce import reproduce as run
    from re_llm.recipe.files import load_recipe, parse_overrides

    chosen = load_recipe(recipe, parse_overrides(overrides))
    done = run(chosen, out or Path("runs") / chosen.name, say=partial(typer.echo, err=True), until=until)
    print_report(done, as_json)


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Released checkpoint or Qwen 1: folder or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist, or be empty.")],
    to: Annotated[
        str | None, typer.Option(help="re-llm, or blsp-emo for the way back. Default: what the source is not.")
    ] = None,
    emotion_encoder: Annotated[
        str | None, typer.Option(help="RE-LLM's emotion encoder, folder or hub id, when it is not audeering's own.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder with qwen.tiktoken or tokenizer.json, when the source has neither.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Convert released checkpoints: BLSP-Emo, RE-LLM, Qwen 1.

    They become checkpoints of this package; `--to blsp-emo` is the way back.

    Example:

        re-llm convert downloads/blsp-emo checkpoints/blsp-emo
    """
    from re_llm.model.convert.run import convert as run

    made = run(source, out, to=to, emotion_encoder=emotion_encoder, tokenizer=tokenizer)
    print_report(made, as_json)
