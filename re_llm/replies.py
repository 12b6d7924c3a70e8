"""`re-llm respond`: a system's reply to every utterance of a manifest, appended to `replies.jsonl` as they come.

An interrupted run goes on where it stopped. A recording that cannot be used is not skipped in silence: it is listed
with the reason in `<out stem>.dropped.jsonl` and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from re_llm import audio
from re_llm.errors import RellmError
from re_llm.progress import progress_bar
from re_llm.records import RecordAppender, Reply, Utterance, read_records

if TYPE_CHECKING:
    import numpy as np

    from re_llm.engine import Engine
    from re_llm.engine import Reply as Answer

# Utterances decoded to samples at once: half an hour of speech is about 100 MB, and batches are sorted by length
# within it. Also what a kill can cost a text system; a speech system writes every batch.
CHUNK = 256


class RowSystem(Protocol):
    """A system that answers manifest rows (re_llm.systems); an `Engine` answers the recordings alone."""

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
        on_batch: Callable[[list[int], list[Answer]], None] | None = None,
    ) -> list[Answer]: ...


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
        path = audio.locate(name).path
        if not path.is_file():
            what = f"{path} is a folder" if path.is_dir() else f"no such file: {path}"
            raise RellmError(what, allowed="recordings, or one manifest ending in .jsonl")
        if name in rows:
            raise RellmError(f"{name} is named twice", todo="Name every recording once")
        rows[name] = Utterance(key=name, corpus="files", split="test", audio=name)
    return list(rows.values())


def respond_files(
    engine: Engine,
    rows: Sequence[Utterance],
    *,
    system: str = "re-llm",
    prompt: str | None = "chat-empathetic",
    seed: int | None = None,
    **options: Any,
) -> list[Reply]:
    """Replies to recordings, kept in memory. `options` as for `Engine.respond_many`.

    Raises:
        RellmError: a recording cannot be used.
    """
    answers: list[Answer] = []
    for first in range(0, len(rows), CHUNK):
        samples = [audio.load(row.audio) for row in rows[first : first + CHUNK]]
        answers += engine.respond_many(samples, prompt=prompt, **options)
    pairs = zip(rows, answers, strict=True)
    return [to_record(row, answer, system=system, prompt=prompt, seed=seed) for row, answer in pairs]


def to_record(row: Utterance, reply: Answer, *, system: str, prompt: str | None, seed: int | None = None) -> Reply:
    """The record of one reply. `perceived` is the categorical head's choice, `recognized` what the LLM named."""
    probabilities = reply.probabilities or None
    return Reply(
        key=row.key,
        system=system,
        response=reply.response,
        text=row.text,
        audio=row.audio,
        corpus=row.corpus,
        emotion=row.emotion,
        perceived=max(probabilities, key=probabilities.__getitem__) if probabilities else None,
        probabilities={name: round(value, 4) for name, value in probabilities.items()} if probabilities else None,
        answer=reply.answer,
        recognized=reply.emotion if reply.answer is not None else None,
        transcript=getattr(reply, "transcript", None),
        valence=_unit(reply.valence),
        arousal=_unit(reply.arousal),
        dominance=_unit(reply.dominance),
        prompt=prompt,
        tokens=reply.tokens if prompt else None,
        finish_reason=reply.finish_reason if prompt else None,
        seed=seed,
    )


def _unit(value: float | None) -> float | None:
    """The head is linear and may leave 0..1 by a little; the record's scale ends there."""
    return None if value is None else round(min(max(value, 0.0), 1.0), 4)


def _moved(row: Utterance, old: Path, new: Path) -> Utterance:
    """The row with its audio path, which is relative to the folder `old`, relative to the folder `new`."""
    path, *member = row.audio.split(":", 1) if audio.locate(row.audio).length is not None else [row.audio]
    return row.model_copy(update={"audio": ":".join([os.path.relpath(old / path, new), *member])})


