"""Joins the files of all shards into what one run would have written, after a proof that nothing is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from re_llm.continuations.identity import dropped_file
from re_llm.continuations.plan import WHOLE, Plan, Shard
from re_llm.continuations.rows import moved
from re_llm.continuations.run import ContinueReport, count
from re_llm.core.appending import changed_row
from re_llm.core.errors import RellmError
from re_llm.core.files import existing, file_hash
from re_llm.core.product import Product, edited, read_sidecar, sidecar_path
from re_llm.core.records import Continuation, Record, Utterance, write_records


@dataclass(frozen=True)
class _Part:
    """One shard's file and what stands beside it."""

    path: Path
    sidecar: dict[str, Any]

    @property
    def shard(self) -> Shard:
        return Shard.parse(str(self.sidecar["settings"].get("shard")))

    def common(self) -> dict[str, Any]:
        """The inputs and settings that all shards of a run share."""
        made = {**self.sidecar.get("inputs", {}), **self.sidecar["settings"]}
        return {name: value for name, value in made.items() if name != "shard"}


@dataclass(frozen=True)
class _Line:
    """Where a row stands: which part, kept or dropped, at which byte."""

    part: _Part
    dropped: bool
    offset: int

    @property
    def file(self) -> Path:
        return dropped_file(self.part.path) if self.dropped else self.part.path


def merge_shards(manifest: str | Path, shards: Sequence[str | Path], out: str | Path) -> ContinueReport:
    """Writes the rows of all shards to `out`, in the manifest's order: the bytes that one run would have written.

    Before anything is written it is proven that the shards are all there, were made from this manifest with the same
    settings, and hold every row of it exactly once, kept or dropped.

    Args:
        shards: the files that `continue --shard` wrote, in any order.

    Raises:
        RellmError: a shard is missing, given twice or made otherwise; a row is missing, doubled, changed or in a wrong
            shard (names the first one and the shard); `out` exists; the disk is full.
    """
    started = time.monotonic()
    out = Path(out)
    if out.exists():
        raise RellmError(f"{out} exists", todo="Move it away, or give another --out")
    parts = _ordered([_part(Path(path)) for path in shards])
    settings = parts[0].common()
    splits = settings.get("splits")
    plan = Plan(Path(manifest), frozenset(splits) if splits is not None else None, int(settings["chunk"]))
    keys = plan.keys()
    if file_hash(plan.manifest) != settings.get("manifest"):
        raise RellmError(
            f"{parts[0].path} was not made from {manifest}, or the manifest has changed since",
            todo="Give the manifest that the shards were made from",
        )
    index = _index(parts)
    _complete(keys, index, parts)
    _refuse_edited(parts)
    runs = [{"shard": str(part.shard), **run} for part in parts for run in part.sidecar["runs"]]
    first = parts[0].sidecar
    whole = {**first["settings"], "shard": str(WHOLE)}
    beside = (dropped_file(out),)
    product = Product(out, first["stage"], first["inputs"], whole, beside=beside, grows=True)
    with product.making():
        write_records(dropped_file(out), _rows(plan, index, out, dropped=True))
        write_records(out, _rows(plan, index, out, dropped=False))
        report = ContinueReport()
        count(out, report)
        report.seconds = time.monotonic() - started
        product.finish(report, runs=runs)
    return report


def _part(path: Path) -> _Part:
    sidecar = read_sidecar(existing(path, todo="Give the files that `re-llm continue --shard I/N` wrote"))
    if sidecar is None:
        raise RellmError(
            f"{sidecar_path(path)} is missing: it tells which shard {path.name} is",
            todo="Keep it beside the file that `re-llm continue` wrote",
        )
    return _Part(path, sidecar)


def _ordered(parts: list[_Part]) -> list[_Part]:
    """The parts by their number, when they are all shards of one run, each once.

    Raises:
        RellmError: they are not.
    """
    if not parts:
        raise RellmError("there is no shard to merge", todo="Give the files that `re-llm continue --shard I/N` wrote")
    first = parts[0]
    found: dict[int, _Part] = {}
    for part in parts:
        names = first.common().keys() | part.common().keys()
        other = next((n for n in sorted(names) if first.common().get(n) != part.common().get(n)), None)
        if other:
            raise RellmError(
                f"{part.path} was made with {other} {part.common().get(other)!r}, "
                f"and {first.path} with {first.common().get(other)!r}",
                todo="Merge shards of one run",
            )
        if part.shard.count != first.shard.count:
            raise RellmError(f"{part.path} is shard {part.shard}, and {first.path} is shard {first.shard}")
        if part.shard.index in found:
            raise RellmError(f"{part.path} and {found[part.shard.index].path} are both shard {part.shard}")
        found[part.shard.index] = part
    missing = [str(Shard(i, first.shard.count)) for i in range(first.shard.count) if i not in found]
    if missing:
        raise RellmError(
            f"{len(missing)} of {first.shard.count} shards are missing, the first is {missing[0]}",
            todo=f"Run: re-llm continue MANIFEST --shard {missing[0]} ..., or give its file",
        )
    return [found[i] for i in sorted(found)]


