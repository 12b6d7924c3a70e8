"""Whisper's two windows on the same recordings: word error rate, equal transcripts, utterances per second.

    python benchmarks/transcribe.py [MANIFEST] [--split test] [--limit 400] [--whisper small:whisper]

Without a manifest: the shipped recordings, each several times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import head, row, spread, timed

from re_llm.apps.demo import listing
from re_llm.audio import waveform as audio
from re_llm.core.records import Utterance, read_records
from re_llm.evaluate.word_errors import edits, plain
from re_llm.inference import engine
from re_llm.inference.transcribe import WINDOWS, Transcriber

COPIES = 4
REPEATS = 3  # of the shipped recordings; a manifest is long enough to be run once


def material(given: argparse.Namespace) -> tuple[list[np.ndarray], list[str]]:
    """Recordings and the words said in them; of a manifest `limit` rows, evenly spread."""
    if given.manifest is None:
        folder = engine.shipped_recordings()
        entries = listing(folder) * COPIES
        return [audio.load(folder / each["recording"]) for each in entries], [each["sentence"] for each in entries]
    manifest: Path = given.manifest
    rows = [u for u in read_records(manifest, Utterance) if u.split == given.split and u.text]
    rows = spread(rows, given.limit)
    return [audio.load(u.audio, start=u.start, duration=u.duration, root=manifest.parent) for u in rows], [
        u.text or "" for u in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--whisper", default="mini:whisper", help="a component's name, a folder or a hub id")
    given = parser.parse_args()
    head("Transcribing: a full window of 30 s, or the recording's own length")
    waves, texts = material(given)
    said = [plain(text).split() for text in texts]
    print(
        f"{given.whisper}, {len(waves)} recordings, {sum(map(len, waves)) / audio.RATE / len(waves):.1f} s on average\n"
    )
    rates, all_found = [], []
    for window in WINDOWS:
        whisper = Transcriber.load(given.whisper, window=window)
        found: list[str] = []

        def work(whisper: Transcriber = whisper, found: list[str] = found) -> None:
            found[:] = whisper.transcribe(waves)

        whisper.transcribe(waves[:1])  # warm
        spent = timed(work, REPEATS if given.manifest is None else 1, warm=False)
        rates.append(row(f"window {window}", [len(waves) / each for each in spent], unit="utt/s"))
        wrong = sum(edits(s, plain(f).split()) for s, f in zip(said, found, strict=True))
        exact = sum(s == plain(f).split() for s, f in zip(said, found, strict=True))
        print(f"  word error rate {wrong / sum(map(len, said)):.1%}, without an error {exact / len(said):.0%}")
        all_found.append([plain(each) for each in found])
    same = sum(a == b for a, b in zip(*all_found, strict=True)) / len(waves)
    print(f"\ntrimmed is {rates[1] / rates[0]:.1f} times faster; {same:.0%} of the transcripts are the same words")


if __name__ == "__main__":
    main()
