"""Utterances from rows with named columns: what the readers of tables and of other people's formats share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from re_llm.core.emotions import CANONICAL
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS, Utterance
from re_llm.data.corpora.archives import members
from re_llm.data.corpora.base import Scan, dimensions
from re_llm.data.corpora.files import read_json_lines, read_table

# Column of a field, by the first of these names that the file has.
ALIASES = {
    "audio": ("audio", "wav", "path", "file", "file_name", "filename", "audio_path", "audio_filepath"),
    "key": ("key", "id", "utt_id", "utterance_id", "file_id"),
    "text": ("text", "transcript", "transcription", "sentence", "raw_text"),
    "emotion": ("emotion", "emo", "label", "discrete"),
    "speaker": ("speaker", "spk", "speaker_id", "speaker_name"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "partition", "subset"),
    "start": ("start", "start_time", "begin", "begin_time"),
    "end": ("end", "end_time"),
    "duration": ("duration", "length"),
    "valence": ("valence", "val", "EmoVal"),
    "arousal": ("arousal", "aro", "EmoAct", "activation"),
    "dominance": ("dominance", "dom", "EmoDom"),
    "dialogue": ("dialogue", "dialogue_id"),
    "turn": ("turn",),
}
UNIT = (0.0, 1.0)
KINDS = (".csv", ".tsv", ".jsonl")
_SCALE = re.compile(r"(-?[\d.]+)\.\.(-?[\d.]+)")

# Settings of every reader of rows, and of those whose columns can be named.
OPTIONS = {
    "corpus": "name of the corpus (name of the file or folder)",
    "audio_root": "folder that audio paths start from (folder of the file)",
    "default_split": "split of rows without one (all)",
    "default_language": "language of rows without one",
    "scale": "range of valence, arousal, dominance (0..1), e.g. 1..5",
    "labels": "canonical names of other labels, e.g. gloomy:sad,cheery:happy",
}
COLUMN_OPTIONS = {name: f"column of {name}" for name in ALIASES}


def parse_scale(text: str) -> tuple[float, float]:
    """`1..5` as (1.0, 5.0).

    Raises:
        ValueError: it is not of that form, or empty.
    """
    match = _SCALE.fullmatch(text.strip())
    if match is None or not float(match[1]) < float(match[2]):
        raise ValueError(text)
    return float(match[1]), float(match[2])


def parse_labels(text: str) -> dict[str, str]:
    """`gloomy:sad,cheery:happy` as a map from a label in lower case to a canonical emotion.

    Raises:
        ValueError: it is not of that form, or the second of a pair is no emotion.
    """
    pairs = [item.partition(":") for item in text.split(",")]
    found = {label.strip().lower(): name.strip() for label, _, name in pairs}
    if not set(found.values()) <= set(CANONICAL):
        raise ValueError(text)
    return found


def table_file(root: Path) -> Path:
    """The table: `root` itself, or the only one in it.

    Raises:
        RellmError: there is none, or more than one.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        raise RellmError(f"no such file or folder: {root}", todo="Check --root")
    found = sorted(p for p in root.iterdir() if p.suffix.lower() in KINDS)
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:5]) or "none"
        raise RellmError(f"{root} should hold one table, but holds {names}", todo="Give the file itself as --root")
    return found[0]


@dataclass(frozen=True)
class Table:
    """How to read one file of rows.

    Attributes:
        columns: column of a field, where it is not one of `ALIASES`.
        audio_root: folder that relative audio paths start from, or an archive that holds them uncompressed.
        suffix: added to audio paths that have none.
        scale: range of valence, arousal and dominance.
        labels: emotion labels that only this corpus uses, in lower case.
        members: recordings of an archive by their names in it, as `re_llm.audio.waveform` reads them.
    """

    file: Path
    corpus: str
    audio_root: Path
    split: str = "all"
    language: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""
    scale: tuple[float, float] = UNIT
    labels: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, str] | None = None

    @classmethod
    def from_options(cls, scan: Scan, file: Path, *, corpus: str | None = None, split: str = "all") -> Table:
        """The settings of `OPTIONS` and `COLUMN_OPTIONS`; `corpus` and `split` are their defaults."""
        return cls(
            file=file,
            corpus=scan.option("corpus", corpus or file.stem, str),
            audio_root=scan.option("audio_root", file if file.is_dir() else file.parent, Path),
            split=scan.option("default_split", split, str),
            language=scan.option("default_language", None, str),
            columns={name: str(scan.options[name]) for name in ALIASES if scan.options.get(name)},
            suffix=scan.option("suffix", "", str),
            scale=scan.option("scale", UNIT, parse_scale),
            labels=scan.option("labels", {}, parse_labels),
        )