def _load(
    rows: Sequence[Utterance], root: Path, responder: Engine | RowSystem
) -> tuple[list[Utterance], list[np.ndarray] | None, list[tuple[Utterance, RellmError]]]:
    """(usable rows, their samples at 16 kHz, unusable rows with the reason); no samples for who only reads."""
    if not getattr(responder, "needs_audio", True):
        return list(rows), None, []
    good, samples, bad = [], [], []
    for row in rows:
        try:
            samples.append(audio.load(row.audio, start=row.start, duration=row.duration, root=root))
            good.append(row)
        except RellmError as error:
            bad.append((row, error))
    return good, samples, bad


def _rows(manifest: Path, splits: Iterable[str] | None) -> list[Utterance]:
    found = list(read_records(manifest, Utterance))
    wanted = set(splits) if splits else {row.split for row in found}
    rows = [row for row in found if row.split in wanted]
    if not rows:
        names = ", ".join(sorted({row.split for row in found})) or "none: the file is empty"
        raise RellmError(f"{manifest} holds no utterance of the split {', '.join(sorted(wanted))}", allowed=names)
    return rows


def respond_manifest(
    responder: Engine | RowSystem,
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    system: str = "re-llm",
    splits: Iterable[str] | None = None,
    prompt: str | None = "chat-empathetic",
    recognize: str | None = None,
    batch_size: int = 16,
    seed: int | None = None,
    strict: bool = False,
    progress: bool = True,
    **options: Any,
) -> RespondReport:
    """Replies to the utterances of a manifest, as records in `out`; keys that `out` already holds are passed over.

    Args:
        responder: an engine, or a text system of `re_llm.systems`.
        system: what it is called in the records and in the report.
        splits: only these splits; None takes all.
        prompt: id of the prompt to answer; None to recognise only.
        recognize: id of a recognition prompt to ask as well; None to leave it out.
        strict: raise at the first unusable recording instead of listing it.
        options: further arguments of `respond_many` and `respond_rows`, e.g. `max_new_tokens`.

    Raises:
        RellmError: the manifest is missing or broken, no utterance is in the splits, or (strict) a recording is bad.
    """
    manifest, out = Path(manifest), Path(out)
    rows = _rows(manifest, splits)
    dropped_file = out.with_suffix(".dropped.jsonl")
    dropped_file.unlink(missing_ok=True)  # a recording that was unusable in an earlier run is tried again
    report = RespondReport(out)
    begun = time.monotonic()
    with RecordAppender(out) as kept, RecordAppender(dropped_file) as dropped:
        report.resumed = len(kept.keys)
        todo = [row for row in rows if row.key not in kept.keys]
        with progress_bar(system, len(rows), done=len(rows) - len(todo), show=progress) as advance:
            for first in range(0, len(todo), CHUNK):
                chunk, samples, bad = _load(todo[first : first + CHUNK], manifest.parent, responder)
                if bad and strict:
                    raise bad[0][1]
                dropped.append(row.model_copy(update={"dropped": str(error)}) for row, error in bad)
                advance(len(bad))
                moved = [_moved(row, manifest.parent, out.parent) for row in chunk]

                def save(indices: list[int], replies: list[Answer], rows: list[Utterance] = moved) -> None:
                    pairs = [(rows[i], reply) for i, reply in zip(indices, replies, strict=True)]
                    kept.append(to_record(row, r, system=system, prompt=prompt, seed=seed) for row, r in pairs)
                    report.cut += sum(reply.finish_reason == "length" for reply in replies)
                    advance(len(indices))

                if chunk:
                    asked = {"prompt": prompt, "recognize": recognize, "batch_size": batch_size, "on_batch": save}
                    _ask(responder, chunk, samples, **asked, **options)
        report.rows, report.dropped = len(kept.keys), len(dropped.keys)
    if report.dropped:
        report.dropped_file = dropped_file
    else:
        dropped_file.unlink()
    report.seconds = time.monotonic() - begun
    return report


def _ask(
    responder: Engine | RowSystem, rows: Sequence[Utterance], samples: Sequence[np.ndarray] | None, **options: Any
) -> None:
    if hasattr(responder, "respond_rows"):
        responder.respond_rows(rows, samples, **options)
    else:
        assert samples is not None, "an engine hears recordings"
        responder.respond_many(samples, **options)
