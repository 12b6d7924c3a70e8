"""What a stage makes, and what it was made from: complete, unfinished, or made from something else. No torch.

A sidecar stands with every product: `provenance.json` in a folder, `NAME.provenance.json` beside `NAME.jsonl`. It holds
hashes of the content of all inputs (never their paths: folders move), the settings that decide the content, and the
stage's own version, which rises when the same inputs begin to give another content. `runs` tell how it was made, one
entry for each start, with the versions of the packages: these are told, and do not make a product outdated.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from re_llm.core import files
from re_llm.core.appending import changed_row, log_path, write_log
from re_llm.core.errors import RellmError
from re_llm.core.provenance import provenance

MAX_SIDECAR_BYTES = 16 * 2**20  # a sidecar is a few kilobytes
REMEMBERED_BYTES = 2**24  # of inputs from this size on the sidecar remembers the hash
SHOWN = 5  # differences in a message


class State(Enum):
    """What is there of a product."""

    ABSENT = "absent"
    UNFINISHED = "unfinished"  # made from the same, and not complete
    SAME = "same"  # made from the same, and complete
    DIFFERENT = "different"


class Overwrite(Enum):
    """Which products may be made again where another one is."""

    NO = "no"
    OUTDATED = "outdated"  # those that a stage made from something else, and that nobody has changed since
    YES = "yes"


@dataclass(frozen=True)
class Standing:
    """How a product stands to what is there.

    Attributes:
        differences: what it was made from instead, in words.
        ours: false when nothing tells how it was made, or when it was changed after it was written.
    """

    state: State
    differences: tuple[str, ...] = ()
    ours: bool = True

    @property
    def why(self) -> str:
        """The differences, in one line."""
        more = f" and {len(self.differences) - SHOWN} more" if len(self.differences) > SHOWN else ""
        return "; ".join(self.differences[:SHOWN]) + more


@dataclass(kw_only=True)
class Made:
    """What every stage's report says about its product.

    Attributes:
        skipped: it was complete already, made from the same inputs with the same settings.
        remade: why one that was there was made again; empty when none was.
    """

    skipped: bool = False
    remade: str = ""


M = TypeVar("M", bound=Made)


@dataclass(frozen=True)
class Product:
    """A file or folder that a stage makes, and all that decides its content.

    Attributes:
        out: the file, or the folder.
        stage: name and version of the stage, e.g. `train 1`.
        inputs: hash of the content of everything it is made from, by name; None where there is none.
        settings: plain values, as they are after a way through JSON.
        names: what a message calls an input or a setting, where that is not its own name.
        parts: patterns of what it consists of in its folder; empty for a file.
        beside: further files that go when it is made again.
        grows: rows are appended to it and to the files beside it; rows that are missing are appended again, and one
            that was changed by hand is noticed (see `core.appending`).
    """

    out: Path
    stage: str
    inputs: Mapping[str, str | None]
    settings: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    grows: bool = False

    def standing(self) -> Standing:
        """What is there, compared with what this product is made from."""
        if not any(True for _ in self._present()):
            return Standing(State.ABSENT)
        try:
            sidecar = read_sidecar(self.out)
        except RellmError as error:
            return Standing(State.DIFFERENT, (error.what,), ours=False)
        if sidecar is None:
            missing = f"{sidecar_path(self.out).name}, which tells how it was made, is missing"
            return Standing(State.DIFFERENT, (missing,), ours=False)
        if differences := tuple(self._differences(sidecar)):
            return Standing(State.DIFFERENT, differences)
        complete = bool(sidecar.get("complete"))
        if complete and sidecar.get("content") == self._content():
            return Standing(State.SAME)
        for path in self._present() if self.grows else ():
            if (number := changed_row(path, complete=complete)) is not None:
                what = f"row {number} of {path.name} was changed after it was written, or added"
                return Standing(State.DIFFERENT, (what,), ours=False)
        if not complete or (self.grows and self._lines() != sidecar.get("lines")):
            return Standing(State.UNFINISHED)
        return Standing(State.DIFFERENT, ("it was changed after it was written",), ours=False)

    @contextmanager
    def making(
        self,
        overwrite: Overwrite = Overwrite.NO,
        *,
        run: Mapping[str, Any] | None = None,
        look: Callable[[], Standing] | None = None,
    ) -> Iterator[Standing]:
        """Holds the lock of the product, clears the way for making it, and notes in the sidecar that it is being made.

        Args:
            run: what is told about this start, e.g. device and batch size.
            look: gives the standing, where a stage looks closer than `standing`.

        Yields:
            how it stood before: `SAME` leaves everything as it is, `UNFINISHED` is to be gone on with, and a
            `DIFFERENT` one is gone; a file that is written whole stays until the new one takes its place.

        Raises:
            RellmError: there is another one, which may not be overwritten: names what differs. Nothing is changed
                then. Another process is making it; or the folder cannot be written.
        """
        with files.lock(self.out, folder=bool(self.parts)):
            standing = (look or self.standing)()
            if standing.state is State.SAME:
                yield standing
                return
            if standing.state is State.DIFFERENT:
                self._refuse(standing, overwrite)
                self._remove()
            self._begin(standing, run or {})
            try:
                yield standing
            except BaseException:
                if not any(True for _ in self._present()):
                    sidecar_path(self.out).unlink(missing_ok=True)
                raise

    def _begin(self, standing: Standing, run: Mapping[str, Any]) -> None:
        before = read_sidecar(self.out) if standing.state is State.UNFINISHED else None
        about = {name: value for name, value in provenance().items() if name not in ("seed", "inputs")}
        files.sweep(self.out)
        self._write({"complete": False, "runs": [*(before["runs"] if before else []), about | dict(run)]})

    def finish(self, report: Made | None = None, **more: Any) -> None:
        """Notes that it is complete. The last thing that a stage writes.

        Args:
            report: what `stored` gives to whoever makes it again.
            more: further fields of the sidecar.
        """
        runs = (read_sidecar(self.out) or {"runs": []})["runs"]
        told: dict[str, Any] = {} if report is None else {"report": _plain(report)}
        if self.grows:
            told["lines"] = self._lines()
            for path in self._present():
                write_log(path)
        self._write({"complete": True, "content": self._content(), "runs": runs, **more, **told})

    def stored(self, kind: type[M]) -> M:
        """The report of the run that completed it."""
        plain = (read_sidecar(self.out) or {}).get("report", {})
        home = self.out if self.parts else self.out.parent
        paths = {n: home / v["beside"] for n, v in plain.items() if isinstance(v, dict) and "beside" in v}
        return TypeAdapter(kind).validate_python({**plain, **paths, "out": self.out, "skipped": True, "remade": ""})

    def _present(self) -> Iterator[Path]:
        if not self.parts:
            rows = (self.out, *self.beside) if self.grows else (self.out,)
            yield from (path for path in rows if path.is_file() and path.stat().st_size)
        for pattern in self.parts:
            yield from self.out.glob(pattern)

    def _content(self) -> str:
        """Hash of what it consists of."""
        return files.files_hash({path.name: path for path in self._present() if path.is_file()})

    def _lines(self) -> int:
        return sum(line.endswith(b"\n") for path in self._present() for line in path.open("rb"))

    def _refuse(self, standing: Standing, overwrite: Overwrite) -> None:
        if overwrite is Overwrite.YES or (overwrite is Overwrite.OUTDATED and standing.ours):
            return
        what = f"{self.out} was made differently: {standing.why}" if standing.ours else f"{self.out}: {standing.why}"
        raise RellmError(what, todo="Give another --out, move it away, or make it again with --overwrite")

    def _remove(self) -> None:
        """Makes room. A file that is written whole stays until the new one takes its place."""
        whole = not self.parts and not self.grows
        try:
            for path in [] if whole else [*self._present(), *self.beside]:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                    log_path(path).unlink(missing_ok=True)
            sidecar_path(self.out).unlink(missing_ok=True)
        except OSError as error:
            raise files.disk_error(self.out, error) from error

    def _differences(self, sidecar: Mapping[str, Any]) -> Iterator[str]:
        if sidecar.get("stage") != self.stage:
            yield f"it was made by `{sidecar.get('stage')}`, and this is `{self.stage}`"
        inputs = sidecar.get("inputs") or {}
        for name in dict.fromkeys([*self.inputs, *inputs]):
            if inputs.get(name) != self.inputs.get(name):
                yield f"{self.names.get(name, name)} has changed"
        before, now = dict(flattened(sidecar["settings"])), dict(flattened(self.settings))
        for name in dict.fromkeys([*now, *before]):
            if before.get(name) != now.get(name):
                called = self.names.get(name, name)
                yield f"{called} was {_shown(before.get(name))}, and is {_shown(now.get(name))} now"

    def _write(self, fields: Mapping[str, Any]) -> None:
        known = files.known_hashes(at_least=REMEMBERED_BYTES)
        about = {"stage": self.stage, "inputs": dict(self.inputs), "settings": dict(self.settings)}
        write_sidecar(self.out, {**about, **fields, "hashes": known})


def flattened(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, by the names on the way to them: `model.lora.rank`."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(report: Made) -> dict[str, Any]:
    """A report as JSON; of its paths the names, since whole folders move."""
    plain = dict(json.loads(TypeAdapter(type(report)).dump_json(report)))
    for each in dataclasses.fields(report):
        value = getattr(report, each.name)
        if isinstance(value, Path):
            plain[each.name] = {"beside": value.name}
    return plain


def recall(out: Path) -> None:
    """Takes over the hashes of large inputs that the sidecar of `out` remembers, so that they are not read again."""
    with suppress(RellmError):  # a broken one is told later
        files.remember_hashes((read_sidecar(out) or {}).get("hashes", {}))


def sidecar_path(out: Path) -> Path:
    """`provenance.json` in a folder, `NAME.provenance.json` of `NAME.jsonl`."""
    if out.is_dir():
        return out / "provenance.json"
    return out.with_name(f"{out.name.removesuffix('.jsonl')}.provenance.json")


def read_sidecar(out: Path) -> dict[str, Any] | None:
    """What the sidecar of `out` holds, or None when there is none.

    Raises:
        RellmError: it is not what a stage writes.
    """
    path = sidecar_path(out)
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError("too large")
        sidecar = json.loads(path.read_bytes())
        if not (isinstance(sidecar["settings"], dict) and isinstance(sidecar["runs"], list)):
            raise TypeError("settings and runs have other types")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RellmError(
            f"{path} does not tell how {out.name} was made: {error}", todo="Move both away, or give another --out"
        ) from None
    return dict(sidecar)


def edited(out: Path, *beside: Path) -> bool:
    """Whether a file is another one than the stage wrote that its sidecar tells of; false where there is none.

    Args:
        beside: further files of the product.

    Raises:
        RellmError: the sidecar is broken.
    """
    content = (read_sidecar(out) or {}).get("content")
    there = {path.name: path for path in (out, *beside) if path.is_file() and path.stat().st_size}
    return content is not None and content != files.files_hash(there)


def write_sidecar(out: Path, sidecar: Mapping[str, Any]) -> None:
    """Replaces the sidecar at once: a reader sees the old one or the new one.

    Raises:
        RellmError: the disk is full, or the folder cannot be written.
    """
    files.write_json(sidecar_path(out), sidecar)
