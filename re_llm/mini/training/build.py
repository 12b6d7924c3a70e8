"""`re-llm mini build`: makes the whole miniature from nothing; resumable, gated, and written down.

OUT/world         corpora in their genuine layouts
OUT/parts/NAME    llm, whisper, emotion: the components
OUT/run           the speech LLMs, made by the recipe mini_components through the ordinary stages
OUT/assets        what ships: the components, blsp-emo, re-llm, recordings, build.json
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.files import lock
from re_llm.core.product import read_sidecar
from re_llm.core.provenance import git_revision, provenance
from re_llm.inference.transcribe import FIXED
from re_llm.mini.training.component import METRICS, Wanted
from re_llm.pipeline.reproduce import reproduce
from re_llm.recipe.files import load_recipe

Log = Callable[[str], None]
MAX_ASSET_BYTES = 25 * 2**20
CORPORA = ("speech", "msp_podcast", "iemocap", "esd")
COMPONENTS = ("llm", "whisper", "emotion")
CHECKPOINTS = {"emotion": "blsp-emo", "re_llm": "re-llm"}  # stage of the recipe -> name it ships under


def train_parts(out: Path, world: Path, *, seed: int, say: Log) -> None:
    """Trains the three components, each on one core: Whisper beside the LLM and then the emotion encoder.

    Raises:
        RellmError: a training failed or missed its gate; names its log.
    """
    stop = threading.Event()

    def work(names: Sequence[str]) -> None:
        try:
            for name in names:
                if not stop.is_set():
                    _train_part(name, out, world, seed, say, stop)
        except BaseException:
            stop.set()  # the other queue need not go on for an hour
            raise

    with ThreadPoolExecutor(2) as pool:
        queues = [pool.submit(work, names) for names in (("whisper",), ("llm", "emotion"))]
        try:
            for queue in as_completed(queues):
                queue.result()
        finally:
            stop.set()


def _train_part(name: str, out: Path, world: Path, seed: int, say: Log, stop: threading.Event) -> None:
    folder, log = out / "parts" / name, out / "parts" / f"{name}.log"
    if _is_complete(name, folder, _wanted(name, world, seed), say):
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    say(f"{name}: training, log in {log}")
    begin = time.monotonic()
    module = f"re_llm.mini.training.{name}"
    command = [sys.executable, "-m", module, "--out", str(folder), "--seed", str(seed)]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command if name == "llm" else [*command, "--world", str(world)],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while process.poll() is None:
            if stop.wait(1):
                process.terminate()
                process.wait()
                return
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise RellmError(f"training {name} failed: {' '.join(last)}", todo=f"Read {log}")
    say(f"{name}: done in {(time.monotonic() - begin) / 60:.1f} min")


def _wanted(name: str, world: Path, seed: int) -> Wanted:
    module = import_module(f"re_llm.mini.training.{name}")
    return Wanted(module.default_plan(seed=seed), module.default_settings(world, seed))


def _is_complete(name: str, folder: Path, wanted: Wanted, say: Log) -> bool:
    """Whether the component need not be trained. What was made from something else is moved aside, and it says why."""
    found = wanted.look(folder)
    if found.why:
        aside = folder.with_name(f"{name}.outdated")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"{name}: made again, since {'; '.join(found.why)}. The earlier one is in {aside}")
        return False
    unsure = f", not compared, since it does not tell: {', '.join(found.unknown)}" if found.unknown else ""
    if found.complete or unsure:
        say(f"{name}: {'complete' if found.complete else 'goes on from its training state'}{unsure}")
    return found.complete


def revisions(out: Path) -> dict[str, list[str | None]]:
    """Commits that the components and the checkpoints of a build were made at, one for each piece of a run."""
    found: dict[str, list[str | None]] = {}
    for name in COMPONENTS:
        metrics = _read(out / "parts" / name / METRICS)
        found[name] = [*(piece["revision"] for piece in metrics.get("earlier", [])), metrics["revision"]]
    for folder in sorted(path.parent for path in (out / "run" / "checkpoints").glob("*/report.json")):
        found[f"stage {folder.name}"] = [run.get("revision") for run in (read_sidecar(folder) or {"runs": []})["runs"]]
    return {name: list(dict.fromkeys(pieces)) for name, pieces in found.items()}


def _check_revisions(found: Mapping[str, Sequence[str | None]]) -> None:
    here = git_revision()  # None in an installed package, whose parts have none either
    changed = [
        f"{name} at {piece or 'an unknown commit'}"
        for name, pieces in found.items()
        for piece in pieces or [None]
        if (piece or "").endswith("+") or (piece is None and here is not None)
    ]
    if changed:
        raise RellmError(
            f"made from a source tree with changes that no commit holds: {', '.join(changed)}",
            todo="Remove their folders, to make them again, or give --allow-changes for a build that is not shipped",
        )


def package(out: Path) -> Path:
    """Collects what ships into `OUT/assets`, anew; checkpoints name their components by relative paths.

    Raises:
        RellmError: it is larger than what may ship.
    """
    from re_llm.mini.recordings import pick, ship

    assets = out / "assets"
    shutil.rmtree(assets, ignore_errors=True)
    for name in COMPONENTS:
        _copy_model(out / "parts" / name, assets / name)
    for stage, name in CHECKPOINTS.items():
        _ship_checkpoint(out / "run" / "checkpoints" / stage, assets / name)
    corpora = out / "run" / "corpora"
    ship(pick(corpora / "esd" / "manifest.jsonl", corpora / "iemocap" / "manifest.jsonl"), assets / "recordings")
    size = sum(f.stat().st_size for f in assets.rglob("*") if f.is_file())
    if size > MAX_ASSET_BYTES:
        raise RellmError(f"the miniature takes {size / 2**20:.1f} MB", allowed=f"{MAX_ASSET_BYTES / 2**20:.0f} MB")
    return assets


def _copy_model(source: Path, target: Path) -> None:
    """Model, tokenizer and configuration files; no training state. Weights in half precision.

    Whisper's fixed positions are left out: whoever loads it makes them.
    """
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in {".json", ".jinja", ".txt"} and file.name != METRICS:
            shutil.copy2(file, target / file.name)
    weights = {name: tensor.half() for name, tensor in load_file(source / "model.safetensors").items() if name != FIXED}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, "dtype": "float16"}, indent=2) + "\n", encoding="utf-8")


def _ship_checkpoint(source: Path, target: Path) -> None:
    """Writes a checkpoint again in half precision, its components named relative to the assets folder."""
    import torch

    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import ReLlmProcessor

    model = ReLlmForConditionalGeneration.from_pretrained(source, dtype=torch.float16)
    parts = target.parent
    names = {"llm": "llm", "speech_encoder": "whisper", "emotion_encoder": "emotion"}
    for component, folder in names.items():
        if model.component_sources.get(component):
            model.component_sources[component] = str((parts / folder).resolve())
    model.save_pretrained(target)
    ReLlmProcessor.from_pretrained(source).save_pretrained(target)
    _relative(source / "report.json", target / "report.json", source.parents[2])


def _relative(source: Path, target: Path, out: Path) -> None:
    """Copies a text that names files of the build, whose folder nobody else has."""
    text = source.read_text(encoding="utf-8")
    target.write_text(text.replace(f"{out.resolve()}{os.sep}", ""), encoding="utf-8")


def build(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    scale: float = 1.0,
    allow_changes: bool = False,
    say: Log = lambda line: None,
) -> Path:
    """Makes the miniature: world, components, speech LLMs, package. Returns the folder of what ships.

    Args:
        scale: size of the world; below 1 for trying the build itself.
        allow_changes: build although the source tree has changes that no commit holds.

    Raises:
        RellmError: a gate was missed (word error rate, right topic under disturbance, V/A/D concordance), espeak-ng
            is not installed, the source tree has changes or had some when a part was made, or another process builds.
    """
    if not allow_changes and (git_revision() or "").endswith("+"):
        raise RellmError(
            "the source tree has changes that no commit holds: nobody could make this build again",
            todo="Commit them, or give --allow-changes for a build that is not shipped",
        )
    out = Path(out)
    with lock(out, folder=True):
        _build(out, seed, scale, allow_changes, say)
    return out / "assets"


def _build(out: Path, seed: int, scale: float, allow_changes: bool, say: Log) -> None:
    from re_llm.mini.layouts import write_world

    world = out / "world" / f"x{scale:g}"
    say("== world")
    if any("takes" not in summary for summary in write_world(world, seed=seed, scale=scale).values()):
        say("world: its sentences and voices are not compared, since its markers do not tell them")
    say("== components")
    train_parts(out, world, seed=seed, say=say)
    if not allow_changes:
        _check_revisions(revisions(out))  # before the speech LLMs are trained
    recipe = load_recipe("mini_components.yaml", {"seeds": [seed], **{f"corpora.{c}.scale": scale for c in CORPORA}})
    os.environ["RE_LLM_MINI"] = str((out / "parts").resolve())
    say("== speech LLMs")
    reproduce(recipe, out / "run", world=out / "world", world_seed=seed, say=say)
    say("== package")
    made_at = revisions(out)
    if not allow_changes:
        _check_revisions(made_at)
    package(out)
    _write_down(out, world, seed, made_at)


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _write_down(out: Path, world: Path, seed: int, made_at: Mapping[str, Sequence[str | None]]) -> None:
    """`build.json`: what the build took, the commits that made each part, and how good the parts are.

    The seconds come from what each part wrote about itself, so that they hold for a build made in several runs.
    """

    metrics = {name: _read(out / "parts" / name / METRICS) for name in COMPONENTS}
    trained = {
        folder.parent.name: _read(folder) for folder in sorted((out / "run" / "checkpoints").glob("*/report.json"))
    }
    seconds = {
        "world": sum(_read(file)["seconds"] for file in (world / "done").glob("*.json")),
        **{name: metrics[name]["seconds"] for name in COMPONENTS},
        **{f"stage {name}": report["seconds"] for name, report in trained.items()},
    }
    record = {
        **provenance(seed=seed),
        "revisions": dict(made_at),
        "seconds": {name: round(value) for name, value in seconds.items()},
        "components": metrics,
        "checkpoints": {name: trained[stage] for stage, name in CHECKPOINTS.items()},
    }
    written = out / "assets" / "build.json"
    written.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _relative(written, written, out)
