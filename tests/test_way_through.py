"""All six stages from the command line, each fed by the file of the one before, on components with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType

import pytest
import yaml
from typer.testing import CliRunner

import re_llm
from re_llm.cli import app
from re_llm.core.records import Continuation, ReplyRecord, Score, read_records

EMOTIONS = ("neutral", "sad", "angry", "happy")


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="re-llm")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def recipe(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    parts = tiny_checkpoint.parent
    names = {"llm": "llm", "speech_encoder": "whisper", "emotion_encoder": "emotion"}
    content = {
        "name": "tiny",
        "title": "Tiny",
        "components": {role: str(parts / name) for role, name in names.items()},
        "model": {"adapter": {"bottleneck": 16}, "lora": {"r": 2}, "speech_window": "trimmed"},
        "stages": {
            "emotion": {
                "continuation": "continue-emotion",
                "losses": {"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0},
                "lr": 1e-3, "batch_size": 2, "max_steps": 2, "warmup": 0, "precision": "fp32", "min_seconds": 0.5,
            }
        },
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_from_a_table_to_a_report(recipe: Path, tmp_path: Path, recording) -> None:
    lines = ["audio,text,emotion,split,valence,arousal,dominance"]
    for number in range(8):
        recording(f"corpus/{number}.wav", 0.8 + number / 10, seed=number)
        emotion, split = EMOTIONS[number % 4], "train" if number < 4 else "test"
        lines.append(f"{number}.wav,this is sentence {number},{emotion},{split},0.4,0.5,0.6")
    (tmp_path / "corpus" / "table.csv").write_text("\n".join(lines) + "\n")
    files = {n: tmp_path / f"{n}.jsonl" for n in ("manifest", "continuations", "replies", "scores")}
    llm = yaml.safe_load(recipe.read_text())["components"]["llm"]
    short, checkpoint = ("--max-new-tokens", 6), tmp_path / "checkpoint"

    call("prepare", "table", "--root", tmp_path / "corpus" / "table.csv", "--out", files["manifest"])
    call("continue", files["manifest"], "--out", files["continuations"], "--llm", llm, *short)
    assert [row.emotion for row in read_records(files["continuations"], Continuation)] == list(EMOTIONS)
    call("train", recipe, "--stage", "emotion", "--data", files["continuations"], "--out", checkpoint)
    assert {"recipe.resolved.yaml", "provenance.json", "report.json"} <= {p.name for p in checkpoint.iterdir()}
    options = ("--model", checkpoint, "--split", "test", "--recognize", *short)
    call("respond", files["manifest"], "--out", files["replies"], *options)
    replies = list(read_records(files["replies"], ReplyRecord))
    assert len(replies) == 4
    assert all(reply.answer is not None and reply.dimensions() for reply in replies)
    call("score", files["replies"], "--out", files["scores"])
    assert {score.metric for score in read_records(files["scores"], Score)} >= {"ER", "EX", "IP", "SER"}
    made = json.loads(call("report", files["scores"], "--replies", files["replies"], "--out", tmp_path / "r", "--json"))
    assert Path(made["report"]).is_file()


def test_a_recording_passes_five_folders(tiny_checkpoint: Path, recording) -> None:
    """A recording passes five folders on its way through `respond`; `core` and `recipe` declare what they share."""
    package, entered = Path(re_llm.__file__).parent, set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(package) and path.parent != package:
                entered.add(path.relative_to(package).parts[0])

    arguments = ["respond", str(recording()), "--model", str(tiny_checkpoint), "--max-new-tokens", "3"]
    sys.setprofile(note)
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        sys.setprofile(None)
    assert result.exit_code == 0, result.output
    assert entered - {"core", "recipe"} == {"cli", "inference", "audio", "model", "llm"}
