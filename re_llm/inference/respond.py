"""`re-llm respond`: a system's reply to every utterance of a manifest, appended to `replies.jsonl` batch by batch.

An interrupted run is resumed with the model and options of its first start, which `NAME.provenance.json` holds; each
reply holds a hash of its row and recording. A recording that cannot be used is listed with the reason in
`NAME.dropped.jsonl` and counted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from re_llm.audio import waveform
from re_llm.audio.source import locate, moved
from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of
from re_llm.core.product import Made, Overwrite, Product, Standing, State, recall
from re_llm.core.progress import progress_bar
from re_llm.core.records import ReplyRecord, Utterance
from re_llm.inference.dialogue import history_of
from re_llm.inference.reply import History, Reply, ReplyOptions, SpeechSystem, System
from re_llm.inference.reply_records import to_record
from re_llm.inference.sources import manifest_rows, row_sources

if TYPE_CHECKING:
    import numpy as np


# Utterances decoded to samples at once: half an hour of speech is about 100 MB, and batches are sorted by length
# within it. Also what a kill can cost a text system; a speech system writes every batch.
CHUNK = 256
PASSING = "server-failed"
FILES = "files"  # corpus of recordings that stand in no manifest


@dataclass
class RespondReport(Made):
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
        speed = f"; {self.rate:.1f} utterances/s" if self.seconds else ""
        how = "complete" if self.skipped else f"{self.resumed} were there{speed}"
        lines = [f"{self.rows} replies in {self.out} ({how})"]
        if self.cut:
            lines.append(f"{self.cut} replies were cut at the token limit (finish_reason `length`)")
        if self.dropped:
            lines.append(f"{self.dropped} recordings could not be used, or got no reply: {self.dropped_file}")
        return "\n".join(lines)


def rows_for(files: Iterable[str | os.PathLike[str]]) -> list[Utterance]:
    """Manifest rows for plain recordings, and for all recordings in folders; the key is the path.

    Raises:
        RellmError: there is no such file, a folder holds no recording, or one is named twice.
    """
    rows: dict[str, Utterance] = {}
    for name in [found for file in files for found in _recordings(os.fspath(file))]:
        if name in rows:
            raise RellmError(f"{name} is named twice", todo="Name every recording once")
        rows[name] = Utterance(key=name, corpus=FILES, split="test", audio=name)
    return list(rows.values())


def _recordings(name: str) -> list[str]:
    path = locate(name).path
    if path.is_dir():
        found = sorted(str(each) for each in path.rglob("*") if each.suffix.lower() in waveform.SUFFIXES)
        if not found:
            raise RellmError(f"{path} is a folder without recordings", allowed=", ".join(waveform.SUFFIXES))
        return found
    if not path.is_file():
        raise RellmError(
            f"no such file: {path}", allowed="recordings, folders of them, or one manifest ending in .jsonl"
        )
    return [name]


def respond_files(
    system: SpeechSystem,
    rows: Sequence[Utterance],
    options: ReplyOptions,
    on_unusable: Callable[[Utterance, RellmError], None] | None = None,
) -> list[ReplyRecord]:
    """Replies to recordings, kept in memory.

    Args:
        on_unusable: called with a recording that cannot be used, which then gets no reply.

    Raises:
        RellmError: a recording cannot be used, and there is no `on_unusable`.
    """
    records: list[ReplyRecord] = []
    answering, options, _ = _with_variant(system, rows, Path(), options, {})
    for first in range(0, len(rows), CHUNK):
        chunk, samples = [], []
        for row in rows[first : first + CHUNK]:
            try:
                samples.append(system.samples(row.audio, *options.prompts))
                chunk.append(row)
            except RellmError as error:
                if on_unusable is None:
                    raise
                on_unusable(row, error)
        if not chunk:
            continue
        replies = answering.respond_rows(chunk, samples, options)
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
    overwrite: Overwrite = Overwrite.NO,
) -> RespondReport:
    """Replies to the utterances of a manifest, as records in `out`; keys that `out` already holds are skipped.

    Args:
        splits: only these splits; None takes all.
        strict: raise at the first unusable recording instead of listing it.
        overwrite: what happens to replies that were made from something else.

    Raises:
        RellmError: the manifest is missing or broken, no utterance is in the splits, `out` holds replies of another
            model, with other options, or to rows that have changed; the disk is full, or (strict) a recording is bad.
            What is written stays.
    """
    rows, known = manifest_rows(manifest, splits)
    about = {"manifest": manifest.name, "splits": sorted(splits or [])}
    return respond_rows(
        system, rows, manifest.parent, out, options,
        about=about, known=known, strict=strict, progress=progress, overwrite=overwrite,
    )  # fmt: skip


def standing(product: Product, sources: Mapping[str, str], known: Collection[str] | None = None) -> Standing:
    """How the replies that are there stand to the rows that are wanted.

    Args:
        sources: what `row_sources` gave of them.
        known: keys of all rows that a reply may be to; None for any.
    """
    found = product.standing()
    if found.state not in (State.SAME, State.UNFINISHED):
        return found
    kept, dropped = (_written(path) for path in (product.out, *product.beside))
    foreign = [key for key in kept if known is not None and key not in known]
    if foreign:
        return Standing(State.DIFFERENT, (f"it holds a reply to {foreign[0]!r}, which the manifest does not have",))
    changed = [key for key, source in kept.items() if sources.get(key, source) != source]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        return Standing(State.DIFFERENT, (f"{changed[0]!r}{more} changed after the reply: its row or its recording",))
    pending = any(key not in kept and dropped.get(key) != source for key, source in sources.items())
    return Standing(State.UNFINISHED) if pending else found


def _written(path: Path) -> dict[str, str | None]:
    """Source by key of the rows in a file; a torn line is none."""
    if not path.is_file():
        return {}
    found: dict[str, str | None] = {}
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                row = json.loads(line)
                found[row["key"]] = row.get("source")
    return found


def respond_rows(
    system: System,
    rows: Sequence[Utterance],
    root: Path,
    out: Path,
    options: ReplyOptions,
    *,
    about: Mapping[str, Any] | None = None,
    known: Collection[str] | None = None,
    strict: bool = False,
    progress: bool = True,
    overwrite: Overwrite = Overwrite.NO,
) -> RespondReport:
    """As `respond_manifest`, for rows in memory.

    Args:
        root: folder that their audio paths are relative to.
        about: where the rows come from, for the provenance of this run.
        known: keys of all rows that `out` may hold replies to; None for any.
    """
    started = time.monotonic()
    recall(out)
    product = options.product(out, system)
    sources = row_sources(rows, root, audio=system.needs_audio)
    system, options, sources = _with_variant(system, rows, root, options, sources)
    run = {**(about or {}), "batch_size": options.batch_size}
    with product.making(overwrite, run=run, look=lambda: standing(product, sources, known)) as before:
        if before.state is State.SAME:
            report = product.stored(RespondReport)
            report.resumed = report.rows
            return report
        report = RespondReport(out=out, remade=before.why)
        _Run(system, root, options, sources, report, strict).answer(rows, progress)
        report.seconds = time.monotonic() - started
        product.finish(report)
    return report


def _with_variant(
    system: System, rows: Sequence[Utterance], root: Path, options: ReplyOptions, sources: dict[str, str]
) -> tuple[System, ReplyOptions, dict[str, str]]:
    """System, options and sources of the replies with the options' variant."""
    if not options.variant.settings():
        return system, options, sources
    from re_llm.inference.varied import varied  # loads torch, which replies of a file do without

    variant = options.variant.exchange(rows) if options.variant.corrupt_emotion else options.variant
    exchanged = {
        key: hash_of([sources.get(key, ""), sources.get(donor.key, ""), donor.key])[:32]
        for key, donor in variant.donors.items()
    }
    return varied(system, options, root), replace(options, variant=variant), sources | exchanged


