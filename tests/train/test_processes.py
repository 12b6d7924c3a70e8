"""Two processes train what one process trains: the same losses, the same weights, every file written once."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny_world
import torch
import train_together
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from train_together import Job

from re_llm.core.assets import SOURCE_TREE
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, write_records
from re_llm.recipe.config import Components
from re_llm.recipe.options import AdapterOptions, LoraOptions, ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions, ValidationOptions
from re_llm.train import setup
from re_llm.train.plan import Plan
from re_llm.train.processes import Division, Processes
from re_llm.train.run import train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
TOGETHER = Path(train_together.__file__)
ANSWERS = {"response_ce": 1.0, "response_kl": 0.5, "input_er": 1.0, "input_er_avd": 1.0}


def stage(**changes: object) -> StageOptions:
    """Batches of two rows, two of them a step."""
    given = {
        "tasks": (
            TaskOptions(prompt="continue-speech", fraction=0.6),
            TaskOptions(prompt="recognize", target="emotion", fraction=0.4),
        ),
        "losses": ANSWERS, "lr": 5e-3, "warmup": 2, "batch_size": 2, "accumulate": 2, "epochs": 2, "save_every": 3,
        "precision": "fp32",
    }  # fmt: skip
    return StageOptions.model_validate({**given, **changes})


ONE_TASK = (TaskOptions(prompt="continue"),)
PARTED = {"batch_size": 4, "accumulate": 1}
CFORMER = {"adapter": {"kind": "cformer", "pre_layers": 1, "post_layers": 1}}
STAGES = {
    "whole batches": stage(),
    "parts of a batch": stage(**PARTED),
    "a label that counts more": stage(
        tasks=(
            TaskOptions(prompt="continue-speech", fraction=0.6),
            TaskOptions(prompt="recognize", target="emotion", fraction=0.4, weight=5.0),
        ),
        **PARTED,
    ),
    "ctc alone": stage(losses={"adapter_ctc": 1.0}, train=("adapter",)),
    "heads alone": stage(losses={"input_er": 1.0, "input_er_avd": 0.5}, train=("adapter", "heads"), **PARTED),
    "cformer": stage(losses={"input_kl": 1.0, "response_kl": 1.0, "cif": 1.0}, tasks=ONE_TASK, train=("adapter",)),
    "cformer in parts": stage(
        losses={"input_kl": 1.0, "response_kl": 1.0, "cif": 1.0}, tasks=ONE_TASK, train=("adapter",), **PARTED
    ),
    "speech encoder": stage(losses={"response_ce": 1.0}, train=("adapter", "speech_encoder"), **PARTED),
    "lora alone": stage(losses={"response_ce": 1.0}, train=("lora",)),
    "warm losses": stage(warm_losses={"input_er": 1.0}, warm_steps=2),
    "held out": stage(validation=ValidationOptions(fraction=0.3, by="row", every=1, patience=2), lr=0.05, epochs=5),
    "checkpointing": stage(losses={"response_ce": 1.0}, gradient_checkpointing=True, **PARTED),
    "encoded anew": stage(features="none"),
}

SHARDED = ("parts of a batch", "ctc alone", "held out")


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """Twelve hums of different length; nothing random beside the order of the rows."""
    root = tmp_path_factory.mktemp("processes")
    parts = Components(
        llm=str(tiny_world.save_llm(root / "llm")),
        speech_encoder=str(tiny_world.save_whisper(root / "whisper")),
        emotion_encoder=str(tiny_world.save_emotion(root / "emotion")),
    )
    rows = []
    for i in range(12):
        text = "a hum" + " on" * (i % 4)
        seconds = 1.0 + 0.1 * len(text) + 0.05 * i
        soundfile.write(root / f"{i}.wav", tiny_world.wave(seconds, i % 5), 16_000)
        vad = {"valence": (i % 5) / 5, "arousal": 0.5, "dominance": 0.5}
        known = {"instruction": "", "output": "I hum" + "m" * i, "early_stop": False, "llm": "x", "duration": seconds}
        rows.append(
            Continuation(key=str(i), corpus="h", audio=f"{i}.wav", text=text, emotion=EMOTIONS[i % 5], **known, **vad)
        )
    write_records(root / "c.jsonl", rows)

    def model(name: str, options: StageOptions) -> ModelOptions:
        joined = CFORMER if name.startswith("cformer") else {"adapter": AdapterOptions(bottleneck=16)}
        lora = LoraOptions(r=4, dropout=0.0) if "lora" in options.train else None
        fusion = "none" if name.startswith("cformer") else "pooled"
        return ModelOptions(speech_window="trimmed", lora=lora, fusion=fusion, **joined)

    return {name: Plan(parts, model(name, s), s, EMOTIONS, (root / "c.jsonl",)) for name, s in STAGES.items()}


@pytest.fixture(scope="module")
def made(plans: dict[str, Plan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every plan in one process and in two: `one/NAME`, `two/NAME`, and both orders of a changed number."""
    root = tmp_path_factory.mktemp("made")
    store, whole = root / "store", plans["whole batches"]
    jobs = [Job(plan, root / "two" / name, store) for name, plan in plans.items()]
    with train_together.stopped_at(4):
        train(whole, root / "one then two", progress=False, device="cpu")
    jobs += [Job(whole, root / "one then two"), Job(whole, root / "two then one", stop=4)]
    jobs += [Job(plans[name], root / "sharded" / name, store, sharded=True) for name in SHARDED]
    file = root / "jobs.pickle"
    file.write_bytes(pickle.dumps(jobs))
    together(file)
    for name, plan in plans.items():
        train(plan, root / "one" / name, progress=False, device="cpu", features=root / "alone")
    return root


