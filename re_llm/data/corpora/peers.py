"""The JSON lines of BLSP-Emo and of the released RE-LLM code: audio, text, emotion, and for RE-LLM `avd_ans`.

`avd_ans` is (arousal, valence, dominance), in that order; the fields can also stand by name. Its range is not written
in the file: give the option `scale` (`1..5` for IEMOCAP, `1..7` for MSP-Podcast). The LLM's outputs in such a file are
continuations and are read by `re_llm.data.interchange.continuations_from_peers`.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import OPTIONS, Table, from_rows, table_file
from re_llm.data.corpora.files import Json, read_json_lines

INFO = CorpusInfo(
    name="peers",
    title="jsonl of BLSP-Emo and RE-LLM",
    licence="that of the recordings",
    get="https://github.com/cwang621/blsp-emo (examples)",
    root="the jsonl",
    options=OPTIONS,
    dimensions=True,
)

AVD = ("arousal", "valence", "dominance")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    file = table_file(scan.root)
    rows = ((line, with_dimensions(row), None) for line, row in read_json_lines(scan, file))
    return from_rows(scan, Table.from_options(scan, file), rows)


def with_dimensions(row: Json) -> Json:
    """The row with the values of `avd_ans` by name."""
    values = row.get("avd_ans")
    if isinstance(values, list) and len(values) == len(AVD):
        return {**{k: v for k, v in row.items() if k != "avd_ans"}, **dict(zip(AVD, values, strict=True))}
    return row
