"""Lhotse cuts: `cuts.jsonl` or `cuts.jsonl.gz` with one-channel cuts of files (lhotse itself is not needed).

The first supervision of a cut gives text, speaker and language; emotion, V/A/D and split are looked for in its `custom`
and in that of the cut. Cuts of several tracks, and recordings that are no files, are listed as problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import UNIT, Table, from_row
from re_llm.data.corpora.files import read_json_lines
from re_llm.data.corpora.table import parse_scale

INFO = CorpusInfo(
    name="lhotse",
    title="Lhotse cuts",
    languages=(),
    utterances=0,
    emotions=(),
    licence="that of the recordings",
    get="https://github.com/lhotse-speech/lhotse (CutSet.to_file)",
    citation="",
    root="cuts.jsonl or cuts.jsonl.gz",
    options={
        "audio_root": "folder that relative paths start from (folder of the file)",
        "split": "split where no cut says it (all)",
        "scale": "range of valence, arousal, dominance (0..1), e.g. 1..5",
    },
    dimensions=True,
)


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    if not scan.root.is_file():
        raise RellmError(f"no such file: {scan.root}", allowed=INFO.root)
    table = Table(
        file=scan.root,
        corpus=scan.root.name.removesuffix(".gz").removesuffix(".jsonl"),
        audio_root=scan.option("audio_root", scan.root.parent, Path),
        split=scan.option("split", "all", str),
        scale=scan.option("scale", UNIT, parse_scale),
    )
    for line, cut in read_json_lines(scan, scan.root):
        try:
            row = _row(cut)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            scan.problem(scan.root, f"not a cut of a file: {error!r}", line)
            continue
        utterance = from_row(scan, table, row, line)
        if utterance is not None:
            yield utterance


def _row(cut: dict[str, Any]) -> dict[str, Any]:
    if cut.get("type", "MonoCut") != "MonoCut":
        raise ValueError(f"type {cut['type']}")
    source = cut["recording"]["sources"][0]
    if source["type"] != "file":
        raise ValueError(f"source of type {source['type']}")
    said = cut["supervisions"][0] if cut.get("supervisions") else {}
    return {
        **(cut.get("custom") or {}),
        **(said.get("custom") or {}),
        "key": cut["id"],
        "audio": source["source"],
        "start": cut["start"],
        "duration": cut["duration"],
        "text": said.get("text"),
        "speaker": said.get("speaker"),
        "language": said.get("language"),
    }
