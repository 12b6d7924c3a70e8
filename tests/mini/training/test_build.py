"""The build of the miniature: its parts run as modules that exist, and only from a commit."""

from __future__ import annotations

import json
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from re_llm.core import files
from re_llm.core.errors import RellmError
from re_llm.core.product import write_sidecar
from re_llm.mini.training import build, component
from re_llm.mini.training.component import Wanted, report
from re_llm.mini.training.fitting import Fitted, Plan
from re_llm.pipeline.layout import Run
from re_llm.recipe.config import Recipe

WANTED = Wanted(Plan(5, 1e-3, 0), {"size": {"width": 8}, "inputs": {"sentences": "a"}})


@pytest.fixture(autouse=True)
def at_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks git, whose process a test may replace."""
    for module in (build, component):
        monkeypatch.setattr(module, "git_revision", lambda: "cccc")


def finished(folder: Path, plan: Plan, **results: object) -> None:
    """A component that was trained to its end, by this plan."""
    (folder / "state").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    report(folder, dict(results), Fitted(plan.steps, 1.0, []), None, plan, WANTED.settings)


def test_a_tree_with_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "git_revision", lambda: "0123456789ab+")
    with pytest.raises(RellmError, match="allow-changes"):
        build.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Process(SimpleNamespace):
    """Stands for a training that ends at once with a code, or runs until it is ended."""

    ended = False

    def poll(self) -> int | None:
        return self.returncode

    def terminate(self) -> None:
        self.ended, self.returncode = True, -15

    def wait(self) -> None:
        assert self.returncode is not None


def test_parts_are_started_as_modules_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def start(command: list[str], **_: object) -> Process:
        commands.append(command)
        return Process(returncode=0)

    monkeypatch.setattr(build.subprocess, "Popen", start)
    monkeypatch.setattr(build, "_wanted", lambda *_: WANTED)
    finished(tmp_path / "parts" / "llm", WANTED.plan)
    lines: list[str] = []
    build.train_parts(tmp_path, tmp_path / "world", seed=3, say=lines.append)
    assert sorted(command[2] for command in commands) == [
        "re_llm.mini.training.emotion",
        "re_llm.mini.training.whisper",
    ]
    assert all(find_spec(f"re_llm.mini.training.{name}") for name in build.COMPONENTS)
    assert all("--world" in command and command[command.index("--seed") + 1] == "3" for command in commands)
    assert "llm: complete" in lines


def test_a_part_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Process(returncode=None)

    def start(command: list[str], **_: object) -> Process:
        return Process(returncode=1) if command[2].endswith("llm") else running

    monkeypatch.setattr(build.subprocess, "Popen", start)
    monkeypatch.setattr(build, "_wanted", lambda *_: WANTED)
    with pytest.raises(RellmError, match=r"training llm failed.*llm\.log"):
        build.train_parts(tmp_path, tmp_path, seed=0, say=lambda line: None)
    assert running.ended and threading.active_count() < 20


def test_a_component_of_another_plan_is_made_again_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "parts" / "llm"
    finished(folder, Plan(4, 1e-3, 0))

    def start(*_: object, **__: object) -> Process:
        assert not folder.exists()
        finished(folder, WANTED.plan)
        return Process(returncode=0)

    monkeypatch.setattr(build.subprocess, "Popen", start)
    monkeypatch.setattr(build, "_wanted", lambda *_: WANTED)
    lines: list[str] = []
    for _ in range(2):
        build._train_part("llm", tmp_path, tmp_path, 0, lines.append, threading.Event())
    aside = tmp_path / "parts" / "llm.outdated"
    assert lines[0].startswith("llm: made again, since plan.steps was 4, and is 5 now") and str(aside) in lines[0]
    assert lines[-1] == "llm: complete" and (aside / "model.safetensors").is_file()


def parts(out: Path) -> None:
    for name in build.COMPONENTS:
        finished(out / "parts" / name, WANTED.plan)
    for stage in build.CHECKPOINTS:
        folder = out / "run" / "checkpoints" / stage
        folder.mkdir(parents=True)
        (folder / "report.json").write_text("{}")
        write_sidecar(
            folder, {"settings": {}, "runs": [{"revision": "aaaa"}, {"revision": "bbbb"}, {"revision": "bbbb"}]}
        )


def test_every_part_names_its_commits_and_none_may_have_had_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts(tmp_path)
    found = build.revisions(tmp_path)
    assert found == {
        "llm": ["cccc"], "whisper": ["cccc"], "emotion": ["cccc"],
        "stage emotion": ["aaaa", "bbbb"], "stage re_llm": ["aaaa", "bbbb"],
    }  # fmt: skip
    build._check_revisions(found)
    metrics = tmp_path / "parts" / "emotion" / "metrics.json"
    told = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({**told, "earlier": [{"plan": {}, "revision": "aaaa+"}]}))
    with pytest.raises(RellmError, match=r"emotion at aaaa\+") as caught:
        build._check_revisions(build.revisions(tmp_path))
    assert "allow-changes" in str(caught.value)
    metrics.write_text(json.dumps({**told, "revision": None}))
    with pytest.raises(RellmError, match="emotion at an unknown commit"):
        build._check_revisions(build.revisions(tmp_path))


def test_two_builds_do_not_write_one_folder(tmp_path: Path) -> None:
    with files.lock(tmp_path, folder=True), pytest.raises(RellmError, match="another process"):
        build.build(tmp_path, allow_changes=True)


def test_the_world_of_another_seed_is_that_of_the_speech_llms_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def write_world(root: Path, *, seed: int = 0, **_: object) -> dict[str, dict[str, object]]:
        asked.append(seed)
        return {}

    def reproduce(recipe: Recipe, out: Path, *, world: Path, world_seed: int, say: object) -> None:
        assert recipe.seeds == (5,)
        Run(recipe, out, lambda line: None, world, world_seed).write_world()

    monkeypatch.setattr("re_llm.mini.layouts.write_world", write_world)
    monkeypatch.setattr(build, "reproduce", reproduce)
    for name in ("train_parts", "revisions", "package", "_write_down"):
        monkeypatch.setattr(build, name, lambda *_, **__: {})
    monkeypatch.setenv("RE_LLM_MINI", "")
    build.build(tmp_path, seed=5, scale=0.01)
    assert len(asked) > 1 and set(asked) == {5}


def test_no_folder_of_the_machine_ships(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(f'{{"remade": "start ({tmp_path.resolve()}/run/checkpoints/words) has changed"}}')
    build._relative(report, report, tmp_path)
    assert report.read_text() == '{"remade": "start (run/checkpoints/words) has changed"}'
