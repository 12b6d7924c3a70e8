"""What a file of continuations was made with: `NAME.provenance.json` beside `NAME.jsonl`.

`settings` decide what is in the rows: a run that has others does not go on with the file, and shards that have others
are not merged. `runs` tell how it was made: versions, machine, device, batch size, one entry for each start.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from re_llm.continuations.plan import Plan
from re_llm.errors import RellmError
from re_llm.prompts import Prompt
from re_llm.provenance import file_hash, provenance
from re_llm.records import disk_error

MAX_BYTES = 16 * 2**20  # a side file is a few kilobytes

# How a setting is called on the command line, for the messages.
_OPTIONS = {
    "prompt": "--prompt",
    "llm": "--llm or --model",
    "asked": "--server",
    "dtype": "--dtype",
    "tokens": "--tokens",
    "max_new_tokens": "--max-new-tokens",
    "splits": "--split",
    "chunk": "--chunk",
    "shard": "--shard",
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the rows of a file, on the same kind of machine.

    Attributes:
        manifest: SHA-256 of the manifest.
        wording: the prompt itself, because an id may get other words in another version.
        asked: `local`, or `server` for a model behind an address.
        dtype: of the local weights; None behind a server.
        tokens: `pieces` or `joined`, see `ChatLlm`.
    """

    manifest: str
    prompt: str
    wording: tuple[str, str, str]
    llm: str
    asked: str
    dtype: str | None
    tokens: str
    max_new_tokens: int
    splits: tuple[str, ...] | None
    chunk: int
    shard: str

    @classmethod
    def of(cls, plan: Plan, prompt: Prompt, llm: str, max_new_tokens: int, how: Mapping[str, Any]) -> Settings:
        return cls(
            manifest=file_hash(plan.manifest),
            prompt=prompt.id,
            wording=(prompt.system, prompt.before, prompt.after),
            llm=llm,
            asked=how["asked"],
            dtype=how["dtype"],
            tokens=how["tokens"],
            max_new_tokens=max_new_tokens,
            splits=None if plan.splits is None else tuple(sorted(plan.splits)),
            chunk=plan.chunk,
            shard=str(plan.shard),
        )

    def plain(self) -> dict[str, Any]:
        """As it is after a way through JSON."""
        return dict(json.loads(json.dumps(asdict(self))))


def side_file(out: Path) -> Path:
    return out.with_suffix(".provenance.json")


def dropped_file(out: Path) -> Path:
    return out.with_suffix(".dropped.jsonl")


def read_side(out: Path) -> dict[str, Any] | None:
    """What stands beside `out`, or None.

    Raises:
        RellmError: it is not what a run writes.
    """
    path = side_file(out)
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        side = json.loads(path.read_bytes())
        if not (isinstance(side["settings"], dict) and isinstance(side["runs"], list)):
            raise TypeError("settings and runs have other types")
    except (ValueError, KeyError, TypeError) as error:
        raise RellmError(
            f"{path} does not tell how {out.name} was made: {error}", todo="Move both away, or give another --out"
        ) from None
    return dict(side)


def write_side(out: Path, side: Mapping[str, Any]) -> None:
    """Replaces the side file at once: a reader sees the old one or the new one."""
    path = side_file(out)
    temporary = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(side, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def check_same(out: Path, side: Mapping[str, Any] | None, settings: Settings) -> None:
    """Whether rows made with these settings may be added to the rows that `out` holds.

    Raises:
        RellmError: they may not; names the first setting that differs.
    """
    todo = "Give the options that the file was begun with, or another --out"
    if side is None:
        raise RellmError(
            f"{out} holds rows, but {side_file(out).name}, which tells how they were made, is missing",
            todo="Move the file away, or give another --out",
        )
    for name, value in settings.plain().items():
        begun = side["settings"].get(name)
        if begun == value:
            continue
        if name == "manifest":
            raise RellmError(f"{out} was begun with another manifest, or the manifest has changed", todo=todo)
        if name == "wording":
            raise RellmError(f"{out} was begun when the prompt {settings.prompt!r} had other words", todo=todo)
        option = _OPTIONS.get(name, name)
        raise RellmError(f"{out} was begun with {option} {_short(begun)}, and this run has {_short(value)}", todo=todo)


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def begin(out: Path, settings: Settings, side: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """Writes that a run begins; returns what is in the side file now.

    Args:
        side: what earlier runs wrote there, when this run goes on with their rows.
        run: what is to be said about this start, e.g. device and batch size.
    """
    entry = {name: value for name, value in provenance().items() if name not in ("seed", "inputs")} | dict(run)
    made = {"settings": settings.plain(), "complete": False, "runs": [*(side["runs"] if side else []), entry]}
    write_side(out, made)
    return made
