"""Commands of the stages behind `prepare`: continue, train, report, reproduce; and convert."""

from __future__ import annotations

from collections.abc import Mapping
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
    OverwriteFlag,
    RayAddress,
    Seed,
    more_loading,
    more_records,
    more_speed,
    overwriting,
    print_report,
)
from re_llm.cli.servers import Concurrency, KeyEnv, Rate, Server, ServerModel, Timeout, Tries, chat_server
from re_llm.cluster.engines import Where
from re_llm.core.errors import RellmError
from re_llm.core.workers import refuse_several

if TYPE_CHECKING:
    from re_llm.continuations.dialogues import Dialogues
    from re_llm.llm.server import ChatServer
    from re_llm.recipe.config import Recipe
    from re_llm.recipe.emotion import EmotionRecipe
    from re_llm.recipe.options import ModelOptions
    from re_llm.recipe.stages import StageOptions

NAME_AN_LLM = "Name the LLM: --llm NAME, or --server URL --model NAME"
_shard = partial(typer.Option, rich_help_panel="More: parts of the work")
_turns = partial(typer.Option, rich_help_panel="More: dialogues")

Tokens = Annotated[
    str, more_loading(help="`pieces`: instruction and transcript apart, as in training; `joined`: as servers do.")
]
Shard = Annotated[str, _shard(metavar="I/N", help="Answer part I (from 0) of N; `continue-merge` joins the files.")]
Chunk = Annotated[int, _shard(min=1, help="Rows between two writes: what a kill can cost, and the unit of a shard.")]
Turns = Annotated[
    int | None,
    _turns("--dialogues", min=2, max=16, metavar="TURNS", help="Put up to TURNS - 1 drawn turns before a transcript."),
]
Answers = Annotated[Path | None, _turns(help="Continuations of the same manifest that answer the drawn turns.")]


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
    tokens: Tokens = "pieces",
    shard: Shard = "0/1",
    chunk: Chunk = 256,
    dialogues: Turns = None,
    answers: Answers = None,
    server: Server = None,
    model: ServerModel = None,
    concurrency: Concurrency = 32,
    rate: Rate = None,
    timeout: Timeout = 120.0,
    tries: Tries = 8,
    key_env: KeyEnv = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Let the LLM continue every transcript: the targets of training.

    Examples:

        re-llm continue manifest.jsonl --out continuations.jsonl --llm Qwen/Qwen2.5-7B-Instruct

        re-llm continue manifest.jsonl --out c.jsonl --server http://127.0.0.1:8000/v1 --model Qwen2.5-7B-Instruct
    """
    from re_llm.continuations import continue_manifest

    where = Where(engine, ray_address)
    local = {"--llm": llm, "--device": device != "auto", "--dtype": dtype != "auto", "--tokens": tokens != "pieces"}
    _refuse_options(server, local, {"--model": model, "--rate": rate, "--key-env": key_env})
    if server and model:
        chosen: str | ChatServer = chat_server(server, model, concurrency, rate, timeout, tries, key_env)
    elif llm and not server:
        chosen = llm
    else:
        raise RellmError("no LLM is named", todo=NAME_AN_LLM)
    with where.connect() as cluster:
        report = continue_manifest(
            manifest, out, llm=chosen, prompt=prompt, splits=split, batch_size=batch_size,
            max_new_tokens=max_new_tokens, device=device, dtype=dtype, tokens=tokens, shard=shard, chunk=chunk,
            dialogues=_dialogues(dialogues, answers), cluster=cluster, overwrite=overwriting(overwrite),
        )  # fmt: skip
    print_report(report, as_json)


def _dialogues(turns: int | None, answers: Path | None) -> Dialogues | None:
    from re_llm.continuations.dialogues import Dialogues
    from re_llm.recipe.stages import DialogueOptions

    if (turns is None) != (answers is None):
        raise RellmError("--dialogues and --answers go together", todo="Give both, or neither")
    return Dialogues(DialogueOptions(turns=turns), answers) if turns and answers else None


def _refuse_options(server: str | None, local: Mapping[str, object], remote: Mapping[str, object]) -> None:
    """Raises a RellmError for an option of a local LLM beside --server, or of a server without it."""
    for name, given in (local if server else remote).items():
        if given:
            owner = "a model of this machine, and --server is given" if server else "--server, which is not given"
            raise RellmError(f"{name} is an option of {owner}", todo=NAME_AN_LLM)


def continue_merge(
    manifest: Annotated[Path, typer.Argument(help="The manifest that the shards were made from.")],
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD...", help="Files of `continue --shard`, all of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The continuations.jsonl to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Join the shards of `continue` into one file.

    No row of the manifest's shards may be missing.

    Example:

        re-llm continue-merge manifest.jsonl c.0.jsonl c.1.jsonl --out continuations.jsonl
    """
    from re_llm.continuations import merge_shards

    print_report(merge_shards(manifest, shards, out), as_json)


Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        help="continuations.jsonl; manifests where no answer is read (CTC, donors, unanswered, emotion encoders); "
        "may be repeated.",
    ),
]

