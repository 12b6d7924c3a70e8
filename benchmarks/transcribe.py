"""Whisper's two windows on the same recordings: word error rate and utterances per second.

    python benchmarks/transcribe.py [MANIFEST [SPLIT [LIMIT]]]

Without a manifest: the shipped recordings, each several times.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from _common import head, row, timed

from re_llm.apps.demo import listing
from re_llm.audio import waveform as audio
from re_llm.core.records import Utterance, read_records
from re_llm.inference import engine
from re_llm.inference.transcribe import WINDOWS, Transcriber
from re_llm.mini.training.speech_data import edits, plain

COPIES = 4
REPEATS = 3  # of the shipped recordings; a manifest is long enough to be run once


def material(arguments: list[str]) -> tuple[list[np.ndarray], list[str]]:
    """Recordings and the words said in them; of a manifest `limit` rows, evenly spread."""
    if not arguments:
        folder = engine.shipped_recordings()
        entries = listing(folder) * COPIES
        return [audio.load(folder / each["recording"]) for each in entries], [each["sentence"] for each in entries]
    manifest, split, limit = Path(arguments[0]), (arguments[1:2] or ["test"])[0], int((arguments[2:] or ["400"])[0])
    rows = [u for u in read_records(manifest, Utterance) if u.split == split and u.text]
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(int))]
    return [audio.load(u.audio, start=u.start, duration=u.duration, root=manifest.parent) for u in rows], [
        u.text or "" for u in rows
    ]


def main() -> None:
    head("Transcribing: a full window of 30 s, or the recording's own length")
    waves, texts = material(sys.argv[1:])
    said = [plain(text).split() for text in texts]
    print(f"{len(waves)} recordings, {sum(map(len, waves)) / audio.RATE / len(waves):.1f} s on average\n")
    rates = []
    for window in WINDOWS:
        whisper = Transcriber.load("mini:whisper", window=window)
        found: list[str] = []

        def work(whisper: Transcriber = whisper, found: list[str] = found) -> None:
            found[:] = whisper.transcribe(waves)

        seconds = timed(work, REPEATS if len(sys.argv) == 1 else 1)
        rates.append(row(f"window {window}", [len(waves) / each for each in seconds], unit="utt/s"))
        wrong = sum(edits(s, plain(f).split()) for s, f in zip(said, found, strict=True))
        exact = sum(s == plain(f).split() for s, f in zip(said, found, strict=True))
        print(f"  word error rate {wrong / sum(map(len, said)):.1%}, without an error {exact / len(said):.0%}")
    print(f"\ntrimmed is {rates[1] / rates[0]:.1f} times faster")


if __name__ == "__main__":
    main()
