"""Utterances from rows with named columns: what the readers of tables and of other people's formats share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from re_llm.audio import waveform
from re_llm.core.emotions import CANONICAL, is_label
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS, Utterance
from re_llm.data.corpora.archives import members
from re_llm.data.corpora.base import Scan, dimensions
from re_llm.data.corpora.files import any_format, read_json_lines, read_table

# Column of a field: the first of these names that the file has, in any case, with blanks or hyphens for underscores.
ALIASES = {
    "audio": ("audio", "wav", "path", "file", "file_name", "filename", "audio_path", "audio_filepath"),
    "key": ("key", "id", "utt_id", "utterance_id", "file_id"),
    "text": ("text", "transcript", "transcription", "sentence", "raw_text", "utterance"),
    "emotion": ("emotion", "emo", "label", "discrete", "emoclass"),
    "speaker": ("speaker", "spk", "speaker_id", "speaker_name", "spkrid"),
    "language": ("language", "lang", "locale"),
    "split": ("split", "partition", "subset", "split_set"),
    "start": ("start", "start_time", "begin", "begin_time"),
    "end": ("end", "end_time"),
    "duration": ("duration", "length"),
    "valence": ("valence", "val", "emoval"),
    "arousal": ("arousal", "aro", "emoact", "activation"),
    "dominance": ("dominance", "dom", "emodom"),
    "dialogue": ("dialogue", "dialogue_id"),
    "turn": ("turn",),
    "gender": ("gender", "sex"),
    "reference": ("reference",),
    "words_emotion": ("words_emotion",),
}
KEPT = "re_llm"  # fields of an utterance that a format of other people has no place for (re_llm.data.interchange)
# Fields of the file that a recording is a segment of, not of the recording itself.
LOCATION = frozenset({"audio", "start", "duration", "sample_rate", "sha256"})
UNIT = (0.0, 1.0)
KINDS = (".csv", ".tsv", ".jsonl")
_NUMBERS = ("start", "duration")
_TIME = re.compile(r"(?:(\d+) days?,? ?)?(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")
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


def parse_labels(text: str, allowed: Sequence[str] = CANONICAL) -> dict[str, str]:
    """`gloomy:sad,cheery:happy` as a map from a label in lower case to one of `allowed`.

    Raises:
        ValueError: it is not of that form, or the second of a pair is not allowed.
    """
    pairs = [item.partition(":") for item in text.split(",")]
    found = {label.strip().lower(): name.strip() for label, _, name in pairs}
    if not set(found.values()) <= set(allowed):
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
            labels=scan.option("labels", {}, partial(parse_labels, allowed=scan.labels)),
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
    """Utterances of rows; one that cannot be used is a problem, and columns that are not read are noted.

    Args:
        rows: (line number, fields by column, path of the recording when no column holds it).
    """
    read = _Fields(table)
    for line, row, audio in rows:
        found = read.of(row)
        if audio is None and found["audio"] is None:
            known = table.columns.get("audio") or ", ".join(ALIASES["audio"])
            scan.problem(table.file, f"no audio (looked for the column {known}; found {', '.join(row)})", line)
            continue
        try:
            utterance = _utterance(scan, table, found, line, audio)
        except (TypeError, ValueError, RecursionError) as error:
            scan.problem(table.file, str(error).splitlines()[0], line)
            continue
        yield utterance
    if read.unknown:
        scan.notes.append(f"{table.file.name}: columns that are not read: {', '.join(sorted(read.unknown))}")


class _Fields:
    """Finds fields in rows by the names of their columns.

    Attributes:
        unknown: columns that hold no field.
    """

    def __init__(self, table: Table):
        self.unknown: set[str] = set()
        self._wanted = {
            name: (_plain(table.columns[name]),) if name in table.columns else aliases
            for name, aliases in ALIASES.items()
        }
        self._wanted[KEPT] = (KEPT,)
        self._columns: dict[tuple[str, ...], dict[str, str]] = {}  # of a field, by the columns of a row

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Fields by name, None where one is missing or blank."""
        header = tuple(row)
        if header not in self._columns:
            self._columns[header] = self._match(header)
        columns = self._columns[header]
        found = {name: row[columns[name]] if name in columns else None for name in self._wanted}
        return {name: None if isinstance(value, str) and not value.strip() else value for name, value in found.items()}

    def _match(self, header: tuple[str, ...]) -> dict[str, str]:
        plain = {_plain(column): column for column in reversed(header)}  # of two columns of one name, the first
        known = {*LOCATION, *(name for names in self._wanted.values() for name in names)}
        if KEPT not in plain:  # which holds them all
            self.unknown.update(column for name, column in plain.items() if name not in known)
        matches = {name: next((plain[a] for a in names if a in plain), None) for name, names in self._wanted.items()}
        return {name: column for name, column in matches.items() if column is not None}


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _rows(scan: Scan, table: Table) -> Iterator[tuple[int, dict[str, Any]]]:
    kind = table.file.suffix.lower()
    if kind in (".csv", ".tsv"):
        rows = read_table(scan, table.file, (), delimiter=None if kind == ".csv" else "\t")
        return _with_columns(table, rows)
    if kind in (".jsonl", ".json"):
        return read_json_lines(scan, table.file)
    raise RellmError(f"{table.file} is no table", allowed=", ".join(KINDS))


