"""A killed run goes on to the same weights, a complete one stays, and another one is refused by its content."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
import torch
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite, read_sidecar
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.train import run, setup
from re_llm.train.plan import Plan
from re_llm.train.run import train

Dies = Callable[[Plan, Path, int], None]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "adapter_model.safetensors")}


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def steps(out: Path) -> list[int]:
    """Steps of the log, the closing line left out."""
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry["step"] for entry in entries if "train_runtime" not in entry]


@pytest.fixture
def copied(plan: Plan, tmp_path: Path) -> Plan:
    """The plan with rows and recordings of its own, which a test may change."""
    folder = tmp_path / "data"
    shutil.copytree(plan.data[0].parent, folder)
    return replace(plan, data=(folder / plan.data[0].name,))


@pytest.fixture
def untouched(tmp_path: Path) -> Callable[[Path], contextlib.AbstractContextManager[None]]:
    """Nothing in a folder changes inside."""

    @contextlib.contextmanager
    def watch(out: Path) -> Iterator[None]:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        yield
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    return watch


def test_a_resumed_run_equals_an_uninterrupted_one(plan: Plan, tmp_path: Path, killed: Dies) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    often = replace(plan, stage=plan.stage.model_copy(update={"max_steps": 24, "save_every": 11}))
    train(often, whole, progress=False)
    killed(often, broken, 21)
    assert (broken / "checkpoints" / "checkpoint-11").is_dir() and steps(broken) == [10, 20]
    # A kill or a full disk while a checkpoint is written leaves a part of it: the one before counts.
    torn = broken / "checkpoints" / "checkpoint-12"
    torn.mkdir()
    (torn / "trained.safetensors").write_bytes(b"")
    (torn / "trainer_state.json").write_text('{"global_step": 12,')
    with (broken / "log.jsonl").open("a") as log:
        log.write('{"step": 21, "lo')
    # The folder may be moved, and its state kept more often.
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    broken.rename(moved)
    train(replace(often, stage=often.stage.model_copy(update={"save_every": 5})), moved, progress=False)
    assert same(moved, whole)
    assert steps(moved) == steps(whole) == [10, 20]
    assert len(read_sidecar(moved)["runs"]) == 2 and not (moved / "checkpoints").exists()


def test_a_run_killed_after_its_last_step_trains_no_more(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(plan, tmp_path / "whole", progress=False)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ReLlmForConditionalGeneration, "save_pretrained", dies)
        train(plan, tmp_path / "broken", progress=False)
    monkeypatch.setattr(setup.ReLlmTrainer, "training_step", dies)
    report = train(plan, tmp_path / "broken", progress=False)
    assert report.steps == 8 and same(tmp_path / "whole", tmp_path / "broken")


def test_a_complete_checkpoint_stays_and_another_is_refused(plan: Plan, tmp_path: Path, monkeypatch, untouched) -> None:
    out = tmp_path / "out"
    first = train(plan, out, progress=False)
    other = replace(plan, stage=plan.stage.model_copy(update={"lr": 1e-3, "max_steps": 5}))
    with monkeypatch.context() as patched:
        patched.setattr(run, "build_model", lambda *_, **__: pytest.fail("it trained"))
        with untouched(out):
            again = train(plan, out, progress=False)
            with pytest.raises(RellmError) as caught:
                train(other, out, progress=False)
    assert again.skipped and (again.steps, again.final, again.out) == (first.steps, first.final, out)
    assert "stage.lr was 0.005, and is 0.001 now; stage.max_steps was 8, and is 5 now" in caught.value.what
    assert "--overwrite" in str(caught.value.todo)
    before = weights(out)
    assert train(other, out, progress=False, overwrite=Overwrite.YES).steps == 5
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(out).items())
    resolved = (out / "recipe.resolved.yaml").read_text()
    assert "lr: 0.001" in resolved and train(other, out, progress=False).skipped


def test_the_provenance_comes_with_the_checkpoint(plan: Plan, tmp_path: Path, killed: Dies) -> None:
    killed(plan, tmp_path / "out", 4)
    assert not (tmp_path / "out" / "recipe.resolved.yaml").exists()
    assert read_sidecar(tmp_path / "out")["complete"] is False
    assert str(tmp_path) not in (tmp_path / "out" / "provenance.json").read_text()


@pytest.mark.parametrize("change", ["rows", "recordings", "weights"])
def test_a_killed_run_does_not_go_on_with_other_content(
    copied: Plan, tmp_path: Path, killed: Dies, untouched, change: str
) -> None:
    """The paths are the same each time."""
    out, rows = tmp_path / "out", copied.data[0]
    if change == "weights":
        shutil.copytree(copied.components.llm, tmp_path / "llm")
        components = copied.components.model_copy(update={"llm": str(tmp_path / "llm")})
        copied = replace(copied, components=components)
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join([lines[0].replace('"duration":1.0', '"duration":0.5'), *lines[1:]]))  # one is dropped
    killed(copied, out, 4)
    listed = (out / "dropped.jsonl").read_bytes()
    if change == "rows":
        other = rows.read_text().replace("I hum", "I sing")
        rows.write_text(other.replace('"duration":1.1', '"duration":0.5'))
    elif change == "recordings":
        first, second = (rows.parent / f"{i}.wav" for i in (1, 2))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    else:
        tiny_world.save_llm(tmp_path / "llm", seed=5)
    named = {"rows": "c.jsonl has changed", "recordings": "a recording, or which", "weights": "llm (.*) has changed"}
    with untouched(out), pytest.raises(RellmError, match=named[change].replace("(.*)", r"\(.*\)")):
        train(copied, out, features=tmp_path / "features", progress=False)
    assert (out / "dropped.jsonl").read_bytes() == listed


def test_recordings_that_changed_places_give_another_adapter(copied: Plan, tmp_path: Path) -> None:
    rows = [{**json.loads(line), "duration": 1.0} for line in copied.data[0].read_text().splitlines()]
    copied.data[0].write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(copied, tmp_path / "one", features=tmp_path / "features", progress=False)
    names = sorted(copied.data[0].parent.glob("*.wav"))
    contents = [path.read_bytes() for path in names]
    for path, content in zip(names, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    train(copied, tmp_path / "two", features=tmp_path / "features", progress=False)
    assert not same(tmp_path / "one", tmp_path / "two")


def test_two_trainings_into_one_folder_are_one(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")

    class Watched(setup.ReLlmTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 3:
                with pytest.raises(RellmError, match="another process is writing"):
                    train(plan, tmp_path / "out", progress=False)
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr(setup, "ReLlmTrainer", Watched)
    assert train(plan, tmp_path / "out", progress=False).steps == 8


TRAINS = """
import json, os, pickle, signal, sys, time
from pathlib import Path
import torch
from re_llm.train.run import train
torch.set_num_threads(1)
plan, whole, out = pickle.loads(Path(sys.argv[1]).read_bytes()), *map(Path, sys.argv[2:])

def start(folder):
    child = os.fork()  # instead of a minute of imports for each
    if child:
        return child
    code = 1
    try:
        train(plan, folder, progress=False, device="cpu")
        code = 0
    finally:
        os._exit(code)

begun = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
took = time.monotonic() - begun
kills = 0
for moment in (0.1, 0.3, 0.5, 0.6, 0.7, 0.8):
    child = start(out)
    time.sleep(moment * took)
    if os.waitpid(child, os.WNOHANG) == (0, 0):
        kills += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
assert os.waitpid(start(out), 0)[1] == 0
print(kills)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_weights_are_those_of_an_uninterrupted_run(plan: Plan, tmp_path: Path) -> None:
    """A real process, SIGKILL while it hashes, encodes, trains, and writes checkpoints and the model."""
    longer = replace(plan, stage=plan.stage.model_copy(update={"max_steps": 30, "save_every": 4}))
    (tmp_path / "plan").write_bytes(pickle.dumps(longer))
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = [sys.executable, "-c", TRAINS, *map(str, (tmp_path / "plan", whole, out))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2 and same(out, whole) and steps(out) == steps(whole)
    assert not list(out.rglob("*.tmp")) and not (out / ".lock").exists()
