"""Reading the miniature's recordings for training: clips, waves, cached log-mels, batches of like lengths.

The folders are in the layouts of Common Voice and MSP-Podcast. They are read here, not through `re_llm.data.corpora`,
because training the components needs no manifest: the labels come straight from the world's own tables.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
from transformers import WhisperFeatureExtractor

from re_llm.core.errors import RellmError

SAMPLE_RATE = 16_000
HOP = 160  # samples per log-mel frame
MEL_RATE = SAMPLE_RATE // HOP  # 100 frames a second
LONGEST = 30.0  # seconds: Whisper's window

# MSP-Podcast's codes for the five classes of the recognise prompt; every other code is "no class" here.
MSP_CODES = {"N": "neutral", "S": "sad", "A": "angry", "H": "happy", "U": "surprise"}


@dataclass(frozen=True)
class Clip:
    """One recording with what is known about it."""

    path: Path
    text: str
    emotion: str | None = None
    """One of the five classes of the recognise prompt, or None."""
    arousal: float | None = None
    """0..1, as dominance and valence."""
    dominance: float | None = None
    valence: float | None = None


def common_voice(world: Path, split: str) -> list[Clip]:
    """Clips of `speech/en/SPLIT.tsv`.

    Raises:
        RellmError: the table is missing or lacks a column.
    """
    folder = world / "speech" / "en"
    rows = _rows(folder / f"{split}.tsv", "\t", ("path", "sentence"))
    return [Clip(folder / "clips" / row["path"], row["sentence"]) for row in rows]


def msp_podcast(world: Path, split: str) -> list[Clip]:
    """Clips of `msp_podcast` whose `Split_Set` is `split`, with V, A, D scaled from 1..7 to 0..1.

    Raises:
        RellmError: the table or a transcript is missing, a column is, or the split has no rows.
    """
    folder = world / "msp_podcast"
    table = folder / "Labels" / "labels_consensus.csv"
    columns = ("FileName", "EmoClass", "EmoAct", "EmoDom", "EmoVal", "Split_Set")
    rows = _rows(table, ",", columns)
    chosen = [row for row in rows if row["Split_Set"] == split]
    if not chosen:
        raise RellmError(
            f"{table} has no rows of split {split!r}", allowed=", ".join(sorted({r["Split_Set"] for r in rows}))
        )
    return [_msp_clip(folder, row) for row in chosen]


def _msp_clip(folder: Path, row: dict[str, str]) -> Clip:
    transcript = folder / "Transcripts" / f"{Path(row['FileName']).stem}.txt"
    try:
        text = transcript.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise RellmError(f"{transcript} is missing", todo="Build the world's recordings again") from None
    arousal, dominance, valence = ((float(row[name]) - 1) / 6 for name in ("EmoAct", "EmoDom", "EmoVal"))
    return Clip(folder / "Audios" / row["FileName"], text, MSP_CODES.get(row["EmoClass"]), arousal, dominance, valence)


def _rows(path: Path, delimiter: str, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            tabs = delimiter == "\t"
            reader = csv.DictReader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL)
            rows = list(reader)
    except FileNotFoundError:
        raise RellmError(f"{path} is missing", todo="Build the world's recordings first") from None
    missing = [name for name in columns if name not in (reader.fieldnames or ())]
    if missing or not rows:
        raise RellmError(
            f"{path} has {len(rows)} rows and lacks the columns {missing}", allowed=f"rows with {', '.join(columns)}"
        )
    return rows


def read_wave(path: Path) -> np.ndarray:
    """Mono float32 samples at 16 kHz.

    Raises:
        RellmError: the file cannot be read, is empty, or is longer than Whisper's window.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise RellmError(f"{path} cannot be read: {error}", todo="Build the world's recordings again") from error
    wave = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]
    if rate != SAMPLE_RATE:
        wave = soxr.resample(wave, rate, SAMPLE_RATE)
    if not 0 < len(wave) <= LONGEST * SAMPLE_RATE:
        raise RellmError(f"{path} is {len(wave) / SAMPLE_RATE:.1f} s long", allowed=f"up to {LONGEST:.0f} s")
    return np.ascontiguousarray(wave, dtype=np.float32)


