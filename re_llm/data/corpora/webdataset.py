"""WebDataset shards: tar files in which the files of one sample share their name (`000.flac`, `000.json`, `000.txt`).

Nothing is unpacked: a recording is named `shard.tar:offset:length`. Fields are taken from the json by their usual
names; a `.txt` is the text, a `.cls` the emotion. Compressed shards cannot be read in place and are listed as problems.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import OPTIONS, Table, from_rows
from re_llm.data.corpora.files import FIELD_BYTES, Json

INFO = CorpusInfo(
    name="webdataset",
    title="WebDataset shards",
    licence="that of the recordings",
    get="https://github.com/webdataset/webdataset",
    root="one .tar, or a folder of .tar files",
    options=OPTIONS,
    dimensions=True,
)

_NAME = re.compile(r"((?:.*/)?[^/.]+)\.?([^/]*)", re.DOTALL)  # of a member: the sample, and what its field is


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by shard, in the order of its samples."""
    shards = [scan.root] if scan.root.is_file() else sorted(scan.root.glob("*.tar"))
    if not shards:
        raise RellmError(f"{scan.root} holds no .tar", allowed=INFO.root, todo="Check --root")
    name = scan.root.stem if scan.root.is_file() else scan.root.resolve().name
    for shard in shards:
        yield from from_rows(scan, Table.from_options(scan, shard, corpus=name), _rows(scan, shard))


def _rows(scan: Scan, shard: Path) -> Iterator[tuple[None, Json, str]]:
    try:
        with tarfile.open(shard, "r:") as archive:
            for key, sample in _samples(scan, shard, archive):
                # The json may still name the file that the recording once was.
                audio = sample.pop("audio", None)
                if audio is None:
                    scan.problem(shard, f"the sample {key} has no recording")
                else:
                    yield None, {"key": key.replace("/", "-"), **sample}, audio
    except tarfile.TarError as error:
        scan.problem(shard, f"not an uncompressed tar file: {error}")


def _samples(scan: Scan, shard: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, Json]]:
    """(name, fields) of neighbouring members of one name; `audio` locates the recording."""
    named = ((match, member) for member in archive if member.isfile() and (match := _NAME.fullmatch(member.name)))
    for key, members in groupby(named, key=lambda each: each[0][1]):
        fields: Json = {}
        for match, member in members:
            try:
                fields.update(_field(shard, archive, member, match[2].lower()))
            except ValueError as error:
                scan.problem(shard, f"{member.name}: {error}")
        if fields:
            yield key, fields


def _field(shard: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Json:
    if f".{suffix}" in waveform.SUFFIXES:
        return {"audio": f"{shard}:{member.offset_data}:{member.size}"}
    if suffix not in ("json", "txt", "cls"):
        return {}
    if member.size > FIELD_BYTES:
        raise ValueError(f"{member.size} bytes")
    file = archive.extractfile(member)
    assert file is not None, member.name
    text = file.read().decode()
    if suffix == "json":
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        return {k: v for k, v in values.items() if k != "audio"}
    return {"text" if suffix == "txt" else "emotion": text.strip()}
