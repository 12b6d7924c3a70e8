"""Recordings in archives, read in place (`clips.zip:offset:length`, `...:deflate` for compressed members of a zip).

Nothing is unpacked to the disk. Names that lead out of the archive (absolute, or with `..`) and members that cannot be
read in place are listed as problems.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.data.corpora.base import Scan

SUFFIXES = (".zip", ".tar")
_HEADER = 30  # bytes of a local header of a zip file before its name
ENCRYPTED = 0x1  # flag of a zip member
METHODS = {zipfile.ZIP_STORED: "", zipfile.ZIP_DEFLATED: ":deflate"}  # marks of re_llm.audio.source


def members(scan: Scan, path: Path) -> dict[str, str]:
    """Recordings of an archive by their name in it, as `re_llm.audio.waveform` reads them.

    Raises:
        RellmError: it is no archive, or is broken.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise RellmError(f"{path} is neither a folder nor an archive", allowed="a folder, .zip, .tar")
    read = _zip if path.suffix.lower() == ".zip" else _tar
    found = {}
    try:
        for name, place in read(scan, path):
            if PurePosixPath(name).suffix.lower() not in waveform.SUFFIXES:
                continue
            if not _is_safe(name):
                scan.problem(path, f"the member {name!r} leads out of the archive; it is not read")
            else:
                found[PurePosixPath(name).as_posix()] = f"{path}:{place}"
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        raise RellmError(f"cannot read {path}: {error}", todo="Copy the file again") from error
    return found


def _is_safe(name: str) -> bool:
    places = (PurePosixPath(name), PureWindowsPath(name))
    return not any(place.is_absolute() or place.drive or ".." in place.parts for place in places)


def _zip(scan: Scan, path: Path) -> Iterator[tuple[str, str]]:
    refused = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.compress_type not in METHODS or member.flag_bits & ENCRYPTED:
                refused.append(member.filename)
                continue
            # The length of the local header stands in the local header alone.
            raw.seek(member.header_offset)
            header = raw.read(_HEADER)
            if len(header) < _HEADER or header[:4] != b"PK\x03\x04":
                raise zipfile.BadZipFile(f"no header where {member.filename!r} should be")
            behind = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            start = member.header_offset + _HEADER + behind
            yield member.filename, f"{start}:{member.compress_size}{METHODS[member.compress_type]}"
    if refused:
        what = f"{len(refused)} members are encrypted or compressed by another method than deflate"
        scan.problem(path, f"{what}, such as {refused[0]}: unpack them")


def _tar(scan: Scan, path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isfile():
                yield member.name, f"{member.offset_data}:{member.size}"
