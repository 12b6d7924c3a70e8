"""`re-llm respond`: a system's reply to every utterance of a manifest, appended to `replies.jsonl` batch by batch.

An interrupted run is resumed with the model and options of its first start, which `NAME.provenance.json` holds. A
recording that cannot be used is listed with the reason in `NAME.dropped.jsonl` and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from re_llm.audio import waveform
from re_llm.audio.source import locate, moved
from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.core.provenance import begin_sidecar, check_same, file_hash, read_sidecar, write_sidecar
from re_llm.core.records import RecordAppender, ReplyRecord, Utterance, read_records
from re_llm.inference.reply import OPTIONS, Reply, ReplyOptions, System, to_record

if TYPE_CHECKING:
    import numpy as np

    from re_llm.inference.engine import Engine

# Utterances decoded to samples at once: half an hour of speech is about 100 MB, and batches are sorted by length
# within it. Also what a kill can cost a text system; a speech system writes every batch.
CHUNK = 256


@dataclass
class RespondReport:
    """What `respond_rows` did. Unusable recordings are counted in `dropped` and listed in `dropped_file`.

    Attributes:
        rows: replies that `out` holds now; `resumed` of them were there before.
        cut: replies of this run that ended at the token limit.
    """

    out: Path
    rows: int = 0
    resumed: int = 0
    dropped: int = 0
    cut: int = 0
    seconds: float = 0.0
    dropped_file: Path | None = None

    @property
    def rate(self) -> float:
        """Utterances per second of this run."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        """For a person."""
        lines = [f"{self.rows} replies in {self.out} ({self.resumed} were there; {self.rate:.1f} utterances/s)"]
        if self.cut:
            lines.append(f"{self.cut} replies were cut at the token limit (finish_reason `length`)")
        if self.dropped:
            lines.append(f"{self.dropped} recordings could not be used: {self.dropped_file}")
        return "\n".join(lines)


def rows_for(files: Iterable[str | os.PathLike[str]]) -> list[Utterance]:
    """Manifest rows for plain recordings; the key is the path.

    Raises:
        RellmError: there is no such file, it is a folder, or it is named twice.
    """
    rows: dict[str, Utterance] = {}
    for name in [os.fspath(file) for file in files]:
        path = locate(name).path
        if not path.is_file():
            what = f"{path} is a folder" if path.is_dir() else f"no such file: {path}"
            raise RellmError(what, allowed="recordings, or one manifest ending in .jsonl")
        if name in rows:
            raise RellmError(f"{name} is named twice", todo="Name every recording once")
        rows[name] = Utterance(key=name, corpus="files", split="test", audio=name)
    return list(rows.values())


def respond_files(engine: Engine, rows: Sequence[Utterance], options: ReplyOptions) -> list[ReplyRecord]:
    """Replies to recordings, kept in memory.

    Raises:
        RellmError: a recording cannot be used.
    """
    records: list[ReplyRecord] = []
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        samples = [engine.samples(row.audio, *options.prompts) for row in chunk]
        replies = engine.respond_rows(chunk, samples, options)
        records += [to_record(row, reply, options) for row, reply in zip(chunk, replies, strict=True)]
    return records


def respond_manifest(
    system: System,
    manifest: Path,
    out: Path,
    options: ReplyOptions,
    *,
    splits: Iterable[str] | None = None,
    strict: bool = False,
    progress: bool = True,
) -> RespondReport:
    """Replies to the utterances of a manifest, as records in `out`; keys that `out` already holds are skipped.

    Args:
        splits: only these splits; None takes all.
        strict: raise at the first unusable recording instead of listing it.

    Raises:
        RellmError: the manifest is missing or broken, no utterance is in the splits, `out` was started with another
            model or other options, the disk is full, or (strict) a recording is bad. What is written stays.
    """
    rows = _rows(manifest, splits)
    about = {"manifest": manifest.name, "sha256": file_hash(manifest), "splits": sorted(splits or [])}
    return respond_rows(system, rows, manifest.parent, out, options, about=about, strict=strict, progress=progress)


def _rows(manifest: Path, splits: Iterable[str] | None) -> list[Utterance]:
    """Rows of the splits.

    Raises:
        RellmError: there are none, or two share a key.
    """
    found = list(read_records(manifest, Utterance))
    if not found:
        raise RellmError(f"{manifest} holds no utterance", todo="Prepare the corpus again")
    wanted = set(splits) if splits else {row.split for row in found}
    rows = [row for row in found if row.split in wanted]
    if not rows:
        names = ", ".join(sorted({row.split for row in found}))
        raise RellmError(f"{manifest} holds no utterance of the split {', '.join(sorted(wanted))}", allowed=names)
    keys: set[str] = set()
    for row in rows:
        if row.key in keys:
            raise RellmError(
                f"{manifest} holds the key {row.key!r} twice",
                todo="Give every utterance its own key; `re-llm prepare check` lists them",
            )
        keys.add(row.key)
    return rows


def respond_rows(
    system: System,
    rows: Sequence[Utterance],
    root: Path,
    out: Path,
    options: ReplyOptions,
    *,
    about: Mapping[str, Any] | None = None,
    strict: bool = False,
    progress: bool = True,
) -> RespondReport:
    """As `respond_manifest`, for rows in memory.

    Args:
        root: folder that their audio paths are relative to.
        about: where the rows come from, for the provenance of this run.
    """
    report, started = RespondReport(out), time.monotonic()
    dropped_file = out.with_suffix(".dropped.jsonl")
    with RecordAppender(out) as kept:
        report.resumed = kept.rows
        sidecar = _begin(out, options.settings(system), {**(about or {}), "batch_size": options.batch_size}, kept)
        dropped_file.unlink(missing_ok=True)  # a recording that was unusable in an earlier run is tried again
        todo = [row for row in rows if row.key not in kept.keys]
        with (
            RecordAppender(dropped_file) as dropped,
            progress_bar(options.system, len(rows), done=len(rows) - len(todo), show=progress) as advance,
        ):
            run = _Run(system, root, options, kept, dropped, advance, report, system.max_seconds(*options.prompts))
            for first in range(0, len(todo), CHUNK):
                run.answer(todo[first : first + CHUNK], strict=strict)
            report.rows, report.dropped = kept.rows, dropped.rows
    if report.dropped:
        report.dropped_file = dropped_file
    else:
        dropped_file.unlink()
    write_sidecar(out, {**sidecar, "complete": True, "rows": report.rows, "dropped": report.dropped})
    report.seconds = time.monotonic() - started
    return report


def _begin(out: Path, settings: Mapping[str, Any], about: Mapping[str, Any], kept: RecordAppender) -> dict[str, Any]:
    """Writes the provenance of this run beside `out`, if the replies in it were made with the same settings."""
    sidecar = read_sidecar(out) if kept.rows else None
    if kept.rows:
        check_same(out, sidecar, settings, OPTIONS)
    if kept.rows != len(kept.keys):
        raise RellmError(f"{out} holds a key twice", todo="Move the file away, or give another --out")
    return begin_sidecar(out, settings, sidecar, about)


@dataclass
class _Run:
    """One run over rows: where their audio is, which system answers, where replies and dropped rows go."""

    system: System
    root: Path
    options: ReplyOptions
    kept: RecordAppender
    dropped: RecordAppender
    advance: Callable[..., None]
    report: RespondReport
    max_seconds: float
    rows: list[Utterance] = field(default_factory=list)

    def answer(self, chunk: Sequence[Utterance], *, strict: bool) -> None:
        """Answers a chunk; every batch of a speech system is written when it is done."""
        samples = self._load(chunk, strict) if self.system.needs_audio else None
        good = [row for row in chunk if samples is None or row.key in samples]
        here = self.kept.path.parent
        self.rows = [row.model_copy(update={"audio": moved(row.audio, self.root, here)}) for row in good]
        if good:
            self.system.respond_rows(good, list(samples.values()) if samples else None, self.options, self._save)

    def _load(self, chunk: Sequence[Utterance], strict: bool) -> dict[str, np.ndarray]:
        """Samples of the usable rows at 16 kHz, by key; the other rows are listed with the reason."""
        samples = {}
        for row in chunk:
            try:
                wave = waveform.load(row.audio, start=row.start, duration=row.duration, root=self.root)
                wave = waveform.refuse_long(wave, row.audio, self.max_seconds)
                samples[row.key] = waveform.refuse_silence(wave, row.audio)
            except RellmError as error:
                if strict:
                    raise
                self.dropped.append([row.model_copy(update={"dropped": str(error)})])
                self.advance(1)
        return samples

    def _save(self, indices: list[int], replies: list[Reply]) -> None:
        pairs = [(self.rows[i], reply) for i, reply in zip(indices, replies, strict=True)]
        self.kept.append(to_record(row, reply, self.options) for row, reply in pairs)
        self.report.cut += sum(reply.finish_reason == "length" for reply in replies)
        self.advance(len(indices))