def read_utterances(scan: Scan, table: Table) -> Iterator[Utterance]:
    """Utterances of a csv, tsv or JSON-lines file, in its order.

    Raises:
        RellmError: the file is missing, of another kind, or has no column for the audio.
    """
    if table.audio_root.is_file():
        table = replace(table, members=members(scan, table.audio_root))
    return from_rows(scan, table, ((line, row, None) for line, row in _rows(scan, table)))


def from_rows(
    scan: Scan, table: Table, rows: Iterable[tuple[int | None, Mapping[str, Any], str | None]]
) -> Iterator[Utterance]:
    """Utterances of rows; one that cannot be used is a problem.

    Args:
        rows: (line number, fields by column, path of the recording when no column holds it).
    """
    utterances = (_from_row(scan, table, row, line, audio) for line, row, audio in rows)
    return (utterance for utterance in utterances if utterance is not None)


def _from_row(
    scan: Scan, table: Table, row: Mapping[str, Any], line: int | None, audio: str | None
) -> Utterance | None:
    found = {name: _value(row, table.columns.get(name), aliases) for name, aliases in ALIASES.items()}
    if audio is None and found["audio"] is None:
        known = table.columns.get("audio") or ", ".join(ALIASES["audio"])
        scan.problem(table.file, f"no audio (looked for the column {known}; found {', '.join(row)})", line)
        return None
    try:
        return _utterance(scan, table, found, line, audio)
    except (TypeError, ValueError) as error:
        scan.problem(table.file, str(error).splitlines()[0], line)
        return None


def _rows(scan: Scan, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    kind = table.file.suffix.lower()
    if kind in (".csv", ".tsv"):
        needed = [c for c in table.columns.values() if c]
        return read_table(scan, table.file, needed, delimiter="," if kind == ".csv" else "\t")
    if kind in (".jsonl", ".json"):
        return read_json_lines(scan, table.file)
    raise RellmError(f"{table.file} is no table", allowed=", ".join(KINDS))


def _value(row: Mapping[str, Any], column: str | None, aliases: tuple[str, ...]) -> Any:
    """Value of a field, None where it is missing or blank."""
    names = (column,) if column else aliases
    value = next((row[name] for name in names if name in row), None)
    return None if value is None or (isinstance(value, str) and not value.strip()) else value


def _place(table: Table, path: Path) -> tuple[str, Path]:
    """(location, name) of a recording, from the path of a row. A path of another machine is looked for by its end.

    Raises:
        ValueError: the archive has no such member.
    """
    if table.suffix and not path.suffix:
        path = path.with_name(path.name + table.suffix)
    if table.members is not None:
        member = table.members.get(path.as_posix())
        if member is None:
            raise ValueError(f"{table.audio_root.name} has no readable member {path.as_posix()}")
        return member, path
    if path.is_absolute() and not path.exists():
        parts = path.parts[1:]
        ends = (Path(*parts[n:]) for n in range(len(parts)))
        path = next((end for end in ends if (table.audio_root / end).is_file()), path)
    if not path.is_absolute():
        return str(table.audio_root / path), path
    below = path.is_relative_to(table.audio_root)
    return str(path), path.relative_to(table.audio_root if below else path.anchor)


def _utterance(scan: Scan, table: Table, found: Mapping[str, Any], line: int | None, audio: str | None) -> Utterance:
    place, name = (audio, Path(audio)) if audio else _place(table, Path(str(found["audio"])))
    raw = None if found["emotion"] is None else str(found["emotion"])
    start = float(found["start"] or 0.0)
    duration = found["duration"]
    if duration is None and found["end"] is not None:
        duration = float(found["end"]) - start
    ratings = {name: float(found[name]) for name in DIMENSIONS if found[name] is not None}
    if ratings and len(ratings) < len(DIMENSIONS):
        there = ", ".join(ratings)
        scan.once(table.file, f"only {there} of {', '.join(DIMENSIONS)}: such rows are kept without them", line)
    return Utterance(
        key=str(found["key"] or f"{table.corpus}-{name.with_suffix('').as_posix().replace('/', '-')}"),
        corpus=table.corpus,
        split=str(found["split"] or table.split),
        audio=place,
        start=start,
        duration=None if duration is None else float(duration),
        text=None if found["text"] is None else str(found["text"]),
        language=str(found["language"] or table.language or "") or None,
        speaker=None if found["speaker"] is None else str(found["speaker"]),
        dialogue=None if found["dialogue"] is None else str(found["dialogue"]),
        turn=None if found["turn"] is None else int(found["turn"]),
        emotion=None if raw is None else scan.emotion(raw, table.file, line, table.labels),
        emotion_raw=raw,
        **dimensions(scan, ratings, table.scale, table.file, line) if len(ratings) == len(DIMENSIONS) else {},
    )
