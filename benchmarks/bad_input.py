"""How often a speech LLM says that it understood no words: of sounds without speech, of manifests in any language.

    python benchmarks/bad_input.py [MANIFEST ...] [--split test] [--limit 60] [--model small:re-llm]

Sounds are made here: noises, hum, music, a whistle, almost silence. No answer is decoded: measured are the rule in
front of the LLM (re_llm.inference.careful), and whether the emotion counts as unsure.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from _common import head, need_parts, spread

from re_llm.audio.waveform import RATE, load
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.inference.careful import NO_SPEECH
from re_llm.inference.engine import Engine
from re_llm.inference.engine import load as load_engine

SECONDS = 4
CHORDS = ((261, 329, 392), (220, 261, 329), (174, 220, 261), (196, 246, 293))  # Hz
COPIES = 5


def sounds(seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Sounds without speech, float32 [T] at 16 kHz, by kind."""
    rng = np.random.default_rng(seed)
    time = np.arange(SECONDS * RATE) / RATE
    white = rng.standard_normal(len(time))
    slow = np.cumsum(white)
    brown = slow - np.convolve(slow, np.ones(800) / 800, "same")
    pitch = rng.uniform(0.8, 1.3)
    music = np.zeros(len(time))
    for beat in range(2 * SECONDS):
        span = slice(beat * RATE // 2, (beat + 1) * RATE // 2)
        decay = np.exp(-4 * (time[span] - time[span.start]))
        for tone in CHORDS[beat % len(CHORDS)]:
            music[span] += decay * sum(0.5**k * np.sin(2 * np.pi * pitch * tone * k * time[span]) for k in range(1, 5))
    sweep = 2 * np.pi * np.cumsum(pitch * (900 + 300 * np.sin(2 * np.pi * 1.5 * time))) / RATE
    made = {
        "white noise": 0.05 * white,
        "brown noise": 0.3 * brown / np.abs(brown).max(),
        "almost silence": 1e-4 * white,
        "hum": 0.1 * np.sin(2 * np.pi * 50 * time) + 1e-3 * white,
        "music": 0.08 * music,
        "whistle": 0.2 * np.sin(sweep),
    }
    yield from ((name, np.clip(wave, -1, 1).astype(np.float32)) for name, wave in made.items())


def told(engine: Engine, waves: Sequence[np.ndarray], name: str) -> str:
    """A line about some recordings."""
    nobody = unclear = unsure = used = 0
    for wave in waves:
        try:
            (speech,) = engine.encode([engine.prepared(wave, name)])
        except RellmError:
            continue  # refused by name
        used += 1
        doubt = engine.said(speech).doubt
        nobody += doubt == NO_SPEECH
        unclear += doubt is not None and doubt != NO_SPEECH
        unsure += bool(speech.estimate.unsure)
    share = [f"{count / max(1, used):.2f}" for count in (nobody, unclear, unsure)]
    return f"| {name} | {used} of {len(waves)} | {' | '.join(share)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="*")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=60, help="recordings of each manifest, evenly spread")
    parser.add_argument("--model", default="small:re-llm")
    given = parser.parse_args()
    head("Recordings in which no words are understood")
    need_parts(given.model)
    engine = load_engine(given.model)
    print(f"{given.model}, words_unsure_below {engine.words_unsure_below}\n")
    print("| what | used | nobody speaks | words unclear | emotion unsure |\n|---|---|---|---|---|")
    kinds: dict[str, list[np.ndarray]] = {}
    for seed in range(COPIES):
        for name, wave in sounds(seed):
            kinds.setdefault(name, []).append(wave)
    for name, waves in kinds.items():
        print(told(engine, waves, name), flush=True)
    for manifest in given.manifests:
        rows = [row for row in read_records(manifest, Utterance) if row.split == given.split]
        rows = spread(rows, given.limit)
        waves = [load(row.audio, start=row.start, duration=row.duration, root=manifest.parent) for row in rows]
        print(told(engine, waves, f"{manifest.parent.name} {given.split}"), flush=True)


if __name__ == "__main__":
    main()
