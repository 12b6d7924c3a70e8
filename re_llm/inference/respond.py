"""`re-llm respond`: a system's reply to every utterance of a manifest, appended to `replies.jsonl` as they come.

An interrupted run goes on where it stopped, with the model and options that the file was begun with: they stand in
`NAME.provenance.json`. A recording that cannot be used is not skipped in silence: it is listed with the reason in
`NAME.dropped.jsonl` and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from re_llm.audio import waveform
from re_llm.audio.source import locate, moved
from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.core.provenance import begin_sidecar, check_same, file_hash, read_sidecar, write_sidecar
from re_llm.core.records import RecordAppender, ReplyRecord, Utterance, read_records
from re_llm.inference.ask import OPTIONS, Ask, to_record

if TYPE_CHECKING:
    import numpy as np

    from re_llm.inference.engine import Engine, Reply

# Utterances decoded to samples at once: half an hour of speech is about 100 MB, and batches are sorted by length
# within it. Also what a kill can cost a text system; a speech system writes every batch.
CHUNK = 256


class RowSystem(Protocol):
    """A system that answers manifest rows (re_llm.inference.systems); an `Engine` answers the recordings alone."""

    @property
    def needs_audio(self) -> bool: ...

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        *,
        prompt: str | None,
        recognize: str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 128,
        on_batch: Callable[[list[int], list[Reply]], None] | None = None,
    ) -> list[Reply]: ...


@dataclass
class RespondReport:
    """What `respond_manifest` did. Unusable recordings are counted in `dropped` and listed in `dropped_file`.

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
    for name in (os.fspath(file) for file in files):
        path = locate(name).path
        if not path.is_file():
            what = f"{path} is a folder" if path.is_dir() else f"no such file: {path}"
            raise RellmError(what, allowed="recordings, or one manifest ending in .jsonl")
        if name in rows:
            raise RellmError(f"{name} is named twice", todo="Name every recording once")
        rows[name] = Utterance(key=name, corpus="files", split="test", audio=name)
    return list(rows.values())


def respond_files(engine: Engine, rows: Sequence[Utterance], ask: Ask) -> list[ReplyRecord]:
    """Replies to recordings, kept in memory.

    Raises:
        RellmError: a recording cannot be used.
    """
    answers: list[Reply] = []
    for first in range(0, len(rows), CHUNK):
        items = [row.audio for row in rows[first : first + CHUNK]]
        answers += engine.respond_many(
            items,
            prompt=ask.prompt,
            recognize=ask.recognize,
            batch_size=ask.batch_size,
            max_new_tokens=ask.max_new_tokens,
        )
    return [to_record(row, answer, ask) for row, answer in zip(rows, answers, strict=True)]


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


def respond_manifest(
    responder: Engine | RowSystem,
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: Iterable[str] | None = None,
    strict: bool = False,
    progress: bool = True,
    **ask: Any,
) -> RespondReport:
    """Replies to the utterances of a manifest, as records in `out`; keys that `out` already holds are passed over.

    Args:
        responder: an engine, or a text system of `re_llm.inference.systems`.
        splits: only these splits; None takes all.
        strict: raise at the first unusable recording instead of listing it.
        ask: fields of `Ask`.

    Raises:
        RellmError: the manifest is missing or broken, no utterance is in the splits, `out` was begun with another
            model or other options, the disk is full, or (strict) a recording is bad. What is written stays.
    """
    manifest = Path(manifest)
    rows = _rows(manifest, splits)
    made = {"manifest": manifest.name, "sha256": file_hash(manifest), "splits": sorted(splits or [])}
    return respond_rows(
        responder, rows, manifest.parent, Path(out), Ask(**ask), made=made, strict=strict, progress=progress
    )


