"""The JSON lines of BLSP-Emo and of the released RE-LLM code: audio, text, emotion, and for RE-LLM `avd_ans`.

`avd_ans` is (arousal, valence, dominance), in that order; the fields can also stand by name. Its range is not written
in the file: give the option `scale` (`1..5` for IEMOCAP, `1..7` for MSP-Podcast). The LLM's outputs in such a file are
continuations and are read by `re_llm.data.interchange.continuations_from_peers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import UNIT, Table, from_row
from re_llm.data.corpora.files import read_json_lines
from re_llm.data.corpora.table import parse_scale, the_file

INFO = CorpusInfo(
    name="peers",
    title="jsonl of BLSP-Emo and RE-LLM",
    languages=(),
    utterances=0,
    emotions=(),
    licence="that of the recordings",
    get="https://github.com/cwang621/blsp-emo (examples)",
    citation="",
    root="the jsonl",
    options={
        "audio_root": "folder that audio paths start from (folder of the file)",
        "scale": "range of avd_ans (0..1), e.g. 1..5",
        "split": "split that is recorded (all)",
        "language": "language that is recorded",
        "corpus": "name of the corpus (name of the file)",
    },
    dimensions=True,
)

AVD = ("arousal", "valence", "dominance")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    file = the_file(scan.root)
    table = Table(
        file=file,
        corpus=scan.option("corpus", file.stem, str),
        audio_root=scan.option("audio_root", file.parent, Path),
        split=scan.option("split", "all", str),
        language=scan.option("language", "", str) or None,
        scale=scan.option("scale", UNIT, parse_scale),
    )
    for line, row in read_json_lines(scan, file):
        utterance = from_row(scan, table, with_dimensions(row), line)
        if utterance is not None:
            yield utterance


def with_dimensions(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `avd_ans` spelt out by name."""
    values = row.get("avd_ans")
    if isinstance(values, list) and len(values) == len(AVD):
        return {**row, **dict(zip(AVD, values, strict=True))}
    return row
