"""CPED: dialogues of 40 Chinese television series, with 13 emotions and the speakers' age and sex (Chen et al. 2022).

The published tables hold the words; the clips that they were cut from are not part of the release. A table has a row
an utterance (`Dialogue_ID`, `Utterance_ID`, `Speaker`, `Gender`, `Age`, `Sentiment`, `Emotion`, `DA`, `Utterance`,
personality and scene). The speaker of the first utterance is taken for the user, everybody else for the assistant.
`grateful` has no canonical name and is kept in `emotion_raw`; `positive-other` and `negative-other` are `other`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_table
from re_llm.data.corpora.text_dialogues import Said, user_turns

INFO = CorpusInfo(
    name="cped",
    title="CPED (text)",
    languages=("zh",),
    emotions=("happy", "calm", "angry", "sad", "fear", "disgust", "surprise", "anxious", "neutral", "other"),
    licence="see the repository; the lines are of television series",
    get="https://github.com/scutcyr/CPED (data/CPED)",
    citation="Chen et al., CPED: A Large-Scale Chinese Personalized and Emotional Dialogue Dataset, 2022",
    root="train_split.csv, valid_split.csv, test_split.csv",
    text_only=True,
)

SPLITS = {"train": "train", "valid": "dev", "test": "test"}
COLUMNS = ("Dialogue_ID", "Speaker", "Gender", "Age", "Emotion", "Utterance")
LABELS = {"depress": "sad", "astonished": "surprise", "positive-other": "other", "negative-other": "other"}
UNNAMED = {"grateful"}  # labels without a canonical name
UNKNOWN = "unknown"


def read(scan: Scan) -> Iterator[Utterance]:
    """Turns of the first speaker, by table."""
    root = scan.path_root(lambda p: (p / "test_split.csv").is_file(), f"expected {INFO.root} in it")
    for part, split in SPLITS.items():
        path = root / f"{part}_split.csv"
        if not path.is_file():
            scan.problem(path, "the table is missing")
            continue
        rows = read_table(scan, path, COLUMNS)
        for dialogue, group in groupby(rows, key=lambda row: row[1]["Dialogue_ID"]):
            yield from _turns(scan, path, dialogue, list(group), split)


def _turns(
    scan: Scan, path: Path, dialogue: str, rows: list[tuple[int, dict[str, str]]], split: str
) -> Iterator[Utterance]:
    said = []
    for line, row in rows:
        if not (row["Utterance"] and row["Speaker"]):
            scan.problem(path, "no speaker, or no words", line)
            continue
        said.append(Said(row["Speaker"], row["Utterance"], _emotion(scan, row["Emotion"], path, line), row["Emotion"]))
    if not said:
        return
    about = next(row for _, row in rows if row["Speaker"] == said[0].speaker)
    known = {name.lower(): about[name] for name in ("Gender", "Age") if about[name] not in ("", UNKNOWN)}
    yield from user_turns(scan, INFO, dialogue, said, said[0].speaker, split=split, **known)


def _emotion(scan: Scan, raw: str, path: Path, line: int) -> str | None:
    if raw in UNNAMED and raw not in scan.labels:
        return None
    return scan.emotion(raw, path, line, LABELS)
