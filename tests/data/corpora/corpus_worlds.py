"""Tiny corpora, invented for the tests, in the genuine layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from re_llm.core.product import Overwrite
from re_llm.data import corpora


def prepare(name: str, root: Path, out: Path, **options: Any) -> corpora.PrepareReport:
    """`re_llm.data.corpora.prepare`, again and again into the same file."""
    return corpora.prepare(name, root, out, **{"overwrite": Overwrite.YES, **options})


def sound(
    path: Path, seconds: float = 0.2, *, rate: int = 16_000, channels: int = 1, tone: float | None = None
) -> Path:
    """A recording whose content follows from its name, so that no two files are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hertz = tone if tone is not None else 100 + sum(path.name.encode()) % 700
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    rng = np.random.default_rng(list(str(path.name).encode()))
    wave += 0.01 * rng.standard_normal(len(wave))
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


IEMOCAP_TURNS = {
    # session -> (turn, label, valence/arousal/dominance, words)
    1: [
        ("F000", "neu", "2.5000, 2.5000, 2.5000", "Where did you put the blue kettle?"),
        ("M000", "exc", "4.0000, 4.5000, 3.0000", "We are going to the sea tomorrow!"),
        ("FXX0", "xxx", "2.0000, 3.0000, 3.0000", "Hm."),
        ("M001", "hap", "4.5000, 3.0000, 3.0000", "Nice one."),
    ],
    2: [("F000", "ang", "1.0000, 5.0000, 4.0000", "Do not ever touch my violin again.")],
    3: [("M000", "sad", "1.5000, 1.5000, 2.0000", "He sold the house by the lake.")],
    4: [("M000", "fru", "2.0000, 3.5000, 3.0000", "The third form this week got lost.")],
    5: [
        ("F000", "sad", "1.5000, 1.5000, 2.0000", "Nobody came to the little concert."),
        ("M000", "sur", "3.0000, 4.0000, 3.0000", "You painted all of this yourself?"),
    ],
}


def iemocap(root: Path) -> Path:
    for session, turns in IEMOCAP_TURNS.items():
        dialogue = f"Ses{session:02}F_impro01"
        folder = root / f"Session{session}"
        labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        words = []
        # Label files are not in the order of time.
        for index, (turn, label, ratings, text) in reversed(list(enumerate(turns))):
            start = 3.5 * index
            labels += [
                f"[{start:.4f} - {start + 2.25:.4f}]\t{dialogue}_{turn}\t{label}\t[{ratings}]",
                "C-E2:\tNeutral; Other;\t(a comment)",
                "A-E3:\tval 2; act 2; dom  2;\t()",
                "",
            ]
            words.append(f"{dialogue}_{turn} [{start:08.4f}-{start + 2.25:08.4f}]: {text}")
            sound(folder / "sentences" / "wav" / dialogue / f"{dialogue}_{turn}.wav")
        words.insert(1, "M: [BREATHING]")
        write(folder / "dialog" / "EmoEvaluation" / f"{dialogue}.txt", "\n".join(labels) + "\n")
        write(folder / "dialog" / "EmoEvaluation" / f"._{dialogue}.txt", "\0\5\26\7 not a label file")
        write(folder / "dialog" / "EmoEvaluation" / "Categorical" / f"{dialogue}_e2_cat.txt", "not read")
        write(folder / "dialog" / "transcriptions" / f"{dialogue}.txt", "\n".join(words) + "\n", "latin-1")
    return root


ESD_EMOTIONS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
ESD_ENCODINGS = {"0001": "gb2312", "0011": "utf-8", "0012": "utf-16", "0016": "latin-1", "0018": "utf-8-sig"}


def esd(root: Path, sentences: int = 10) -> Path:
    for speaker, encoding in ESD_ENCODINGS.items():
        chinese = speaker == "0001"
        lines = []
        for number, emotion in enumerate(ESD_EMOTIONS):
            for sentence in range(sentences):
                key = f"{speaker}_{350 * number + sentence + 1:06}"
                text = f"第{sentence}只小猫在屋顶上睡觉。" if chinese else f"Café number {sentence} opens at nine."
                label = ("中立", "生气", "快乐", "伤心", "惊喜")[number] if chinese else emotion
                # Some lines of the release have blanks in place of the tabs.
                lines.append(f"{key} {text}  {label}" if sentence == 3 else f"{key}\t{text}\t{label}")
                sub = ("train", "test")[sentence % 2] if speaker == "0012" else ""
                sound(root / speaker / emotion / sub / f"{key}.wav", 0.1)
        write(root / speaker / f"{speaker}.txt", "\n".join(lines) + "\n\n", encoding)
    return root


def msp_rows(count: int = 24) -> list[dict[str, str]]:
    rows = []
    for index in range(count):
        split = ("Train", "Train", "Test1", "Development", "Test1", "Validation")[index % 6]
        rows.append(
            {
                "FileName": f"MSP-PODCAST_0001_{index:04}.wav",
                "EmoClass": "NHASUFDCOX"[index // 2 % 10],
                "EmoAct": f"{1 + index % 7}.0",
                "EmoVal": "4.0",
                "EmoDom": "2.5",
                "SpkrID": "Unknown" if index == 1 else str(30 + index % 3),
                "Gender": "Male",
                "Split_Set": split,
            }
        )
    return rows


def msp_podcast(root: Path) -> Path:
    rows = msp_rows()
    table = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    write(root / "Labels" / "labels_consensus.csv", table + "\n")
    for index, row in enumerate(rows):
        sound(root / "Audios" / row["FileName"], 0.1)
        stem = Path(row["FileName"]).stem
        write(root / "Transcripts" / f"{stem}.txt", f"and then story number {index} went on\n")
    return root


def common_voice(root: Path) -> Path:
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"
    for split, start in (("train", 0), ("dev", 3), ("test", 5)):
        lines = [header]
        for number in range(start, start + 2):
            clip = f"common_voice_en_{number:08}.mp3"
            lines.append(f'{number:x}{"ab" * 60}\t{clip}\tHe said "no\t2\t0\t\t\t\t\ten\t')
            sound(root / "en" / "clips" / clip, 0.5, rate=32_000)
        write(root / "en" / f"{split}.tsv", "\n".join(lines) + "\n")
    return root / "en"