def _with_columns(table: Table, rows: Iterator[tuple[int, dict[str, str]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, when they have the columns that options name.

    Raises:
        RellmError: a column is missing.
    """
    for number, (line, row) in enumerate(rows):
        there = {_plain(column) for column in row}
        missing = [column for column in table.columns.values() if _plain(column) not in there]
        if not number and missing:
            raise RellmError(f"{table.file}:1: no column {', '.join(missing)}", allowed=f"found: {', '.join(row)}")
        yield line, row


def _place(table: Table, path: Path) -> tuple[str, Path]:
    """(location, name) of a recording, from the path of a row. A path of another machine is looked for by its end.

    Raises:
        ValueError: the archive has no such member.
    """
    if table.suffix and not path.suffix:
        path = path.with_name(path.name + table.suffix)
    if table.members is not None:
        names = (path.with_suffix(suffix).as_posix() for suffix in waveform.SUFFIXES)
        name = next((name for name in (path.as_posix(), *names) if name in table.members), None)
        if name is None:
            raise ValueError(f"{table.audio_root.name} has no readable member {path.as_posix()}")
        return table.members[name], path
    if path.is_absolute() and not os.path.exists(path):
        parts = path.parts[1:]
        ends = (Path(*parts[n:]) for n in range(len(parts)))
        path = next((end for end in ends if os.path.isfile(any_format(table.audio_root / end))), path)
    if not path.is_absolute():
        return str(table.audio_root / path), path
    below = path.is_relative_to(table.audio_root)
    return str(path), path.relative_to(table.audio_root if below else path.anchor)


def seconds(value: object) -> float | None:
    """Seconds of a number, of `1:02:03.5`, or of audformat's `0 days 00:00:01.5`; None for `NaT` and nothing.

    Raises:
        ValueError: it is none of these.
    """
    if value is None or str(value).strip().lower() in ("", "nat", "nan", "none"):
        return None
    match = _TIME.fullmatch(str(value).strip())
    if match is None:
        return float(value)  # type: ignore[arg-type]
    days, hours, minutes, rest = (float(part or 0) for part in match.groups())
    return round(((days * 24 + hours) * 60 + minutes) * 60 + rest, 6)


def _utterance(scan: Scan, table: Table, found: Mapping[str, Any], line: int | None, audio: str | None) -> Utterance:
    place, name = (audio, Path(audio)) if audio else _place(table, Path(str(found["audio"])))
    kept = found[KEPT]
    start, duration = seconds(found["start"]) or 0.0, seconds(found["duration"])
    if duration is None and (end := seconds(found["end"])) is not None:
        duration = end - start
    segment = f"-{start:g}" if start else ""
    fields = {
        "key": found["key"] or f"{table.corpus}-{name.with_suffix('').as_posix().replace('/', '-')}{segment}",
        "corpus": table.corpus,
        "split": found["split"] or table.split,
        "audio": place,
        "start": start,
        "duration": duration,
        **{field: found[field] for field in ("text", "speaker", "dialogue", "gender", "reference")},
        "language": found["language"] or table.language,
    }
    fields = {field: value if value is None or field in _NUMBERS else str(value) for field, value in fields.items()}
    if found["turn"] is not None:
        fields["turn"] = int(found["turn"])
    ratings = {dimension: float(found[dimension]) for dimension in DIMENSIONS if found[dimension] is not None}
    if kept is not None:
        return restored(scan, table.file, line, {**fields, **ratings, "emotion": found["emotion"]}, kept)
    if ratings and len(ratings) < len(DIMENSIONS):
        there = ", ".join(ratings)
        scan.once(table.file, f"only {there} of {', '.join(DIMENSIONS)}: such rows are kept without them", line)
    elif ratings:
        fields |= dimensions(scan, ratings, table.scale, table.file, line)
    if found["emotion"] is not None:
        raw = str(found["emotion"])
        fields |= {"emotion": scan.emotion(raw, table.file, line, table.labels), "emotion_raw": raw}
    if found["words_emotion"] is not None:
        fields["words_emotion"] = scan.emotion(str(found["words_emotion"]), table.file, line, table.labels)
    return Utterance.model_validate({field: value for field, value in fields.items() if value is not None})


def restored(scan: Scan, file: Path, line: int | None, fields: Mapping[str, Any], kept: object) -> Utterance:
    """An utterance that was exported: fields that the format has a place for, and those in `KEPT` (JSON text or not).

    Raises:
        ValueError: they are not those of an utterance.
    """
    others = json.loads(kept) if isinstance(kept, str) else kept
    if not isinstance(others, dict):
        raise ValueError(f"{KEPT} is not a JSON object")
    emotion = fields.get("emotion")
    if emotion is not None and not is_label(emotion, others.get("label_set")):
        emotion = scan.emotion(str(emotion), file, line)
    return Utterance.model_validate(
        {**fields, **others, **{k: v for k, v in fields.items() if k in LOCATION}, "emotion": emotion}
    )
