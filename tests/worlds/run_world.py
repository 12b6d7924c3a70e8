"""A recipe over a table of hums and tiny parts, and jobs that only wait: for the tests of whole runs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import soundfile
import tiny_world
import yaml

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")


def write_corpus(root: Path, rows: int = 10) -> Path:
    """A table whose last rows are the test set; the emotion is the pitch."""
    lines = ["audio,text,emotion,split"]
    for i in range(rows):
        path = root / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tiny_world.wave(1.0 + 0.05 * i, i % 5), 16_000)
        split = "train" if i < rows - 3 else "test"
        lines.append(f"{i}.wav,a hum number {i},{EMOTIONS[i % 5]},{split}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root / "table.csv"


def recipe(parts: Path, corpus: Path, **changes: object) -> str:
    """A stage, and a system that is tuned from it; saved as YAML."""
    losses = {"response_ce": 1.0, "input_er": 1.0}
    content = {
        "name": "toy",
        "title": "Toy",
        "components": {"llm": str(parts / "llm"), "speech_encoder": str(parts / "whisper"), "emotion_encoder": None},
        "model": {"speech_window": "trimmed", "adapter": {"bottleneck": 16}, "fusion": "none", "lora": {"r": 2}},
        "corpora": {"toy": {"reader": "table", "root": str(corpus)}},
        "stages": {
            "emotion": {
                "data": ["toy"], "continuation": "continue-emotion", "losses": losses, "lr": 3e-4, "max_steps": 4,
                "batch_size": 2, "warmup": 0, "precision": "fp32",
            },
            "finetune": {
                "start": "emotion", "continuation": "continue-emotion", "losses": losses, "lr": 1e-3, "max_steps": 2,
                "batch_size": 2, "warmup": 0, "precision": "fp32",
            },
        },
        "systems": {
            "text": {"kind": "text"},
            "blsp-emo": {"kind": "speech", "stage": "emotion"},
            "re-llm": {"kind": "speech", "stage": "finetune", "per_corpus": True},
        },
        "baseline": "blsp-emo",
        "decoding": {"max_new_tokens": 4, "continuation_tokens": 8},
        "workers": 1,
        "device": "cpu",
    }  # fmt: skip
    return yaml.safe_dump({**content, **changes})


@dataclass(frozen=True)
class Wait:
    """A job that says who works on it, and then works for long."""

    folder: Path
    seconds: float = 120.0


def wait(job: Wait) -> str:
    (job.folder / f"{os.getpid()}.pid").touch()
    time.sleep(job.seconds)
    return "done"


def die(_: object) -> str:
    os._exit(9)
