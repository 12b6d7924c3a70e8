"""MER2023 as used by MerBench: clips of Chinese films and series (Lian et al. 2023, 2024).

Layout of the challenge: `mer2023train/train-label.csv` with `mer2023train/train`, and `test-labels/testN-label.csv`
with `testN` (test3 also below `mer2023train`); columns name, discrete, valence; clips are avi or mp4 and need the extra
`av`, or are converted files of the same names. Transcripts are taken from `transcription*.csv` when there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan
from re_llm.data.corpora.files import any_format, read_table, without_row

INFO = CorpusInfo(
    name="merbench",
    title="MER2023 (MerBench)",
    languages=("zh",),
    utterances=5_030,
    hours=5.9,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "anxious"),
    licence="research licence, to be signed",
    get="https://huggingface.co/datasets/MERChallenge/MER2023",
    citation="Lian et al., MERBench: A Unified Evaluation Benchmark, arXiv:2401.03429, 2024",
    root="test-labels with test1-label.csv, and test1, test2",
    protocols={"blsp-emo": "test sets 1 and 2: neutral, happy, angry, sad, surprise"},
    filters={"blsp-emo": Filters(emotions=PROMPT_EMOTIONS)},
    published={"blsp-emo": {"test1": 354, "test2": 360}},
)

LABELS = {
    "train": "mer2023train/train-label.csv",
    "test1": "test-labels/test1-label.csv",
    "test2": "test-labels/test2-label.csv",
    "test3": "test-labels/test3-label.csv",
}


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by part, in the order of its labels."""
    root = scan.path_root(lambda p: (p / LABELS["test1"]).is_file(), f"expected {INFO.root} in it")
    texts = dict(_texts(scan, root))
    for part, labels in LABELS.items():
        if scan.protocol == "blsp-emo" and part not in ("test1", "test2"):
            continue
        file = root / labels
        if not file.is_file():
            scan.problem(file, f"the labels of {part} are missing")
            continue
        named: set[str] = set()
        for line, row in read_table(scan, file, ("name", "discrete")):
            clip = _clip(root, part, row["name"])
            if clip is None:
                scan.problem(file, f"no clip {row['name']} in {part}", line)
                continue
            named.add(str(clip))
            yield INFO.utterance(
                clip, key=row["name"], split=part, text=texts.get(row["name"]),
                emotion=scan.emotion(row["discrete"], file, line), emotion_raw=row["discrete"],
            )  # fmt: skip
        without_row(scan, {Path(clip).parent for clip in named}, named, file)


def _clip(root: Path, part: str, name: str) -> Path | None:
    clips = (any_format(folder / f"{name}.mp4") for folder in (root / part, root / "mer2023train" / part))
    return next((clip for clip in clips if clip.is_file()), None)


def _texts(scan: Scan, root: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(root.glob("transcription*.csv")):
        for _, row in read_table(scan, file, ("name",)):
            text = row.get("sentence") or row.get("chinese") or row.get("text")
            if text:
                yield row["name"], text