def sample_count(path: Path) -> int:
    """Samples of a file at 16 kHz, from its header.

    Raises:
        RellmError: the file cannot be read.
    """
    try:
        about = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise RellmError(f"{path} cannot be read: {error}", todo="Build the world's recordings again") from error
    return round(about.frames * SAMPLE_RATE / about.samplerate)


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Whisper's log-mel spectrogram of the real samples only, float32 [frames, 80]."""
    made = _extractor()(wave, sampling_rate=SAMPLE_RATE, padding=False, truncation=False, return_tensors="np")
    return made["input_features"][0].T


@cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


class MelStore:
    """Log-mels of many clips in one float16 file, mapped into memory: computed once, read by every step."""

    def __init__(self, folder: Path):
        about = json.loads((folder / "mels.json").read_text(encoding="utf-8"))
        self.offsets = np.concatenate([[0], np.cumsum(about["frames"])])
        self.lengths = np.diff(self.offsets)
        self._data = np.memmap(folder / "mels.f16", dtype=np.float16, mode="r", shape=(int(self.offsets[-1]), 80))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """float16 [frames, 80]."""
        return self._data[self.offsets[index] : self.offsets[index + 1]]

    @classmethod
    def build(cls, folder: Path, clips: Sequence[Clip], *, progress: bool = True) -> MelStore:
        """Compute the log-mels of `clips` into `folder`; what is there for the first of them is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        names = [str(clip.path) for clip in clips]
        frames = cls._known(folder, names)
        began, known = time.perf_counter(), len(frames)
        with (folder / "mels.f16").open("ab") as file:
            file.truncate(sum(frames) * 80 * 2)
            for done, clip in enumerate(clips[known:], known + 1):
                mel = log_mel(read_wave(clip.path)).astype(np.float16)
                file.write(np.ascontiguousarray(mel).tobytes())
                frames.append(len(mel))
                if progress and done % 2000 == 0:
                    rate = (done - known) / (time.perf_counter() - began)
                    left = (len(clips) - done) / rate
                    sys.stderr.write(f"log-mels {done}/{len(clips)}  {rate:.0f} clips/s  {left:.0f} s left\n")
        index = folder / "mels.json"
        temporary = index.with_suffix(".tmp")
        temporary.write_text(json.dumps({"clips": names, "frames": frames}), encoding="utf-8")
        os.replace(temporary, index)
        return cls(folder)

    @staticmethod
    def _known(folder: Path, names: Sequence[str]) -> list[int]:
        """Frames of the clips that are stored already, if those are the first of `names`."""
        index = folder / "mels.json"
        if not index.exists():
            return []
        about = json.loads(index.read_text(encoding="utf-8"))
        return about["frames"] if about["clips"] == list(names[: len(about["clips"])]) else []

    @staticmethod
    def remove(folder: Path) -> None:
        """Delete the cache (16 kB a second of speech)."""
        for name in ("mels.f16", "mels.json"):
            (folder / name).unlink(missing_ok=True)


def like_lengths(
    order: np.ndarray, size: int, rng: np.random.Generator, *, fraction: float = 1.0, window: int = 256
) -> np.ndarray:
    """Indices of a batch of similar lengths.

    Args:
        order: clip indices from the shortest to the longest, int [clips].
        size: batch size.
        share: only the shortest part of the clips, 0..1 (a curriculum).
        window: how many neighbours in length a batch is drawn from.
    """
    allowed = max(size, int(len(order) * fraction))
    width = min(max(window, size), allowed)
    # Starting before the first and after the last clip gives both ends of the order their fair share.
    start = int(np.clip(rng.integers(-width // 2, allowed - width // 2), 0, allowed - width))
    return rng.permutation(order[start : start + width])[:size]


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: substitutions, insertions and deletions."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found))
    return row[-1]


def plain(text: str) -> str:
    """Lower case, letters, digits and apostrophes only: what word errors are counted on."""
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("\u2019", "'"))
    return " ".join(kept.split())
