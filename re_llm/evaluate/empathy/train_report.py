"""What training a scorer says when it is done, whatever its kind. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class TrainReport:
    """What was trained.

    Attributes:
        out: the scorer's folder. judged_on: on what the measures were taken.
        metrics: of each mechanism: `measures` of the scorer and of what it has to beat, and more.
    """

    out: Path
    judged_on: str
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> str:
        """For a person; all measures in %."""
        lines = [
            f"scorer: {self.out}; measured on {self.judged_on}",
            _line("", "accuracy", "macro-F1", "level 0  1  2"),
        ]
        for mechanism, found in self.metrics.items():
            for name, got in found["measures"].items():
                levels = "  ".join(f"{100 * f:.1f}" for f in got["level_f1"])
                accuracy, f1 = f"{100 * got['accuracy']:.1f}", f"{100 * got['macro_f1']:.1f}"
                lines.append(_line(f"{mechanism}  {name}", accuracy, f1, levels))
        return "\n".join([*lines, f"use it: re-llm score replies.jsonl --out scores.jsonl --scorer {self.out}"])


def _line(name: str, accuracy: str, f1: str, levels: str) -> str:
    return f"  {name:36} {accuracy:>8} {f1:>8}   {levels}"
