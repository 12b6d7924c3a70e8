"""EmpatheticDialogues: 24,850 conversations about a situation, each with one of 32 emotions (Rashkin et al. 2019).

Quirks: the csv files have no quotes; a comma inside a text is written `_comma_`, and some lines have more fields than
the header. Who tells the situation speaks first; the emotion (column `context`) is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_lines
from re_llm.data.corpora.text_dialogues import Said, user_turns

INFO = CorpusInfo(
    name="empathetic_dialogues",
    title="EmpatheticDialogues (text)",
    languages=("en",),
    licence="CC BY-NC 4.0",
    get="https://github.com/facebookresearch/EmpatheticDialogues (empatheticdialogues.tar.gz)",
    citation="Rashkin et al., Towards Empathetic Open-domain Conversation Models, ACL 2019",
    root="train.csv, valid.csv, test.csv",
    text_only=True,
)

SPLITS = {"train": "train", "valid": "dev", "test": "test"}
HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
LABELS = "empathetic_dialogues"
Row = tuple[int, list[str]]  # line and fields


def read(scan: Scan) -> Iterator[Utterance]:
    """The speaker's turns by part, in the order of its file."""
    root = scan.path_root(lambda p: (p / "test.csv").is_file(), f"expected {INFO.root} in it")
    for part, split in SPLITS.items():
        path = root / f"{part}.csv"
        if not path.is_file():
            scan.problem(path, "the table is missing")
            continue
        for dialogue, rows in groupby(_rows(scan, path), key=lambda row: row[1][0]):
            yield from _turns(scan, path, dialogue, list(rows), split)


def _rows(scan: Scan, path: Path) -> Iterator[Row]:
    names = HEADER.split(",")
    for line, text in read_lines(path):
        fields = text.split(",")
        if line == 1 and fields[: len(names) - 1] == names[:-1]:
            continue
        if len(fields) < 6 or not fields[5].strip():
            scan.problem(path, f"{len(fields)} fields, or no utterance; the header is {HEADER}", line)
        else:
            yield line, [field.replace("_comma_", ",").strip() for field in fields]


def _turns(scan: Scan, path: Path, dialogue: str, rows: list[Row], split: str) -> Iterator[Utterance]:
    (line, first), user = rows[0], rows[0][1][4]
    if scan.label_set:
        label, emotion = scan.label_set, scan.emotion(first[2], path, line)
    else:
        label, emotion = LABELS, first[2]
    said = [Said(f[4], f[5], emotion if f[4] == user else None, f[2] if f[4] == user else None) for _, f in rows]
    about = {"split": split, "situation": first[3], "label_set": label}
    yield from user_turns(scan, INFO, dialogue.replace(":", "-"), said, user, **about)
