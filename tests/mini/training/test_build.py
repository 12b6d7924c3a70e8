"""The build of the miniature: its parts run as modules that exist, and only from a commit."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from re_llm.core.errors import RellmError
from re_llm.mini.training import build


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
    (tmp_path / "parts" / "llm").mkdir(parents=True)
    (tmp_path / "parts" / "llm" / "metrics.json").write_text("{}")
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
    with pytest.raises(RellmError, match=r"training llm failed.*llm\.log"):
        build.train_parts(tmp_path, tmp_path, seed=0, say=lambda line: None)
    assert running.ended and threading.active_count() < 20
