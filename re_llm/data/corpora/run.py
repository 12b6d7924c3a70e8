"""From the utterances of a reader to a manifest: length, rate and hash of the recordings, filters, pseudo labels."""

from __future__ import annotations

import filecmp
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from re_llm.audio import waveform
from re_llm.cluster.work import Cluster, batched, run_batches, run_rows
from re_llm.core.errors import RellmError
from re_llm.core.files import write_text
from re_llm.core.norms import with_norm
from re_llm.core.product import Made, Overwrite, State
from re_llm.core.progress import progress_bar
from re_llm.core.records import Utterance, write_records
from re_llm.data.corpora.base import CorpusInfo, Filters, Reader, Scan
from re_llm.data.corpora.files import read_json_lines
from re_llm.data.corpora.journal import Journal
from re_llm.data.corpora.product import manifest_product, manifest_standing, recordings_stamp
from re_llm.data.corpora.recordings import BATCH, Checked, HeaderWork, PseudoLabelWork, VadEstimator, estimator_name
from re_llm.data.corpora.registry import get
from re_llm.data.manifest import Problem

COMMON_OPTIONS = {
    "test_speakers": "comma-separated speakers that become the test set; all others the training set",
    "transcripts": "JSON lines with key and text, for utterances without a text",
    "keep_emotions": "comma-separated emotions that are kept; default those of the protocol, or all",
    "min_words": "shortest transcript in words (characters in Chinese and Japanese)",
    "min_seconds": "shortest recording",
    "max_seconds": "longest recording",
    "limit": "stop after so many utterances",
    "label_set": "labels in place of the canonical ones: empathetic_dialogues, a comma-separated list, or a file",
}


@dataclass
class PrepareReport(Made):
    """Result of `prepare`.

    Attributes:
        rows: utterances written.
        seconds: length of their audio.
        by_split, by_emotion: number of rows; an utterance without an emotion counts as `none`.
        problems: what could not be read, also listed in `problems_file`.
        dropped: utterances that the protocol or a filter left out, by reason.
        notes: what else the user should know, such as columns that are not read.
        published: sizes that the papers give for this protocol, by split (`all`: together); empty when an option of
            this run changes the selection.
    """

    rows: int = 0
    by_split: Counter[str] = field(default_factory=Counter)
    by_emotion: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    problems_file: Path | None = None
    published: dict[str, int] = field(default_factory=dict)

    def differing(self) -> dict[str, tuple[int, int]]:
        """(rows here, rows published) of every split whose size is not the published one."""
        here = {**self.by_split, "all": self.rows}
        return {name: (here.get(name, 0), size) for name, size in self.published.items() if here.get(name, 0) != size}


def prepare(
    name: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    protocol: str | None = None,
    seed: int = 0,
    hash: bool = True,
    workers: int = 1,
    strict: bool = False,
    options: Mapping[str, Any] | None = None,
    pseudo_vad: VadEstimator | Literal["norms"] | None = None,
    cluster: Cluster | None = None,
    overwrite: Overwrite = Overwrite.NO,
) -> PrepareReport:
    """Reads a corpus and writes its manifest; `OUT_STEM.problems.jsonl` beside it lists what could not be used.

    Args:
        name: one of `names()`, or the path of a reader (`bells.py`).
        out: the manifest; audio paths in it are relative to its folder.
        protocol: named selection and split of the corpus; None takes everything that it holds.
        seed: for protocols that sample or shuffle.
        hash: whether every recording is hashed (needed for the search for duplicates and leakage).
        workers: threads that read headers and hash; without effect on a cluster.
        strict: the first problem is an error.
        options: settings of the reader (`INFO.options`) and of every reader (`COMMON_OPTIONS`).
        pseudo_vad: estimates valence, arousal and dominance where the corpus has none; `norms` takes those of the
            emotion words (re_llm.core.norms).
        cluster: machines that read the recordings (re_llm.cluster.work.Where); None does it in this process.
        overwrite: what happens to a manifest that was made from something else.

    Raises:
        RellmError: unknown corpus, protocol or option; a root that is not this corpus; not one utterance found; `out`
            was made from something else and may not be overwritten (names what differs).
    """
    root, out, options = Path(root), Path(out), options or {}
    _check(get(name)[0], protocol, options, workers)
    scan = Scan(root, protocol=protocol, seed=seed, options=options, strict=strict)
    estimator = pseudo_vad if pseudo_vad is None or isinstance(pseudo_vad, str) else estimator_name(pseudo_vad)
    product = manifest_product(
        out, name, root, protocol=protocol, seed=seed, hash=hash, options=options, pseudo_vad=estimator
    )
    with product.making(overwrite, look=lambda: manifest_standing(product, root, strict=strict)) as before:
        if before.state is State.SAME:
            return product.stored(PrepareReport)
        report = _prepare(name, scan, out, hashed=hash, workers=workers, pseudo_vad=pseudo_vad, cluster=cluster)
        report.remade = before.why
        product.finish(report, recordings=recordings_stamp(out, root, [p.file for p in report.problems]))
    return report


