"""A whole manifest to a file of continuations: resumable after any kill, in the manifest's order."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.cluster.work import Cluster
from re_llm.continuations.dialogues import Dialogues
from re_llm.continuations.identity import continuations, dropped_file
from re_llm.continuations.named import NamedLlm
from re_llm.continuations.plan import CHUNK, WHOLE, Plan, Shard
from re_llm.continuations.rows import Outcome, continue_rows, moved, outcome, question, unusable
from re_llm.continuations.work import ContinueWork
from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.product import Made, Overwrite, State, recall
from re_llm.core.progress import progress_bar
from re_llm.core.records import Utterance
from re_llm.llm.completion import TextLlm
from re_llm.llm.prompts import Prompt, get_prompt

if TYPE_CHECKING:
    from re_llm.llm.server import ChatServer

# Of an LLM that does not say how it decodes.
_LOCAL: Mapping[str, str | None] = {"backend": "local", "dtype": None, "tokens": "pieces"}


@dataclass
class ContinueReport(Made):
    """What a run did, or a merge.

    Attributes:
        rows: continuations that the file holds now.
        resumed: those of them that an earlier run had written.
        early_stops: continuations that were cut at the limit of tokens.
        seconds: time of this run.
        dropped: rows left out, by reason; a refusal is counted under the first pattern that it matches.
        dropped_file: where they are listed, or None when there are none.
        retries: requests to a server that had to be sent again, by reason.
        models: continuations by the model that wrote them, as a server names it.
        earlier_turns: continuations of dialogues by the number of turns before them.
    """

    rows: int = 0
    resumed: int = 0
    early_stops: int = 0
    seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_file: Path | None = None
    retries: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    earlier_turns: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Job:
    """Which rows are continued, with which prompt, into which file."""

    plan: Plan
    prompt: Prompt
    out: Path
    max_new_tokens: int
    batch_size: int

    def chunks(self) -> Iterator[list[Utterance]]:
        """Chunks of the plan, their audio paths relative to the new file instead of the manifest."""
        for rows in self.plan.chunks():
            yield [moved(row, self.plan.manifest.parent, self.out.parent) for row in rows]


@dataclass(frozen=True)
class _Files:
    """The two open files of a run. Each is written in the manifest's order."""

    kept: RecordAppender
    dropped: RecordAppender

    def holds(self, key: str) -> bool:
        return key in self.kept.keys or key in self.dropped.keys

    @property
    def rows(self) -> int:
        return self.kept.rows + self.dropped.rows

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Writes the outcomes that are not there yet."""
        new = [each for each in outcomes if not self.holds(each.key)]
        self.kept.append(each.filed() for each in new if not each.dropped)
        self.dropped.append(each.filed() for each in new if each.dropped)

    def check(self, wanted: Collection[str]) -> None:
        """Whether they hold rows of this run's shard only, each once.

        Raises:
            RellmError: they do not; names the first wrong key.
        """
        for file in (self.kept, self.dropped):
            if file.rows != len(file.keys):
                raise RellmError(f"{file.path} holds a key twice", todo="Move the file away, or give another --out")
            foreign = next((key for key in file.keys if key not in wanted), None)
            if foreign is not None:
                raise RellmError(
                    f"{file.path} holds the key {foreign!r}, which is none of this run's rows",
                    todo="Move the file away, or give another --out",
                )
        if both := self.kept.keys & self.dropped.keys:
            raise RellmError(f"the key {min(both)!r} stands in {self.kept.path} and in {self.dropped.path}")


def continue_manifest(
    manifest: str | Path,
    out: str | Path,
    *,
    llm: str | TextLlm,
    prompt: str = "continue-emotion",
    splits: Iterable[str] | None = ("train",),
    batch_size: int = 32,
    max_new_tokens: int = 48,
    device: str = "auto",
    dtype: str = "auto",
    tokens: str = "pieces",
    shard: str | Shard = WHOLE,
    chunk: int = CHUNK,
    dialogues: Dialogues | None = None,
    progress: bool = True,
    cluster: Cluster | None = None,
    overwrite: Overwrite = Overwrite.NO,
) -> ContinueReport:
    """Writes the LLM's continuation of every transcript, in the manifest's order; goes on where an earlier run ended.

    Refusals and rows without what the prompt needs go to `NAME.dropped.jsonl`, with the reason. A run that was killed
    and started again writes the same bytes as one that was not: chunks of rows are fixed, and one that was not written
    whole is answered again as a whole. `NAME.provenance.json` holds what the file was made from. Memory: the keys of
    the manifest, and one chunk of rows.

    Args:
        llm: folder, hub id, `mini:NAME`, or anything with the methods of `TextLlm`, e.g. a `ChatServer`.
        splits: only these splits; None takes all.
        device, dtype, tokens: of an LLM that is named; see `ChatLlm.load`.
        shard: the part of the chunks to answer; `merge_shards` joins the files.
        chunk: rows answered between two writes; also the largest batch.
        dialogues: earlier turns that the LLM reads before each transcript; the rows of all splits asked for are in
            memory then.
        cluster: machines that answer, a chunk each (re_llm.cluster.work.Where), when the LLM is named.
        overwrite: what happens to a file that was made from something else.

    Raises:
        RellmError: the manifest or the LLM cannot be read, two rows share a key, `out` was made from something else,
            another process is writing it, the disk is full, or a server gives no answers. What is written stays.
    """
    if cluster is not None and not isinstance(llm, str | NamedLlm):
        raise RellmError("a cluster loads the LLM itself, by its name", todo="Give --llm NAME, or leave --engine out")
    part = Shard.parse(shard) if isinstance(shard, str) else shard
    plan = Plan(Path(manifest), frozenset(splits) if splits else None, chunk, part, dialogues)
    job = _Job(plan, get_prompt(prompt), Path(out), max_new_tokens, batch_size)
    wanted = {key for key, number in plan.keys().items() if part.holds(number)}
    model = NamedLlm.of(llm, device=device, dtype=dtype, tokens=tokens) if isinstance(llm, str) else llm
    recall(job.out)
    product = continuations(job.out, plan, job.prompt, model.name, max_new_tokens, getattr(model, "decoding", _LOCAL))
    about = {"llm": model.name, "batch_size": batch_size, "device": getattr(model, "device", None)}
    with product.making(overwrite, run=about) as before:
        if before.state is State.SAME:
            report = product.stored(ContinueReport)
            report.resumed = report.rows
            return report
        report = _continue(job, model, wanted, progress, cluster)
        report.remade = before.why
        product.finish(report)
    return report


def _continue(job: _Job, llm: TextLlm, wanted: set[str], progress: bool, cluster: Cluster | None) -> ContinueReport:
    started = time.monotonic()
    report = ContinueReport()
    with RecordAppender(job.out, logged=True) as kept, RecordAppender(dropped_file(job.out), logged=True) as dropped:
        files = _Files(kept, dropped)
        files.check(wanted)
        report.resumed = kept.rows
        if files.rows < len(wanted):
            with progress_bar("continue", len(wanted), done=files.rows, show=progress) as advance:
                for outcomes in _outcomes(job, llm, files, advance, cluster):
                    files.add(outcomes)
            report.retries = Counter(getattr(llm, "retries", {}))
        assert files.rows == len(wanted), (files.rows, len(wanted))
    count(job.out, report)
    report.seconds = time.monotonic() - started
    return report


def _outcomes(
    job: _Job, llm: TextLlm, files: _Files, advance: Callable[[int], None], cluster: Cluster | None
) -> Iterator[list[Outcome]]:
    """Outcomes of the rows that are missing in the files, in order, as they become known."""
    # A chunk that is written in part is answered again: in another batch its rows might round to other words.
    missing = (rows for rows in job.chunks() if not all(files.holds(row.key) for row in rows))
    if isinstance(llm, NamedLlm) and cluster is not None:
        work = ContinueWork(llm.name, job.prompt, job.max_new_tokens, job.batch_size, llm.device, llm.dtype, llm.tokens)
        for outcomes in cluster.map(work, missing):
            yield outcomes
            advance(len(outcomes))
    elif hasattr(llm, "stream"):
        yield from _from_server(job, llm, files, advance)  # type: ignore[arg-type]
    else:
        limits = {"max_new_tokens": job.max_new_tokens, "batch_size": job.batch_size}
        yield from (continue_rows(rows, llm, job.prompt, **limits, on_batch=advance) for rows in missing)


def _from_server(
    job: _Job, server: ChatServer, files: _Files, advance: Callable[[int], None]
) -> Iterator[list[Outcome]]:
    """As `_outcomes`, row by row: a server batches by itself, and every answer may have been paid for."""
    waiting: deque[Utterance] = deque()

    def questions() -> Iterator[tuple[Prompt, str]]:
        for row in (row for rows in job.chunks() for row in rows if not files.holds(row.key)):
            waiting.append(row)
            if unusable(row, job.prompt) is None:
                yield question(row, job.prompt)

    for answer in server.stream(questions(), max_new_tokens=job.max_new_tokens):
        ready = []
        while unusable(waiting[0], job.prompt):
            ready.append(outcome(waiting.popleft(), job.prompt, server.name, None))
        yield [*ready, outcome(waiting.popleft(), job.prompt, server.name, answer)]
        advance(1)
    yield [outcome(row, job.prompt, server.name, None) for row in waiting]


def count(out: Path, report: ContinueReport) -> None:
    """Fills in what the finished files of `out` hold; an empty file of dropped rows is removed."""
    with out.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            report.rows += 1
            report.early_stops += row["early_stop"]
            report.models[row.get("served_model") or row["llm"]] += 1
            report.earlier_turns[sum(each["role"] == "assistant" for each in row.get("history") or ())] += 1
    if set(report.earlier_turns) == {0}:
        report.earlier_turns.clear()
    with dropped_file(out).open(encoding="utf-8") as lines:
        report.dropped = Counter(json.loads(line)["dropped"] for line in lines)
    if report.dropped:
        report.dropped_file = dropped_file(out)
    else:
        dropped_file(out).unlink()