def _index(parts: list[_Part]) -> dict[str, _Line]:
    """Where each key stands.

    Raises:
        RellmError: a line is no record, or a key stands twice.
    """
    found: dict[str, _Line] = {}
    for part in parts:
        for dropped in (False, True):
            offset = 0
            path = _Line(part, dropped, 0).file
            if dropped and not path.is_file():
                continue
            with path.open("rb") as lines:
                for number, raw in enumerate(lines, 1):
                    try:
                        key = json.loads(raw)["key"]
                    except (ValueError, KeyError, TypeError, RecursionError):
                        raise RellmError(f"{path}:{number}: not a record", todo=_again(part)) from None
                    if key in found:
                        raise RellmError(
                            f"the key {key!r} stands twice: in {found[key].file} and in {path}:{number}",
                            todo="Move the wrong file away and run its shard again",
                        )
                    found[key] = _Line(part, dropped, offset)
                    offset += len(raw)
    return found


def _again(part: _Part) -> str:
    return f"Run shard {part.shard} again with the options that it was started with: it continues where it ended"


def _complete(keys: dict[str, int], index: dict[str, _Line], parts: list[_Part]) -> None:
    """Whether every key of the manifest stands in its shard, and no other key anywhere.

    Raises:
        RellmError: names the first key that does not, and its shard.
    """
    for key, chunk in keys.items():
        part = parts[chunk % len(parts)]
        if key not in index:
            left = sum(other not in index for other in keys)
            raise RellmError(
                f"{left} rows are missing, the first is {key!r}, which belongs to shard {part.shard} ({part.path})",
                todo=_again(part),
            )
        if index[key].part is not part:
            raise RellmError(
                f"the key {key!r} belongs to shard {part.shard} and stands in {index[key].file}",
                todo="Move the wrong file away and run its shard again",
            )
    foreign = next((key for key in index if key not in keys), None)
    if foreign is not None:
        raise RellmError(f"{index[foreign].file} holds the key {foreign!r}, which the manifest does not have")


def _refuse_edited(parts: list[_Part]) -> None:
    """Raises a RellmError for a shard that is not what its run wrote."""
    for part in parts:
        complete = bool(part.sidecar.get("complete"))
        for path in (part.path, dropped_file(part.path)):
            if path.is_file() and (number := changed_row(path, complete=complete)) is not None:
                what = f"row {number} of {path} was changed after it was written, or added"
                raise RellmError(what, todo="Move the file away and run its shard again")
        if complete and edited(part.path, dropped_file(part.path)):
            raise RellmError(f"{part.path} was changed after it was written", todo=_again(part))


def _rows(plan: Plan, index: dict[str, _Line], out: Path, *, dropped: bool) -> Iterator[Record]:
    """The kept or the dropped rows in the manifest's order, their audio paths as seen from `out`."""
    paths = {line.file for line in index.values() if line.dropped is dropped}
    with ExitStack() as stack:
        files = {path: stack.enter_context(path.open("rb")) for path in paths}
        for _, row in plan.rows():
            line = index[row.key]
            if line.dropped is dropped:
                files[line.file].seek(line.offset)
                record = _checked(files[line.file].readline(), line, row)
                yield record.model_copy(update={"audio": moved(row, plan.manifest.parent, out.parent).audio})


def _checked(raw: bytes, line: _Line, row: Utterance) -> Record:
    """The record of a line, when it is what its shard says of this utterance.

    Raises:
        RellmError: it is not.
    """
    where = f"{line.file}: {row.key!r}"
    try:
        if line.dropped:
            return Record.model_validate_json(raw)
        record = Continuation.model_validate_json(raw)
    except ValidationError as error:
        raise RellmError(f"{where} is not a valid record: {error.errors()[0]['msg']}", todo=_again(line.part)) from None
    settings = line.part.sidecar["settings"]
    expected = {"prompt": settings["prompt"], "text": row.text}
    if settings["llm"] is not None:  # of a folder the content is compared, and not its name
        expected["llm"] = settings["llm"]
    for name, value in expected.items():
        if getattr(record, name) != value:
            raise RellmError(
                f"{where} has the {name} {getattr(record, name)!r}, and {value!r} is expected",
                todo="Move the wrong file away and run its shard again",
            )
    return record