def respond_rows(
    responder: Engine | RowSystem,
    rows: Sequence[Utterance],
    root: Path,
    out: Path,
    ask: Ask,
    *,
    made: Mapping[str, Any] | None = None,
    strict: bool = False,
    progress: bool = True,
) -> RespondReport:
    """As `respond_manifest`, for rows at hand.

    Args:
        root: folder that their audio paths are relative to.
        made: what is said about the rows beside `out`.
    """
    report, begun = RespondReport(out), time.monotonic()
    dropped_file = out.with_suffix(".dropped.jsonl")
    with RecordAppender(out) as kept:
        report.resumed = kept.rows
        sidecar = _begin(responder, out, ask, {**(made or {}), "batch_size": ask.batch_size}, kept)
        dropped_file.unlink(missing_ok=True)  # a recording that was unusable in an earlier run is tried again
        with RecordAppender(dropped_file) as dropped:
            todo = [row for row in rows if row.key not in kept.keys]
            with progress_bar(ask.system, len(rows), done=len(rows) - len(todo), show=progress) as advance:
                run = _Run(responder, root, ask, kept, dropped, advance, report, ask.longest(responder))
                for first in range(0, len(todo), CHUNK):
                    run.answer(todo[first : first + CHUNK], strict=strict)
            report.rows, report.dropped = kept.rows, dropped.rows
    if report.dropped:
        report.dropped_file = dropped_file
    else:
        dropped_file.unlink()
    write_sidecar(out, {**sidecar, "complete": True, "rows": report.rows, "dropped": report.dropped})
    report.seconds = time.monotonic() - begun
    return report


def _begin(
    responder: Engine | RowSystem, out: Path, ask: Ask, made: Mapping[str, Any], kept: RecordAppender
) -> dict[str, Any]:
    """Writes beside `out` how its replies are made, once it is clear that those in it were made so."""
    settings = ask.settings(responder)
    sidecar = read_sidecar(out) if kept.rows else None
    if kept.rows:
        check_same(out, sidecar, settings, OPTIONS)
    if kept.rows != len(kept.keys):
        raise RellmError(f"{out} holds a key twice", todo="Move the file away, or give another --out")
    return begin_sidecar(out, settings, sidecar, made)


@dataclass
class _Run:
    """One run over rows: where they come from, who answers, where replies and complaints go."""

    responder: Engine | RowSystem
    root: Path
    ask: Ask
    kept: RecordAppender
    dropped: RecordAppender
    advance: Callable[..., None]
    report: RespondReport
    longest: float
    rows: list[Utterance] = field(default_factory=list)

    def answer(self, chunk: Sequence[Utterance], *, strict: bool) -> None:
        """Answers a chunk; every batch of a speech system is written when it is done."""
        good, samples, bad = self._load(chunk)
        if bad and strict:
            raise bad[0][1]
        self.dropped.append(row.model_copy(update={"dropped": str(error)}) for row, error in bad)
        self.advance(len(bad))
        here = self.kept.path.parent
        self.rows = [row.model_copy(update={"audio": moved(row.audio, self.root, here)}) for row in good]
        if not good:
            return
        options: dict[str, Any] = {
            "prompt": self.ask.prompt,
            "recognize": self.ask.recognize,
            "batch_size": self.ask.batch_size,
            "max_new_tokens": self.ask.max_new_tokens,
            "on_batch": self._save,
        }
        if hasattr(self.responder, "respond_rows"):
            self.responder.respond_rows(good, samples, **options)
        else:
            assert samples is not None, "an engine hears recordings"
            self.responder.respond_many(samples, **options)

    def _load(
        self, chunk: Sequence[Utterance]
    ) -> tuple[list[Utterance], list[np.ndarray] | None, list[tuple[Utterance, RellmError]]]:
        """(usable rows, their samples at 16 kHz, unusable rows with the reason); no samples for who only reads."""
        if not getattr(self.responder, "needs_audio", True):
            return list(chunk), None, []
        good, samples, bad = [], [], []
        for row in chunk:
            try:
                wave = waveform.load(row.audio, start=row.start, duration=row.duration, root=self.root)
                samples.append(waveform.refuse_silence(waveform.refuse_long(wave, row.audio, self.longest), row.audio))
                good.append(row)
            except RellmError as error:
                bad.append((row, error))
        return good, samples, bad

    def _save(self, indices: list[int], replies: list[Reply]) -> None:
        pairs = [(self.rows[i], reply) for i, reply in zip(indices, replies, strict=True)]
        self.kept.append(to_record(row, reply, self.ask) for row, reply in pairs)
        self.report.cut += sum(reply.finish_reason == "length" for reply in replies)
        self.advance(len(indices))
