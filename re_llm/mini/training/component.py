"""What a trained component says about itself, and whether it is the one that the build would make now."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash, write_json
from re_llm.core.provenance import git_revision
from re_llm.mini.training.fitting import STATE_FILE, Fitted, Plan, differences, stored, unlike, untold

METRICS = "metrics.json"
COMPARED = ("plan", "steps", "size", "options", "inputs", "content", "world_size")
ADDED = ("inputs", "content")  # what metrics of earlier versions do not tell


def settings_of(inputs: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """What decides a component beside its plan, as its `metrics.json` and its training state hold it.

    Args:
        inputs: hash of the content of what it is trained and measured on, by name.
        options: plain values, or dataclasses of options.
    """
    return dict(json.loads(json.dumps({**options, "inputs": dict(inputs)}, default=asdict)))


def report(
    out: Path,
    results: dict[str, Any],
    fitted: Fitted,
    check: Callable[[dict[str, Any]], None] | None,
    plan: Plan,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the `metrics.json` of a finished training, and returns what it holds.

    Args:
        results: what was measured.
        check: raises when the model is not good enough. A folder with `metrics.json` counts as finished, so a model
            that is refused leaves its numbers in `state` alone.
        settings: see `settings_of`.
    """
    metrics = {
        **results,
        **settings,
        "plan": asdict(plan),
        "steps": fitted.steps,
        "seconds": round(fitted.seconds, 1),
        "revision": git_revision(),
        "earlier": fitted.earlier,
        "content": content(out),
    }
    write_json(out / "state" / METRICS, metrics)
    if check:
        check(metrics)
    write_json(out / METRICS, metrics)
    return metrics


def content(out: Path) -> dict[str, str]:
    """Hashes of the files of a component, its metrics aside."""
    files = sorted(path for path in out.iterdir() if path.is_file() and path.name != METRICS)
    return {path.name: file_hash(path) for path in files if not path.name.startswith(".")}


@dataclass(frozen=True)
class Found:
    """What is there of a component.

    Attributes:
        complete: it was trained to its end.
        why: what it was made from instead, in words; nothing when it is the one that the build would make.
        unknown: what could not be compared.
    """

    complete: bool
    why: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """The component that the build makes: its plan, and what decides it beside that."""

    plan: Plan
    settings: Mapping[str, Any]

    def look(self, folder: Path) -> Found:
        """Compares it with what is in `folder`."""
        if (folder / METRICS).is_file():
            return self._compare(folder)
        state = folder / "state" / STATE_FILE
        if not state.is_file():
            return Found(False)
        try:
            about = stored(state)
        except RellmError as error:
            return Found(False, (error.what,))
        why = unlike(about, self.plan, self.settings)
        return Found(False, tuple(why), tuple(untold(about, self.settings)))

    def _compare(self, folder: Path) -> Found:
        try:
            metrics = dict(json.loads((folder / METRICS).read_bytes()))
        except ValueError as error:
            return Found(True, (f"{METRICS} cannot be read: {error}",))
        decides = {"plan": asdict(self.plan), "steps": self.plan.steps, **self.settings}
        now = {**json.loads(json.dumps(decides)), "content": content(folder)}
        unknown = tuple(name for name in ADDED if name not in metrics)
        if unknown and not metrics.get("revision"):
            return Found(True, (f"{METRICS} tells neither what it was made from nor the commit that made it",))
        before = {name: metrics[name] for name in COMPARED if name in metrics}
        why = differences(before, {name: value for name, value in now.items() if name not in unknown})
        return Found(True, tuple(why), unknown)
