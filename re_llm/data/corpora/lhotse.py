"""Lhotse cuts: `cuts.jsonl` or `cuts.jsonl.gz` with one-channel cuts of files (lhotse itself is not needed).

A supervision gives text, speaker and language; emotion, V/A/D and split are looked for in its `custom` and in that of
the cut. A cut with several supervisions becomes an utterance for each, with its own times. Cuts of several tracks, and
recordings that are no files, are listed as problems.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import OPTIONS, Table, from_rows
from re_llm.data.corpora.files import Json, read_json_lines

INFO = CorpusInfo(
    name="lhotse",
    title="Lhotse cuts",
    licence="that of the recordings",
    get="https://github.com/lhotse-speech/lhotse (CutSet.to_file)",
    root="cuts.jsonl or cuts.jsonl.gz",
    options=OPTIONS,
    dimensions=True,
)


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    if not scan.root.is_file():
        raise RellmError(f"no such file: {scan.root}", allowed=INFO.root)
    corpus = scan.root.name.removesuffix(".gz").removesuffix(".jsonl")
    return from_rows(scan, Table.from_options(scan, scan.root, corpus=corpus), _rows(scan))


def _rows(scan: Scan) -> Iterator[tuple[int, Json, None]]:
    for line, cut in read_json_lines(scan, scan.root):
        try:
            rows = [_row(cut, supervision) for supervision in cut.get("supervisions") or [{}]]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            scan.problem(scan.root, f"not a cut of a file: {error!r}", line)
            continue
        yield from ((line, row, None) for row in rows)


def _row(cut: Json, supervision: Json) -> Json:
    if cut.get("type", "MonoCut") != "MonoCut":
        raise ValueError(f"type {cut['type']}")
    source = cut["recording"]["sources"][0]
    if source["type"] != "file":
        raise ValueError(f"source of type {source['type']}")
    start, duration = cut["start"], cut["duration"]
    several = len(cut.get("supervisions") or ()) > 1
    if several:  # times of a supervision count from the start of the cut, and may lie outside of it
        first = max(supervision["start"], 0.0)
        duration = min(supervision["start"] + supervision["duration"], duration) - first
        start += first
    return {
        **(cut.get("custom") or {}),
        **(supervision.get("custom") or {}),
        **{name: supervision.get(name) for name in ("text", "speaker", "language")},
        "key": supervision["id"] if several else cut["id"],
        "audio": source["source"],
        "start": round(start, 6),
        "duration": round(duration, 6),
    }