Stage = Annotated[
    str | None, typer.Option(help="Stage of the recipe to train; of an emotion encoder: encoder or folds.")
]
Start = Annotated[
    str | None, typer.Option(help="Checkpoint to continue from, when the stage starts from another stage.")
]
TrainedSystem = Annotated[
    str | None, typer.Option(help="Train the stage as this system of the recipe changes it (ablations).")
]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: file, or name of a shipped one.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder; a second run goes on where it ended.")],
    stage: Stage = None,
    start: Start = None,
    system: TrainedSystem = None,
    features: Annotated[Path | None, typer.Option(help="Folder of cached encoder states, to use or fill.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    keep_checkpoints: Annotated[
        bool, more_records("--keep-checkpoints", help="Keep what a resume would need.")
    ] = False,
    loaders: Annotated[
        int | None, more_speed(min=0, help="Processes that make batches ahead; 4 for a GPU, none on a CPU.")
    ] = None,
    track: Annotated[
        Literal["tensorboard"] | None, more_records(help="Write the curves to OUT/tensorboard too.")
    ] = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overrides: Overrides = [],
    overwrite: OverwriteFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train one stage of a recipe, or an emotion encoder.

    A stage trains on continuations, an emotion encoder on labelled recordings.

    A complete checkpoint of the same data, models and options stays as it is; another one is refused.

    Examples:

        re-llm train re_llm --stage finetune --data continuations.jsonl --out runs/finetune

        re-llm train emotion --data ravdess.jsonl --data emodb.jsonl --out encoders/mine
    """
    from re_llm.continuations.identity import doubts
    from re_llm.core.workers import is_first
    from re_llm.recipe.emotion import EmotionRecipe
    from re_llm.recipe.files import load_any, parse_overrides

    where = Where(engine, ray_address)
    chosen = load_any(recipe, parse_overrides(overrides))
    if isinstance(chosen, EmotionRecipe):
        given = {
            "--start": start,
            "--system": system,
            "--track": track,
            "--loaders": loaders,
            "--engine": where.engine != "local",
        }
        _train_emotion(chosen, data, out, stage or "encoder", features, seed, device, overwrite, given, as_json)
        return
    model, options = _stage(chosen, stage, system)
    begin = _start(chosen, options, start)
    for path in data:
        for doubt in doubts(path, chosen.components.llm):
            typer.echo(doubt, err=True)
    from re_llm.train.plan import Plan
    from re_llm.train.run import train as run

    plan = Plan(chosen.components, model, options, chosen.emotions, tuple(data), begin, seed)
    report = run(
        plan, out, overwrite=overwriting(overwrite), features=features, device=device,
        keep_checkpoints=keep_checkpoints, loaders=loaders, where=where, track=track,
    )  # fmt: skip
    if is_first():
        print_report(report, as_json)


def _train_emotion(
    recipe: EmotionRecipe,
    data: list[Path],
    out: Path,
    stage: str,
    states: Path | None,
    seed: int,
    device: str,
    overwrite: bool,
    foreign: Mapping[str, object],
    as_json: bool,
) -> None:
    for name, given in foreign.items():
        if given:
            raise RellmError(f"{name} is no option of an emotion encoder's training", todo="Leave it out")
    refuse_several("the training of an emotion encoder")
    from re_llm.train.emotion.run import train_emotion

    report = train_emotion(
        recipe, data, out, stage=stage, states=states, seed=seed, device=device, overwrite=overwriting(overwrite),
        say=partial(typer.echo, err=True),
    )  # fmt: skip
    print_report(report, as_json)


def _stage(recipe: Recipe, stage: str | None, system: str | None) -> tuple[ModelOptions, StageOptions]:
    """Options of a stage, as the recipe has it or as one of its systems changes it."""
    if stage is None:
        raise RellmError("--stage is missing", allowed=", ".join(recipe.stages))
    if stage not in recipe.stages:
        raise RellmError(f"recipe {recipe.name} has no stage {stage!r}", allowed=", ".join(recipe.stages))
    if system is None:
        return recipe.model_of(recipe.stages[stage]), recipe.stages[stage]
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


def reproduce(
    recipe: Annotated[str, typer.Argument(help="A recipe: file, or name of a shipped one.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/NAME.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Stop after: world, prepare, continue, train, respond or score.")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="Convert parts in formats of the original systems first.")
    ] = False,
    overrides: Overrides = [],
    as_json: JsonFlag = False,
) -> None:
    """Run every stage of a recipe, skipping what is complete.

    What was made with another recipe or from other files is made again, and so is what depends on it.

    Example:

        re-llm reproduce mini --out runs/mini
    """
    from re_llm.pipeline.reproduce import reproduce as run
    from re_llm.recipe.files import load_recipe, parse_overrides

    refuse_several("reproduce")
    chosen = load_recipe(recipe, parse_overrides(overrides))
    place, say = out or Path("runs") / chosen.name, partial(typer.echo, err=True)
    done = run(chosen, place, say=say, until=until, convert=convert)
    print_report(done, as_json)


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, GGUF file, or hub id.")],
    place: Annotated[
        Path | None, typer.Argument(metavar="DST", help="Folder to write; it must not exist, or be empty.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The same, as the other stages name it.")] = None,
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
    """Convert released checkpoints, Whisper of CTranslate2, GGUF.

    BLSP-Emo and RE-LLM become checkpoints of this package; `--to blsp-emo` is the way back. Qwen 1, faster-whisper's
    folders and chat LLMs in GGUF files (extra small) become folders of transformers.

    Examples:

        re-llm convert downloads/blsp-emo checkpoints/blsp-emo

        re-llm convert downloads/SmolLM2-135M-Instruct-Q4_1.gguf --out smollm2
    """
    from re_llm.model.convert.run import convert as run

    target = place or out
    if target is None or (place and out):
        raise RellmError("convert writes one folder", todo="Name it: re-llm convert SRC DST, or --out DST")
    made = run(source, target, to=to, emotion_encoder=emotion_encoder, tokenizer=tokenizer)
    print_report(made, as_json)
