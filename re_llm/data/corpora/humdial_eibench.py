"""Task 3 of HumDial-EIBench in the form that its scoring reads: JSON lines of what was said and answered.

`{"dialogue_id": ..., "turns": [{"input_emotion": ..., "input_text": ..., "response_text": ..., "response_audio": ...},
...]}`. The benchmark judges the reply to the second turn that is not neutral: with the protocol `task3`, that turn
alone is kept. The responses before it are those of the system that wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_json_lines
from re_llm.data.corpora.text_dialogues import Said, user_turns

INFO = CorpusInfo(
    name="humdial_eibench",
    title="HumDial-EIBench, task 3 (text)",
    licence="see the dataset; Apache-2.0 for the code",
    get="https://github.com/ASLP-lab/HumDial-EIBench",
    citation="Wang et al., HumDial-EIBench, arXiv 2604.11594, 2026",
    root="the jsonl",
    protocols={"task3": "the second turn of a dialogue that is not neutral, which the benchmark judges"},
    text_only=True,
)


def read(scan: Scan) -> Iterator[Utterance]:
    """The user's turns, in the order of the file."""
    for line, row in read_json_lines(scan, scan.root):
        try:
            name, turns = str(row["dialogue_id"]), row["turns"]
            said = [each for turn in turns for each in _said(scan, turn, line)]
        except (KeyError, TypeError, AttributeError) as error:
            scan.problem(scan.root, f"{type(error).__name__} {error}", line)
            continue
        rows = list(user_turns(scan, INFO, name, said, "user", split="test"))
        if scan.protocol == "task3":
            moved = [each for each in rows if each.emotion not in (None, "neutral")]
            scan.drop("not the turn that is judged", len(rows) - len(moved[1:2]))
            rows = moved[1:2]
        yield from rows


def _said(scan: Scan, turn: dict[str, Any], line: int) -> Iterator[Said]:
    raw = turn["input_emotion"]
    yield Said("user", turn["input_text"].strip(), scan.emotion(raw, scan.root, line), raw)
    if reply := (turn.get("response_text") or "").strip():
        yield Said("assistant", reply)
