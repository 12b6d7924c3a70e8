"""The miniature's recordings for training: utterances, waves, cached log-mels, batches of like lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from transformers import WhisperFeatureExtractor

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash, hash_of, write_json
from re_llm.core.progress import progress_bar
from re_llm.core.records import Utterance
from re_llm.data import corpora
from re_llm.data.corpora.base import Scan

HOP = 160  # samples per log-mel frame
MEL_RATE = waveform.RATE // HOP  # 100 frames a second
MAX_SECONDS = 30.0  # Whisper's window
FOLDERS = {"common_voice": "speech/en", "msp_podcast": "msp_podcast"}  # of a corpus in the world


def utterances(world: Path, corpus: str, split: str) -> list[Utterance]:
    """Utterances of one split of a corpus of the world, in the order of its table; `audio` is a whole path.

    Raises:
        RellmError: something of the corpus is missing or cannot be read, an utterance has no text, or no row is of
            the split.
    """
    root = world / FOLDERS[corpus]
    rows = list(corpora.get(corpus)[1](Scan(root, strict=True)))
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        allowed = ", ".join(sorted({row.split for row in rows}))
        raise RellmError(f"{root} has no utterance of the split {split!r}", allowed=allowed)
    silent = next((row.key for row in chosen if not row.text), None)
    if silent:
        raise RellmError(f"{root}: {silent} has no transcript", todo="Build the world's recordings again")
    return chosen


def contents(world: Path, used: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Hashes of the rows and recordings of some splits, given as (corpus, split), by folder and split."""
    return {
        f"{FOLDERS[corpus]} {split}": hash_of(_told(row, world) for row in utterances(world, corpus, split))
        for corpus, split in used
    }


def _told(row: Utterance, world: Path) -> str:
    """What training reads of an utterance, its recording included."""
    name = Path(row.audio).relative_to(world).as_posix()
    return f"{name} {file_hash(Path(row.audio))} {row.text} {row.emotion} {row.dimensions()}"


def texts(rows: Sequence[Utterance]) -> list[str]:
    """Transcripts; `utterances` gives none without."""
    return [row.text or "" for row in rows]


def read_wave(row: Utterance) -> waveform.Samples:
    """Mono float32 samples at 16 kHz; see `waveform.load`. Longer than Whisper's window is an error."""
    return waveform.load(row.audio, max_seconds=MAX_SECONDS)


def sample_counts(rows: Sequence[Utterance]) -> np.ndarray:
    """Samples of each recording at 16 kHz, from its header; int [rows]."""
    return np.array([round(waveform.info(row.audio).seconds * waveform.RATE) for row in rows])


def log_mel(wave: np.ndarray) -> np.ndarray:
    """Whisper's log-mel spectrogram of the real samples only, float32 [frames, 80]."""
    made = _extractor()(wave, sampling_rate=waveform.RATE, padding=False, truncation=False, return_tensors="np")
    return made["input_features"][0].T


@cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor()


class MelStore:
    """Log-mels of many recordings in one float16 file, mapped into memory: computed once, read by every step."""

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
    def build(cls, folder: Path, rows: Sequence[Utterance], *, progress: bool = True) -> MelStore:
        """The log-mels of `rows`, computed into `folder` unless they are there (16 kB a second of speech)."""
        folder.mkdir(parents=True, exist_ok=True)
        index, names = folder / "mels.json", [row.audio for row in rows]
        holds = {"recordings": names, "content": hash_of(file_hash(Path(name)) for name in names)}
        about = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
        if all(about.get(name) == value for name, value in holds.items()):
            return cls(folder)
        frames = []
        with (folder / "mels.f16").open("wb") as file, progress_bar("log-mels", len(rows), show=progress) as advance:
            for row in rows:
                mel = log_mel(read_wave(row)).astype(np.float16)
                file.write(np.ascontiguousarray(mel).tobytes())
                frames.append(len(mel))
                advance(1)
        # Written last: data without an index are made again.
        write_json(index, {**holds, "frames": frames}, indent=None)
        return cls(folder)


def like_lengths(
    order: np.ndarray, size: int, rng: np.random.Generator, *, fraction: float = 1.0, window: int = 256
) -> np.ndarray:
    """Indices of a batch of similar lengths.

    Args:
        order: indices from the shortest utterance to the longest, int [rows].
        size: batch size.
        fraction: only the shortest part of the utterances, 0..1 (a curriculum).
        window: how many neighbours in length a batch is drawn from.
    """
    allowed = max(size, int(len(order) * fraction))
    width = min(max(window, size), allowed)
    # Starting before the first and after the last one gives both ends of the order their fair share.
    start = int(np.clip(rng.integers(-width // 2, allowed - width // 2), 0, allowed - width))
    return rng.permutation(order[start : start + width])[:size]
