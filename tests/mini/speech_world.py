"""A world of a few seconds in the layouts of Common Voice and MSP-Podcast, made of tones instead of speech."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

WORDS = {"red": 300, "blue": 600, "green": 1200, "dog": 2000, "house": 3000}  # each word is a tone, Hz
EMOTIONS = {"N": 0.03, "S": 0.01, "A": 0.3, "H": 0.1, "U": 0.06}  # each emotion is a level
RATE = 16_000


def say(text: str, level: float, rng: np.random.Generator) -> np.ndarray:
    """One tone of 0.2 s a word with a little noise, float32."""
    t = np.arange(RATE // 5) / RATE
    tones = [np.sin(2 * np.pi * WORDS[word] * t) * np.hanning(len(t)) for word in text.split()]
    wave = level * np.concatenate(tones)
    return (wave + 0.001 * rng.standard_normal(len(wave))).astype(np.float32)


def build(world: Path, *, count: int = 24, seed: int = 0) -> Path:
    """Write `count` clips per split of both corpora."""
    rng = np.random.default_rng(seed)
    clips = world / "speech" / "en" / "clips"
    clips.mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = []
        for index in range(count):
            text = " ".join(rng.choice(list(WORDS), size=int(rng.integers(2, 5))))
            name = f"{split}_{index}.wav"
            soundfile.write(clips / name, say(text, 0.1, rng), RATE)
            rows.append((f"speaker{index % 3}", name, text))
        with (world / "speech" / "en" / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("client_id", "path", "sentence"), *rows])
    _msp(world / "msp_podcast", count, rng)
    return world


def _msp(folder: Path, count: int, rng: np.random.Generator) -> None:
    for name in ("Labels", "Audios", "Transcripts"):
        (folder / name).mkdir(parents=True)
    rows = [("FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")]
    for split in ("Train", "Development", "Test1"):
        for index in range(count):
            code = list(EMOTIONS)[index % 5]
            text = " ".join(rng.choice(list(WORDS), size=int(rng.integers(2, 5))))
            stem = f"MSP-PODCAST_{split}_{index:04d}"
            soundfile.write(folder / "Audios" / f"{stem}.wav", say(text, EMOTIONS[code], rng), RATE)
            (folder / "Transcripts" / f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
            arousal = 1 + 6 * (np.log10(EMOTIONS[code]) + 2) / 1.5
            emotion = "C" if index == 7 else code
            rows.append(
                (f"{stem}.wav", emotion, f"{arousal:.2f}", f"{8 - arousal:.2f}", f"{arousal:.2f}", index, "", split)
            )
    with (folder / "Labels" / "labels_consensus.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