def _prepare(
    name: str,
    scan: Scan,
    out: Path,
    *,
    hashed: bool,
    workers: int,
    pseudo_vad: VadEstimator | Literal["norms"] | None,
    cluster: Cluster | None,
) -> PrepareReport:
    """Reads the corpus and writes the manifest."""
    info, reader = get(name)
    filters = _filters(info, scan)
    limit = scan.option("limit", 0, int)
    report = PrepareReport(problems=scan.problems, dropped=scan.dropped, notes=scan.notes)
    if not set(scan.options) - {"transcripts", "audio_root"}:  # which alone do not change the selection
        report.published = dict(info.published.get(scan.protocol or "", {}))
    journal = Journal(out)
    work = HeaderWork(scan.root, hashed, journal.known)
    rows = selected(scan, info, reader)
    if not info.text_only:
        checked = run_rows(work, rows, cluster=cluster, workers=workers)
        rows = _kept(scan, filters, journal.keep(checked) if hashed else checked)
    if limit > 0:
        rows = itertools.islice(rows, limit)
    rows = _with_pseudo_labels(scan, rows, pseudo_vad, cluster)
    total = None if scan.protocol or limit else info.utterances or None
    try:
        with progress_bar(f"prepare {info.name}", total) as advance:
            rows = _counted(report, rows, os.path.abspath(out.parent), advance)
            write_records(out, _and_problems(_at_least_one(info, scan, rows), report, out))
    except RellmError:
        if scan.problems and not out.exists():  # an older manifest keeps its list
            _write_problems(out, scan.problems)
        journal.close()
        raise
    journal.delete()
    return report


def _and_problems(rows: Iterable[Utterance], report: PrepareReport, out: Path) -> Iterator[Utterance]:
    """The rows, then the list of the problems: it is there before the manifest is."""
    yield from rows
    # How far a reader is ahead of the recordings depends on where they are read; the list does not.
    report.problems.sort(key=lambda problem: (problem.file, problem.line or 0, problem.what))
    report.problems_file = _write_problems(out, report.problems)


def _check(info: CorpusInfo, protocol: str | None, options: Mapping[str, Any], workers: int) -> None:
    if protocol is not None and protocol not in info.protocols:
        allowed = ", ".join(info.protocols) or "none: leave --protocol out"
        raise RellmError(f"{info.name} has no protocol {protocol!r}", allowed=allowed)
    known = {**info.options, **COMMON_OPTIONS}
    for name in options:
        if name not in known:
            raise RellmError(f"{info.name} has no option {name!r}", allowed=", ".join(known))
    if workers < 1:
        raise RellmError(f"workers={workers}", allowed="1 or more")


def _filters(info: CorpusInfo, scan: Scan) -> Filters:
    preset = info.filters.get(scan.protocol or "", Filters())
    emotions = scan.names("keep_emotions")
    unknown = [name for name in emotions if name not in scan.labels]
    if unknown:
        raise RellmError(f"option keep_emotions: unknown emotion {unknown[0]!r}", allowed=", ".join(scan.labels))
    return Filters(
        emotions=emotions or preset.emotions,
        min_words=scan.option("min_words", preset.min_words, int),
        min_words_in=None if "min_words" in scan.options else preset.min_words_in,
        min_seconds=scan.option("min_seconds", preset.min_seconds, float),
        max_seconds=scan.option("max_seconds", preset.max_seconds, float),
    )


def selected(scan: Scan, info: CorpusInfo, reader: Reader) -> Iterator[Utterance]:
    """Utterances of a reader that protocol and filters keep, with their splits; recordings are not read."""
    filters = _filters(info, scan)
    utterances = _unique(scan, reader(scan))
    if "test_speakers" not in info.options:
        utterances = _split_by_speaker(scan, utterances)
    for utterance in _with_texts(scan, utterances):
        utterance.label_set = scan.label_set or utterance.label_set
        if (why := filters.refuses_row(utterance)) is not None:
            scan.drop(why)
        else:
            yield utterance


