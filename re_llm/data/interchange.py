"""Export of manifests and continuations: jsonl of BLSP-Emo and RE-LLM, EmoBox, lhotse, WebDataset, Hugging Face.

`export(manifest, out, kind)` writes; the corpus reader of the same name (`re_llm.data.corpora`) reads it back.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from gzip import GzipFile
from itertools import islice
from pathlib import Path

from re_llm.audio import waveform
from re_llm.audio.source import locate
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.files import disk_error, new_folder, refuse_existing, writing
from re_llm.core.records import DIMENSIONS, Continuation, Utterance, read_records, write_records
from re_llm.data.corpora.base import Scan, unit
from re_llm.data.corpora.columns import KEPT, LOCATION, UNIT
from re_llm.data.corpora.files import Json, read_json_lines
from re_llm.data.corpora.peers import with_dimensions

PER_SHARD = 1000
UNLABELLED = "unknown"  # in EmoBox, where every row has a label


def _kept(utterance: Utterance, native: Iterable[str]) -> Json:
    """The fields that a format has no place for, under a name that only the readers here know; `native` are others."""
    return {KEPT: utterance.model_dump(exclude={*LOCATION, *native}, exclude_none=True)}


def _where(manifest: Path, utterance: Utterance | Continuation) -> str:
    """Absolute name of a recording (archive members keep their offsets)."""
    return os.path.abspath(manifest.parent / utterance.audio)


def _beside(manifest: Path, utterance: Utterance | Continuation, out: Path) -> str:
    return Path(os.path.relpath(_where(manifest, utterance), os.path.abspath(out.parent))).as_posix()


def _is_segment(utterance: Utterance, header: waveform.AudioInfo) -> bool:
    length = utterance.duration or header.seconds
    return bool(utterance.start) or abs(header.seconds - length) >= waveform.END_TOLERANCE


def _write_json(out: Path, rows: Iterable[Json]) -> int:
    count = 0
    # Without name and time in a packed file: the same manifest gives the same bytes.
    with writing(out) as file, GzipFile("", "wb", fileobj=file, mtime=0) if out.suffix == ".gz" else file as lines:
        for count, row in enumerate(rows, 1):  # noqa: B007
            lines.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
    return count


def _to_peers(manifest: Path, out: Path) -> int:
    def row(utterance: Utterance) -> Json:
        place = _where(manifest, utterance)
        if locate(place).length is not None or _is_segment(utterance, waveform.info(place)):
            raise RellmError(
                f"{utterance.key} is a part of {utterance.audio}, and the peers' jsonl knows whole files only",
                todo="Export as webdataset, which cuts the recordings",
            )
        found = utterance.dimensions()
        return {
            "audio": _beside(manifest, utterance, out),
            "text": utterance.text,
            "emotion": utterance.emotion,
            **({} if found is None else {"avd_ans": [found[1], found[0], found[2]]}),
            **_kept(utterance, ("text", "emotion", *(() if found is None else DIMENSIONS))),
        }

    return _write_json(out, map(row, read_records(manifest, Utterance)))


def _to_emobox(manifest: Path, out: Path) -> int:
    def row(utterance: Utterance) -> Json:
        if locate(utterance.audio).length is not None:
            raise RellmError(f"{utterance.key} is in an archive, which EmoBox cannot name", todo="Export as webdataset")
        header = waveform.info(_where(manifest, utterance))
        start = utterance.start
        length = utterance.duration or header.seconds - start
        return {
            "key": utterance.key,
            "dataset": utterance.corpus,
            "wav": _beside(manifest, utterance, out),
            "type": "raw",
            "sample_rate": header.rate,
            "num_frame": float(header.frames),
            "task": "category",
            "length": length,
            "emo": utterance.emotion or UNLABELLED,
            "channel": 1,
            **({"start_time": start, "end_time": start + length} if _is_segment(utterance, header) else {}),
            **({"spk": utterance.speaker} if utterance.speaker else {}),
            **_kept(utterance, ("key", "corpus", "emotion", "speaker")),
        }

    return _write_json(out, map(row, read_records(manifest, Utterance)))


def _to_lhotse(manifest: Path, out: Path) -> int:
    def row(utterance: Utterance) -> Json:
        place = _where(manifest, utterance)
        if locate(place).length is not None:
            raise RellmError(f"{utterance.key} is in an archive, which lhotse cuts of files cannot name")
        header = waveform.info(place)
        duration = utterance.duration or header.seconds - utterance.start
        said = {"text": utterance.text, "language": utterance.language, "speaker": utterance.speaker}
        custom = {name: getattr(utterance, name) for name in ("emotion", "split", *DIMENSIONS)}
        custom |= _kept(utterance, ("key", *said, *custom))
        return {
            "id": utterance.key,
            "start": utterance.start,
            "duration": duration,
            "channel": 0,
            "supervisions": [
                {
                    "id": utterance.key, "recording_id": utterance.key, "channel": 0,
                    "start": 0.0, "duration": duration,
                    **{k: v for k, v in said.items() if v is not None},
                    "custom": {k: v for k, v in custom.items() if v is not None},
                }
            ],
            "recording": {
                "id": utterance.key,
                "sources": [{"type": "file", "channels": list(range(header.channels)), "source": place}],
                "sampling_rate": header.rate, "num_samples": header.frames, "duration": header.seconds,
                "channel_ids": list(range(header.channels)),
            },
            "type": "MonoCut",
        }  # fmt: skip

    return _write_json(out, map(row, read_records(manifest, Utterance)))


def _encoded(manifest: Path, utterance: Utterance) -> tuple[bytes, str]:
    """(bytes, suffix) of a recording: the file as it is, or its segment as 16-bit FLAC at 16 kHz."""
    place = _where(manifest, utterance)
    member = locate(place)
    if member.length is None and not _is_segment(utterance, waveform.info(place)):
        return member.path.read_bytes(), member.path.suffix.lower()
    import soundfile

    samples = waveform.load(place, start=utterance.start, duration=utterance.duration)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, waveform.RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue(), ".flac"


def _to_webdataset(manifest: Path, out: Path) -> int:
    rows = enumerate(read_records(manifest, Utterance))
    count = 0
    if there := sorted(out.glob("*.tar")):
        raise RellmError(f"{out} holds shards already: {there[0].name}", todo="Give another --out, or delete them")
    try:
        with new_folder(out) as folder:
            while batch := list(islice(rows, PER_SHARD)):
                _write_shard(manifest, folder / f"{count // PER_SHARD:06}.tar", batch)
                count += len(batch)
    except OSError as error:
        raise disk_error(out, error) from error
    return count


def _write_shard(manifest: Path, path: Path, rows: Sequence[tuple[int, Utterance]]) -> None:
    with tarfile.open(path, "w") as shard:
        for number, utterance in rows:
            data, suffix = _encoded(manifest, utterance)
            fields = utterance.model_dump(exclude=set(LOCATION), exclude_none=True)
            fields |= _kept(utterance, ())
            _add(shard, f"{number:08}{suffix}", data)
            _add(shard, f"{number:08}.json", json.dumps(fields, ensure_ascii=False).encode())


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    # No time of writing in it: the same manifest gives the same bytes.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _to_hf(manifest: Path, out: Path) -> int:
    with MissingExtra.unless("datasets", "data", "Writing a Hugging Face dataset"):
        import datasets
        from datasets.arrow_writer import ArrowWriter
    columns = sorted(set(Utterance.model_fields) - LOCATION)
    kinds = dict.fromkeys([*columns, KEPT], datasets.Value("string"))
    kinds |= dict.fromkeys(DIMENSIONS, datasets.Value("float64")) | {"turn": datasets.Value("int64")}
    # Written as plain bytes and called Audio at the end: encoding through Audio would ask for torchcodec.
    sound = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({**kinds, "audio": sound})

    splits = sorted({utterance.split for utterance in read_records(manifest, Utterance)})
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        # Written row by row to the disk: the recordings of a corpus do not fit into memory.
        writers = {split: ArrowWriter(path=f"{folder}/{split}.arrow", features=features) for split in splits}
        for utterance in read_records(manifest, Utterance):
            data, suffix = _encoded(manifest, utterance)
            row = utterance.model_dump(include=set(columns))
            row[KEPT] = json.dumps(_kept(utterance, ())[KEPT])
            row["audio"] = {"bytes": data, "path": f"{utterance.key}{suffix}"}
            writers[utterance.split].write(row)
        for writer in writers.values():
            writer.finalize()
        tables = {split: datasets.Dataset.from_file(f"{folder}/{split}.arrow") for split in splits}
        found = datasets.DatasetDict(tables).cast_column("audio", datasets.Audio(decode=False))
        found.save_to_disk(str(out))
        return sum(found.num_rows.values())


EXPORTS: dict[str, Callable[[Path, Path], int]] = {
    "peers": _to_peers,
    "emobox": _to_emobox,
    "lhotse": _to_lhotse,
    "webdataset": _to_webdataset,
    "hf": _to_hf,
}


def export(manifest: str | os.PathLike[str], out: str | os.PathLike[str], kind: str) -> int:
    """Writes a manifest in another format; returns the number of utterances.

    Args:
        out: a file for `peers`, `emobox` and `lhotse`, a folder for `webdataset` and `hf`.
        kind: one of `EXPORTS`.

    Raises:
        RellmError: unknown kind, something at `out` already, a broken manifest, a recording that is missing or that the
            format cannot name.
        MissingExtra: `hf` without the extra `data`.
    """
    if kind not in EXPORTS:
        raise RellmError(f"unknown format {kind!r}", allowed=", ".join(EXPORTS))
    refuse_existing(Path(out))
    return EXPORTS[kind](Path(manifest), Path(out))


def continuations_from_peers(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    llm: str,
    corpus: str | None = None,
    split: str = "train",
    audio_root: str | os.PathLike[str] | None = None,
    scale: tuple[float, float] = UNIT,
) -> int:
    """Continuations (`continuations.jsonl`) from the peers' jsonl with `instruction`, `output`, `early_stop`.

    Args:
        llm: the LLM that wrote the outputs (the file does not say it).
        scale: range of `avd_ans` in the file.

    Raises:
        RellmError: a line is broken, lacks a field, or a rating is off the scale; names file and line. Or there is
            something at `out` already.
    """
    source, target = Path(path), Path(out)
    root = Path(audio_root) if audio_root is not None else source.parent
    low, high = scale

    def record(line: int, row: Json) -> Continuation:
        row = with_dimensions(row)
        try:
            place = Path(os.path.relpath(os.path.abspath(root / row["audio"]), os.path.abspath(target.parent)))
            ratings = {name: float(row[name]) for name in DIMENSIONS if row.get(name) is not None}
            fields = {
                "key": str(row.get("key") or f"{corpus or source.stem}-{Path(row['audio']).stem}"),
                "audio": place.as_posix(),
                "text": row["text"],
                "emotion": row.get("emotion"),
                "instruction": row.get("instruction", ""),
                "output": row["output"],
                "early_stop": row.get("early_stop", False),
                "llm": llm,
                "corpus": corpus or source.stem,
                "split": split,
                **{name: unit(value, low, high) for name, value in ratings.items()},
            }
            return Continuation.model_validate(fields)
        except (KeyError, TypeError, ValueError) as error:
            raise RellmError(f"{source}:{line}: not a continuation: {str(error).splitlines()[0]}") from error

    refuse_existing(target)
    scan = Scan(source.parent, strict=True)
    return write_records(target, (record(line, row) for line, row in read_json_lines(scan, source)))


def continuations_to_peers(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """The peers' jsonl from `continuations.jsonl`: audio, text, instruction, emotion, output, early_stop, avd_ans.

    Raises:
        RellmError: something at `out` already, or a broken line.
    """
    source, target = Path(path), Path(out)
    refuse_existing(target)

    def row(record: Continuation) -> Json:
        found = record.dimensions()
        return {
            "audio": _beside(source, record, target),
            **record.model_dump(include={"text", "instruction", "emotion", "output", "early_stop"}),
            **({} if found is None else {"avd_ans": [found[1], found[0], found[2]]}),
        }

    return _write_json(target, (row(record) for record in read_records(source, Continuation)))
