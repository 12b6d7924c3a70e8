"""Hugging Face datasets that lie on the disk: saved by `save_to_disk`, or a folder of parquet files. Extra `data`.

Recordings are never decoded here. Where they are embedded as bytes, they are written into `extract` once, under their
row number; where the dataset names files, those are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.audio.waveform import SUFFIXES
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import ALIASES, COLUMN_OPTIONS, OPTIONS, Table, from_rows
from re_llm.data.corpora.files import Json

INFO = CorpusInfo(
    name="hf",
    title="Hugging Face dataset on disk",
    licence="that of the dataset",
    get="https://huggingface.co/datasets",
    root="folder written by save_to_disk, or folder with parquet files (also in data)",
    options={**COLUMN_OPTIONS, **OPTIONS, "extract": "folder that embedded recordings are written into"},
    dimensions=True,
)

MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3", b"\xff\xf3": ".mp3"}


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by split, in the order of the rows."""
    for split, dataset in datasets_in(scan.root).items():
        table = Table.from_options(scan, scan.root, corpus=scan.root.resolve().name, split=split)
        yield from from_rows(scan, table, dataset_rows(scan, table, dataset))


def datasets_in(root: Path) -> dict[str, Any]:
    """Datasets of a folder by split.

    Raises:
        MissingExtra: `datasets` is not installed.
        RellmError: the folder holds no dataset.
    """
    with MissingExtra.unless("datasets", "data", "Reading a Hugging Face dataset"):
        import datasets
    parquet = sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    if parquet:
        by_split: dict[str, list[str]] = {}
        for path in parquet:
            by_split.setdefault(path.stem.split("-")[0], []).append(str(path))
        # Streamed: otherwise all of it is copied into a cache first.
        return dict(datasets.load_dataset("parquet", data_files=by_split, streaming=True))
    try:
        loaded = datasets.load_from_disk(str(root))
    except (FileNotFoundError, ValueError) as error:
        raise RellmError(f"{root} holds no dataset: {error}", allowed=INFO.root) from error
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}


def dataset_rows(scan: Scan, table: Table, dataset: Any) -> Iterator[tuple[int, Json, str]]:
    """(row number, fields by column, path of the recording) of a dataset."""
    import datasets

    sound = next((name for name, kind in dataset.features.items() if isinstance(kind, datasets.Audio)), None)
    sound = sound or table.columns.get("audio") or next((a for a in ALIASES["audio"] if a in dataset.features), None)
    if sound is None:
        raise RellmError(f"{table.file}: no column of audio", allowed=", ".join(dataset.features))
    if isinstance(dataset.features[sound], datasets.Audio):
        dataset = dataset.cast_column(sound, datasets.Audio(decode=False))
    names = {name: kind.names for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)}
    for number, row in enumerate(dataset):
        recording = row.pop(sound)
        # Labels are numbers in the table and names in its description.
        row = {k: names[k][v] if k in names and v is not None and v >= 0 else v for k, v in row.items()}
        place = _place(scan, table, recording, number)
        if place is not None:
            yield number, {**row, **_key(table, row, number)}, place


def _key(table: Table, row: Json, number: int) -> dict[str, str]:
    columns = (table.columns["key"],) if "key" in table.columns else ALIASES["key"]
    return {} if any(row.get(c) for c in columns) else {"key": f"{table.corpus}-{table.split}-{number:07}"}


def _place(scan: Scan, table: Table, recording: Any, number: int) -> str | None:
    """Path of a recording; embedded bytes are written into the folder of the option `extract`."""
    path, data = (recording.get("path"), recording.get("bytes")) if isinstance(recording, dict) else (recording, None)
    if data is None:
        if not path:
            scan.problem(table.file, "the row has neither a file nor bytes", number)
            return None
        return str(table.audio_root / path)
    folder = scan.option("extract", None, Path)
    if folder is None:
        raise RellmError(f"{table.file} holds its recordings as bytes", todo="Give the option extract=FOLDER for them")
    suffix = next((s for magic, s in MAGIC.items() if data.startswith(magic)), Path(path or "").suffix.lower())
    if suffix not in SUFFIXES:
        scan.problem(table.file, f"bytes of an unknown kind: {data[:4]!r}", number)
        return None
    target = Path(folder) / table.split / f"{number:07}{suffix}"
    if not (target.is_file() and target.stat().st_size == len(data)):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return str(target)