def together(file: Path) -> None:
    path = os.pathsep.join([str(TOGETHER.parent), str(TOGETHER.parent.parent.parent)])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*launch, str(TOGETHER), str(file)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stderr[-4000:]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and first
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def assert_same_log(one: Path, two: Path) -> None:
    for before, after in zip(log(one), log(two), strict=True):
        assert before.keys() == after.keys()
        for name in before.keys() - {
            "train_runtime",
            "train_samples_per_second",
            "train_steps_per_second",
            "total_flos",
        }:
            assert after[name] == pytest.approx(before[name], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_two_processes_train_what_one_trains(made: Path, name: str) -> None:
    assert_same_weights(made / "one" / name, made / "two" / name)
    assert_same_log(made / "one" / name, made / "two" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one then two", "two then one"])
def test_a_run_goes_on_in_another_number_of_processes(made: Path, plans: dict[str, Plan], name: str) -> None:
    report = train(plans["whole batches"], made / name, progress=False, device="cpu")
    assert report.steps == 6
    assert_same_weights(made / "one" / "whole batches", made / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_a_model_that_is_shared_out_becomes_the_same(made: Path, name: str) -> None:
    assert_same_weights(made / "one" / name, made / "sharded" / name)


@pytest.mark.slow
def test_states_are_written_once(made: Path) -> None:
    lines = [line for file in (made / "store").glob("*/index.txt") for line in file.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 24  # twelve recordings, two encoders


def test_what_a_process_does_of_a_step() -> None:
    assert Division.of(stage(), 1) == Division(2, 2, parted=False)
    assert Division.of(stage(), 2) == Division(2, 1, parted=False)
    assert Division.of(stage(**PARTED), 2) == Division(2, 1, parted=True)
    assert Division.of(stage(batch_size=8, accumulate=2), 4) == Division(2, 2, parted=True)
    with pytest.raises(RellmError, match="3 processes cannot share 2 batches of 2 rows"):
        Division.of(stage(), 3)


def test_a_device_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Processes.start("cpu") == Processes(0, 1, torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RellmError, match="--device cuda:1 for several processes"):
        Processes.start("cuda:1")


def test_the_gpu_that_was_named_and_no_other(
    plans: dict[str, Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four GPUs are visible: the Trainer would take the first one, and copy the model to all."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    plan = plans["whole batches"]
    arguments = setup.training_arguments(plan, tmp_path, torch.device("cuda:1"), 12, Division.of(plan.stage, 1))
    assert arguments.device == torch.device("cuda:1") == chosen[-1]
    assert arguments.n_gpu == 1 and arguments.train_batch_size == 2


def test_too_few_rows_for_a_step(plans: dict[str, Plan]) -> None:
    few = replace(plans["whole batches"], stage=stage(batch_size=8, accumulate=2)).stage
    with pytest.raises(RellmError, match="12 rows are less than one step of 16, which 2 processes share"):
        setup._refuse_few_rows(12, few, Processes(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_the_shipped_configs_are_read_by_accelerate(name: str) -> None:
    file = SOURCE_TREE / "recipes" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(file))
    assert config.num_processes == 8 and config.mixed_precision == "no"
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}[name]
