"""How far the states of a Whisper move when it does not hear 30 s: trimmed to the recording, or with silence behind it.

    python benchmarks/window_states.py MANIFEST [--split test] [--limit 12] [--whisper small:whisper]

Cosine of the encoder's last states with those of the full window, over the frames of the recording, and their distance
relative to the norm; means over the recordings. What that costs in words: benchmarks/transcribe.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from _common import head, need_parts, shipped, spread
from torch.nn.functional import cosine_similarity
from transformers import WhisperConfig, WhisperFeatureExtractor

from re_llm.audio.waveform import RATE, load
from re_llm.core.assets import resolve_component
from re_llm.core.records import Utterance, read_records
from re_llm.inference.respond import rows_for
from re_llm.model.components import load_speech_encoder
from re_llm.model.speech_encoder import SpeechEncoder

HOP = 160  # samples of a log-mel frame
FULL = 3000  # frames
EDGE = 10  # states (0.2 s) at both ends, told apart
SILENCE = (0, 1, 2, 5, 10)  # seconds behind the recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, nargs="?", help="else the recordings that ship")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=12, help="recordings, evenly spread")
    parser.add_argument("--whisper", default="small:whisper")
    given = parser.parse_args()
    head("A Whisper that does not hear 30 s")
    need_parts(given.whisper)
    folder = resolve_component(given.whisper)
    mel = WhisperFeatureExtractor.from_pretrained(folder)
    full, trimmed = (_encoder(folder, window) for window in ("full", "trimmed"))
    of_all = read_records(given.manifest, Utterance) if given.manifest else rows_for(shipped())
    rows, root = [row for row in of_all if row.split == given.split], (given.manifest or Path()).parent
    rows = spread(rows, given.limit)
    found: dict[int, list[tuple[float, ...]]] = {seconds: [] for seconds in SILENCE}
    with torch.inference_mode():
        for row in rows:
            wave = load(row.audio, start=row.start, duration=row.duration, root=root)
            frames, features = len(wave) // HOP, mel(wave, sampling_rate=RATE, return_tensors="pt").input_features
            states, lengths = full(features, torch.tensor([frames]))
            whole = states[0, : int(lengths[0])]
            for seconds in SILENCE:
                heard = min(FULL, frames + seconds * RATE // HOP)
                other = trimmed(features[:, :, :heard], torch.tensor([heard]))[0][0, : len(whole)]
                near = cosine_similarity(whole, other, dim=-1)
                edges = float(near[:EDGE].mean()), float(near[-EDGE:].mean())
                found[seconds].append((float(near.mean()), *edges, float((whole - other).norm() / whole.norm())))
    print(f"{given.whisper}, {len(rows)} recordings of {root.name or 'the miniature'}\n")
    print("| silence behind | cosine | first 0.2 s | last 0.2 s | relative distance |\n|---|---|---|---|---|")
    for seconds, each in found.items():
        print(f"| {seconds} s | " + " | ".join(f"{value:.3f}" for value in np.mean(each, axis=0)) + " |")


def _encoder(folder: str, window: str) -> SpeechEncoder:
    config = WhisperConfig.from_pretrained(folder)
    return load_speech_encoder(Path(folder), config, window, torch.float32).eval()


if __name__ == "__main__":
    main()