@dataclass
class _Run:
    """One run over rows: where their audio is, which system answers, where replies and dropped rows go."""

    system: System
    root: Path
    options: ReplyOptions
    sources: Mapping[str, str]
    report: RespondReport
    strict: bool
    kept: RecordAppender = field(init=False)
    dropped: RecordAppender = field(init=False)
    advance: Callable[..., None] = field(init=False)
    max_seconds: float = field(init=False)
    rows: list[Utterance] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)

    def answer(self, rows: Sequence[Utterance], progress: bool) -> None:
        """Replies to the rows that have none, into the files of the report."""
        report, dropped_file = self.report, self.report.out.with_suffix(".dropped.jsonl")
        self.max_seconds = self.system.max_seconds(*self.options.prompts)
        with RecordAppender(report.out, logged=True) as self.kept:
            report.resumed = self.kept.rows
            if report.resumed != len(self.kept.keys):
                raise RellmError(f"{report.out} holds a key twice", todo="Move the file away, or give another --out")
            dropped_file.unlink(missing_ok=True)  # a recording that was unusable in an earlier run is tried again
            todo = [row for row in rows if row.key not in self.kept.keys]
            with (
                RecordAppender(dropped_file, logged=True) as self.dropped,
                progress_bar(self.options.system, len(rows), done=len(rows) - len(todo), show=progress) as self.advance,
            ):
                for first in range(0, len(todo), CHUNK):
                    self._answer(todo[first : first + CHUNK])
                report.rows, report.dropped = self.kept.rows, self.dropped.rows
        if report.dropped:
            report.dropped_file = dropped_file
        else:
            dropped_file.unlink()

    def _answer(self, chunk: Sequence[Utterance]) -> None:
        """Answers a chunk; every batch of a speech system is written when it is done."""
        self.histories = {}
        samples = self._load(chunk) if self.system.needs_audio else None
        good = [row for row in chunk if samples is None or row.key in samples]
        here = self.kept.path.parent
        self.rows = [row.model_copy(update={"audio": moved(row.audio, self.root, here)}) for row in good]
        if good:
            waves = list(samples.values()) if samples else None
            before = None
            if any(row.history for row in good):
                before = [self.histories.get(row.key) or history_of(row, self.root, "text") for row in good]
            self.system.respond_rows(good, waves, self.options, self._save, before)

    def _load(self, chunk: Sequence[Utterance]) -> dict[str, np.ndarray]:
        """Samples of the usable rows at 16 kHz, by key; the other rows are listed with the reason."""
        samples = {}
        for row in chunk:
            try:
                if not row.audio:
                    raise RellmError(f"{row.key} is text without a recording", todo="Answer it with a text system")
                wave = waveform.load(row.audio, start=row.start, duration=row.duration, root=self.root)
                if self.options.history == "speech":
                    self.histories[row.key] = history_of(row, self.root, "speech")
                samples[row.key] = self._checked(wave, row)
            except RellmError as error:
                if self.strict:
                    raise
                about = {"dropped": str(error), "source": self.sources[row.key]}
                self.dropped.append([row.model_copy(update=about)])
                self.advance(1)
        return samples

    def _checked(self, wave: np.ndarray, row: Utterance) -> np.ndarray:
        if row.corpus == FILES:  # as one recording is encoded; a corpus is what it says it is
            return cast("SpeechSystem", self.system).prepared(wave, row.audio, *self.options.prompts)
        return waveform.refuse_silence(waveform.refuse_long(wave, row.audio, self.max_seconds), row.audio)

    def _refused(self, row: Utterance, reply: Reply) -> Utterance:
        """A row without a reply, for the file of dropped ones; after a failure that may pass it is asked again."""
        passing = str(reply.refused).startswith(PASSING)
        return row.model_copy(update={"dropped": reply.refused, "source": None if passing else self.sources[row.key]})

    def _save(self, indices: list[int], replies: list[Reply]) -> None:
        pairs = [(self.rows[i], reply) for i, reply in zip(indices, replies, strict=True)]
        answered = [(row, reply) for row, reply in pairs if reply.refused is None]
        self.kept.append(to_record(row, reply, self.options, self.sources[row.key]) for row, reply in answered)
        self.dropped.append(self._refused(row, reply) for row, reply in pairs if reply.refused is not None)
        self.report.cut += sum(reply.finish_reason == "length" for reply in replies)
        self.advance(len(indices))
