"""How well copies of a recording are found, and how often another recording is taken for one.

    python benchmarks/fingerprint.py ravdess.jsonl emodb.jsonl      # any manifests; without one, the shipped recordings

All recordings are compared with each other: any two that are not byte-identical and match are false matches (unless the
corpus holds a recording twice). Then copies of some of them are looked for: lossy formats, other rates, gain, trimming.
"""

from __future__ import annotations

import argparse
import io
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from _common import head

from re_llm.audio import waveform
from re_llm.data import fingerprint
from re_llm.data.manifest import read_manifest

SHIPPED = Path(__file__).parent.parent / "re_llm/mini/assets/recordings"
COPIES = 200  # recordings that are looked for, at most
RATE = waveform.RATE
Samples = waveform.Samples
Change = Callable[[Samples], Samples]


def through(kind: str, subtype: str | None = None, level: float | None = None) -> Change:
    """Encodes and decodes a recording."""

    def change(samples: Samples) -> Samples:
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype, compression_level=level)
        buffer.seek(0)
        return soundfile.read(buffer, dtype="float32")[0]

    return change


def at(rate: int) -> Change:
    return lambda samples: waveform.resample(waveform.resample(samples, RATE, rate), rate, RATE)


def part(first: float, last: float) -> Change:
    return lambda samples: samples[int(first * len(samples)) : int(last * len(samples))]


def noisy(samples: Samples) -> Samples:
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return samples + 10 ** (-30 / 20) * float(samples.std()) * noise


CHANGES: dict[str, list[Change]] = {
    "Ogg Vorbis, lowest quality": [through("OGG", "VORBIS", 1.0)],
    "MP3": [through("MP3")],
    "Opus": [through("OGG", "OPUS")],
    "8 kHz and back": [at(8_000)],
    "11.025 kHz and back": [at(11_025)],
    "a fifth of the level": [lambda samples: 0.2 * samples],
    "noise, 30 dB below": [noisy],
    "a tenth trimmed at each end": [part(0.1, 0.9)],
    "half of it": [part(0.313, 0.813)],
    "8 kHz, Vorbis, quiet, trimmed": [at(8_000), through("OGG", "VORBIS", 1.0), lambda s: 0.3 * s, part(0.15, 0.9)],
}


def recordings(manifests: list[Path]) -> dict[str, Samples]:
    """Samples at 16 kHz by key; recordings with the bytes of an earlier one are left out."""
    if not manifests:
        return {path.stem: waveform.load(path) for path in sorted(SHIPPED.glob("*.flac"))}
    found, seen = {}, set()
    for manifest in manifests:
        for row in read_manifest(manifest):
            if row.sha256 is None or (row.sha256, row.start) not in seen:
                seen.add((row.sha256, row.start))
                found[row.key] = waveform.load(row.audio, start=row.start, duration=row.duration, root=manifest.parent)
    return found


def narrow(samples: Samples) -> Samples:
    return waveform.resample(samples, RATE, fingerprint.RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="*", type=Path)
    whole = recordings(parser.parse_args().manifests)
    head("Recordings that are found again by their sound")
    keys, sounds = list(whole), [narrow(samples) for samples in whole.values()]
    seconds = sum(map(len, sounds)) / fingerprint.RATE
    began = time.process_time()
    prints = [fingerprint.landmarks(samples, phases=2) for samples in sounds]
    rate = seconds / (time.process_time() - began)
    size = sum(each.names.nbytes + each.frames.nbytes for found in prints for each in found) / seconds
    print(
        f"{len(keys)} recordings, {seconds / 60:.0f} minutes; {rate:.0f} s of sound a second, {size:.0f} bytes a second"
    )
    index = fingerprint.Index.of(prints)
    candidates = [
        (one, found.number, found.offset)
        for one, landmarks in enumerate(prints)
        for found in index.candidates(landmarks[0])
        if found.number != one
    ]
    wrong = [(one, two) for one, two, offset in candidates if fingerprint.is_same(sounds[one], sounds[two], offset)]
    pairs = len(keys) * (len(keys) - 1)
    print(f"{pairs:,} ordered pairs of different recordings: {len(candidates)} candidates, {len(wrong)} matches")
    for one, two in wrong[:10]:
        print(f"  {keys[one]} and {keys[two]}")
    chosen = random.Random(0).sample(range(len(keys)), min(COPIES, len(keys)))
    print(f"Copies of {len(chosen)} of them")
    for name, changes in CHANGES.items():
        count = 0
        for number in chosen:
            samples = whole[keys[number]]
            for change in changes:
                samples = change(samples)
            copy = narrow(samples)
            same = (f for f in index.candidates(fingerprint.landmarks(copy)[0]) if f.number == number)
            count += any(fingerprint.is_same(copy, sounds[number], found.offset) for found in same)
        print(f"  {name:32} {count} found")


if __name__ == "__main__":
    main()