def _unique(scan: Scan, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Utterances with unique keys. Some archives hold a corpus twice (RAVDESS and TESS at Kaggle)."""
    seen: dict[str, str] = {}  # recording by key
    for utterance in utterances:
        first = seen.get(utterance.key)
        if first is None:
            seen[utterance.key] = utterance.audio
            yield utterance
        elif os.path.splitext(first)[0] == os.path.splitext(utterance.audio)[0] and first != utterance.audio:
            scan.drop("recording in another format as well")
        elif first != utterance.audio and _same_file(first, utterance.audio):
            scan.drop("second copy of a recording")
        else:
            scan.problem(utterance.audio, f"the key {utterance.key} occurs twice; the first is kept")


def _same_file(first: str, second: str) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def _split_by_speaker(scan: Scan, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Applies the option `test_speakers`; a name that does not occur is a problem."""
    held_out = set(scan.names("test_speakers"))
    absent = set(held_out)
    for utterance in utterances:
        if held_out:
            utterance.split = "test" if utterance.speaker in held_out else "train"
            absent.discard(utterance.speaker or "")
        yield utterance
    for name in sorted(absent):
        scan.problem(scan.root, f"the speaker {name} of test_speakers does not occur")


def _with_texts(scan: Scan, utterances: Iterable[Utterance]) -> Iterator[Utterance]:
    """Applies the option `transcripts` to utterances without a text (MEAD comes without transcripts)."""
    path = scan.option("transcripts", None, Path)
    texts = {} if path is None else {row.get("key"): row.get("text") for _, row in read_json_lines(scan, path)}
    for utterance in utterances:
        if utterance.text is None:
            utterance.text = texts.get(utterance.key)
        yield utterance


def _kept(scan: Scan, filters: Filters, checked: Iterable[Checked]) -> Iterator[Utterance]:
    for utterance, error in checked:
        if error is not None:
            scan.problem(utterance.audio, error.what)
        elif (why := filters.refuses_length(utterance)) is not None:
            scan.drop(why)
        elif utterance.duration and utterance.duration > waveform.MAX_SECONDS:
            scan.problem(utterance.audio, f"too long: {utterance.duration:.0f} s, at most {waveform.MAX_SECONDS:.0f} s")
        else:
            yield utterance


def _with_pseudo_labels(
    scan: Scan, rows: Iterable[Utterance], source: VadEstimator | Literal["norms"] | None, cluster: Cluster | None
) -> Iterator[Utterance]:
    if source is None or source == "norms":
        yield from rows if source is None else map(with_norm, rows)
        return
    for labelled in run_batches(PseudoLabelWork(source), batched(rows, BATCH), cluster):
        for utterance, error in labelled:
            if error is None:
                yield utterance
            else:
                scan.problem(utterance.audio, error.what)


def _counted(
    report: PrepareReport, rows: Iterable[Utterance], folder: str, advance: Callable[[], None]
) -> Iterator[Utterance]:
    """The rows, their paths relative to the folder of the manifest, as the report counts them."""
    for utterance in rows:
        advance()
        if utterance.audio:
            utterance.audio = Path(os.path.relpath(os.path.abspath(utterance.audio), folder)).as_posix()
        report.rows += 1
        report.by_split[utterance.split] += 1
        report.by_emotion[utterance.emotion or "none"] += 1
        report.seconds += utterance.duration or 0.0
        yield utterance


def _at_least_one(info: CorpusInfo, scan: Scan, rows: Iterator[Utterance]) -> Iterator[Utterance]:
    first = next(rows, None)
    if first is None:
        why = f"{len(scan.problems)} problems"
        if scan.problems:
            why += f", the first: {scan.problems[0]}"
        if scan.dropped:
            why += "; left out: " + ", ".join(f"{n} x {what}" for what, n in scan.dropped.most_common(5))
        raise RellmError(f"no utterance of {info.name} in {scan.root} could be used ({why})", todo="Check --root")
    yield first
    yield from rows


def _write_problems(out: Path, problems: Sequence[Problem]) -> Path | None:
    path = out.with_name(f"{out.stem}.problems.jsonl")
    if problems:
        write_text(path, "".join(p.to_line() for p in problems))
        return path
    path.unlink(missing_ok=True)  # of an earlier run
    return None
