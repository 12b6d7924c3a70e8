"""EmoBox: 32 corpora of speech emotion through one format, with published folds (Ma et al. 2024).

`data/NAME/NAME.jsonl`, folds `data/NAME/fold_N/NAME_{train,valid,test}_fold_N.jsonl`; `label_map.json` says what the
labels of a corpus mean. `wav` paths start from `audio_root`, the folder that holds `downloads`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.corpora.base import CorpusInfo, Scan
from re_llm.corpora.files import read_json_lines, visible
from re_llm.errors import RellmError
from re_llm.records import Utterance

INFO = CorpusInfo(
    name="emobox",
    title="EmoBox folds",
    languages=(),
    utterances=0,
    emotions=(),
    licence="that of each corpus",
    get="https://github.com/emo-box/EmoBox (folder data)",
    citation="Ma et al., EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit, Interspeech 2024",
    root="the folder of one corpus (NAME.jsonl, fold_1 ...), or a jsonl file",
    protocols={"fold": "training and test set of one published fold (option fold)"},
    options={
        "fold": "number of the fold (1)",
        "audio_root": "folder that the wav paths start from (two above the folder of the corpus)",
        "language": "language that is recorded",
    },
)

SPLITS = {"train": "train", "valid": "dev", "test": "test"}


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the files."""
    folder = scan.root.parent if scan.root.is_file() else scan.root
    labels = _label_map(folder)
    audio = scan.option("audio_root", folder.parent.parent, Path)
    for file, split in _files(scan, folder):
        for line, row in read_json_lines(scan, file):
            try:
                yield _utterance(scan, file, line, row, split, audio, labels)
            except (KeyError, TypeError, ValueError) as error:
                scan.problem(file, f"not an EmoBox row: {error!r}".splitlines()[0], line)


def _files(scan: Scan, folder: Path) -> list[tuple[Path, str]]:
    if scan.protocol == "fold":
        fold = scan.option("fold", 1, int)
        found = [(p, s) for s in SPLITS for p in visible((folder / f"fold_{fold}").glob(f"*_{s}_fold_{fold}.jsonl"))]
        if not found:
            raise RellmError(f"{folder} has no fold {fold}", todo="Check --root and the option fold")
        return [(path, SPLITS[split]) for path, split in found]
    if scan.root.is_file():
        return [(scan.root, "all")]
    whole = sorted(folder.glob("*.jsonl"))
    if len(whole) != 1:
        raise RellmError(f"{folder} holds {len(whole)} jsonl files: expected {INFO.root}", todo="Give the file itself")
    return [(whole[0], "all")]


def _label_map(folder: Path) -> dict[str, str]:
    """What the labels of the corpus mean; a fold folder has it one level above."""
    for path in (folder / "label_map.json", folder.parent / "label_map.json"):
        if path.is_file():
            try:
                return {str(k).lower(): str(v).lower() for k, v in json.loads(path.read_text("utf-8")).items()}
            except (ValueError, AttributeError) as error:
                raise RellmError(f"{path} is not a map of labels: {error}") from error
    return {}


def _utterance(
    scan: Scan, file: Path, line: int, row: dict[str, Any], split: str, audio: Path, labels: dict[str, str]
) -> Utterance:
    raw = str(row["emo"])
    start = float(row.get("start_time") or 0.0)
    return Utterance(
        key=str(row["key"]),
        corpus=str(row["dataset"]),
        split=split,
        audio=str(audio / row["wav"]),
        start=start,
        duration=round(float(row["end_time"]) - start, 6) if "end_time" in row else None,
        text=row.get("text"),
        language=scan.option("language", "", str) or row.get("lang"),
        speaker=str(row["spk"]) if row.get("spk") else None,
        emotion=scan.emotion(labels.get(raw.lower(), raw), file, line),
        emotion_raw=raw,
    )
