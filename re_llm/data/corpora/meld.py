"""MELD: dialogues of the series Friends, seven emotions (Poria et al. 2019).

Quirks: typographic apostrophes are damaged in the tables (cp1252 read as Latin-1); the folders of the three parts are
named differently; a few clips are broken or missing (train dia125_utt3, dev dia110_utt7) and are listed as problems.
Clips are mp4 and need the extra `av`; converted files (wav, flac ...) of the same names are preferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import BLSP_EMO, CorpusInfo, Scan
from re_llm.data.corpora.files import any_format, read_table, without_row

INFO = CorpusInfo(
    name="meld",
    title="MELD",
    languages=("en",),
    utterances=13_708,
    hours=12.1,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust"),
    licence="GPL-3.0 for the annotations; the clips are of a television series",
    get="https://affective-meld.github.io (MELD.Raw.tar.gz and the archives in it)",
    citation="Poria et al., MELD: A Multimodal Multi-Party Dataset for Emotion Recognition in Conversations, ACL 2019",
    root="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv and the unpacked clips",
    protocols={"blsp-emo": "train and test of BLSP-Emo: five emotions, 5 words or more, 1 to 30 s (dev is kept)"},
    filters={"blsp-emo": replace(BLSP_EMO, min_seconds=1.0, max_seconds=30.0)},
    published={"blsp-emo": {"train": 5_920, "test": 1_577}},
)

FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by part, in the order of its table."""
    root = scan.path_root(lambda p: _table(p, "test") is not None, f"expected {INFO.root} in it")
    for part in FOLDERS:
        table = _table(root, part)
        if table is None:
            scan.problem(root / f"{part}_sent_emo.csv", "the table is missing")
            continue
        clips = _clips(root, part)
        if clips is None:
            scan.problem(table, f"no clips of {part}: unpack {part}.tar.gz in {root}")
            scan.drop(f"{part}: no clips are there", sum(1 for _ in read_table(scan, table, COLUMNS)))
            continue
        named = set()
        for line, row in read_table(scan, table, COLUMNS):
            utterance = _utterance(scan, part, clips, table, line, row)
            named.add(utterance.audio)
            yield utterance
        without_row(scan, [clips], named, table)


def _table(root: Path, part: str) -> Path | None:
    name = f"{part}_sent_emo.csv"
    return next((p for p in (root / name, root / part / name) if p.is_file()), None)


def _clips(root: Path, part: str) -> Path | None:
    name = FOLDERS[part]
    candidates = (root / part / name, root / name, root / f"{part}_splits", root / "wav" / part)
    return next((p for p in candidates if p.is_dir()), None)


def _utterance(scan: Scan, part: str, clips: Path, table: Path, line: int, row: dict[str, str]) -> Utterance:
    name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
    turn = row["Utterance_ID"]
    return INFO.utterance(
        any_format(clips / f"{name}.mp4"),
        key=f"{part}-{name}", split=part, text=row["Utterance"] or None, speaker=row["Speaker"] or None,
        dialogue=f"{part}-{row['Dialogue_ID']}", turn=int(turn) if turn.isdigit() else None,
        emotion=scan.emotion(row["Emotion"], table, line), emotion_raw=row["Emotion"], sentiment=row["Sentiment"],
    )  # fmt: skip
