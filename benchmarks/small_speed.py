"""How fast `small:re-llm` answers and recognises, and what memory it takes.

    python benchmarks/small_speed.py [RECORDING...] [--model small:re-llm]

All cores, seconds of wall time. A recording of 4 s is made of the first one that is as long, cut; the batch holds the
named ones again and again. Cold: a process of its own, from its start to its end.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

import numpy as np
from _common import child, head, need_parts, peak_memory, row, shipped, timed

import re_llm
from re_llm.audio import waveform
from re_llm.inference.recognizer import EmotionRecognizer

SECONDS, LONG, TOKENS, BATCH, RECOGNISED = 4.0, 590.0, 40, 16, 64
REPEATS = 5


def peak(model: str, recordings: list[str], length: float) -> tuple[float, float]:
    """Seconds of the answer to recordings one behind the other, so many seconds of them, and peak memory in MB."""
    joined = np.resize(np.concatenate([waveform.load(each) for each in recordings]), int(length * waveform.RATE))
    engine = re_llm.load(model)
    begun = time.perf_counter()
    engine.respond((joined, waveform.RATE), max_new_tokens=TOKENS)
    return time.perf_counter() - begun, peak_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", default=shipped())
    parser.add_argument("--model", default="small:re-llm")
    parser.add_argument("--recognizer", default="small:emotion")
    parser.add_argument("--peak", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        return print(*peak(given.model, given.recordings, given.peak))
    head(f"{given.model} on people's recordings")
    need_parts(given.model)
    waves = [waveform.load(each) for each in given.recordings]
    longest = max(waves, key=len)
    four = next((wave for wave in waves if len(wave) >= SECONDS * waveform.RATE), longest)[
        : int(SECONDS * waveform.RATE)
    ]
    print(f"{len(waves)} recordings; the one that is timed alone has {len(four) / waveform.RATE:.1f} s\n")
    command = [sys.executable, "-m", "re_llm", "respond", given.recordings[0], "--model", given.model]
    cold = [child([*command, "--max-new-tokens", str(TOKENS)]) for _ in range(3)]
    row("respond, cold", [each.seconds for each in cold])
    engine = re_llm.load(given.model)
    alone = (four, waveform.RATE)
    row("first token, warm", timed(lambda: engine.respond(alone, max_new_tokens=1), REPEATS))
    counted: list[int] = []

    def answer() -> None:
        counted.append(engine.respond(alone, max_new_tokens=TOKENS).tokens or 0)

    row(f"up to {TOKENS} tokens, warm", timed(answer, REPEATS))
    print(f"  {max(counted)} tokens")
    batch = [(wave, waveform.RATE) for wave in itertools.islice(itertools.cycle(waves), 2 * BATCH)]
    for size in (1, BATCH):

        def answers(size: int = size) -> None:
            engine.respond_many(batch, batch_size=size, max_new_tokens=TOKENS)

        row(f"replies, batches of {size}", [len(batch) / each for each in timed(answers, 3)], unit="recordings/s")
    for length in (SECONDS, LONG):
        command = [sys.executable, __file__, *given.recordings, "--model", given.model, "--peak", str(length)]
        took, most = map(float, child(command).stdout.split()[-2:])
        print(f"{length:g} s of speech: the first answer of a process after {took:.1f} s, peak memory {most:.0f} MB")
    recognizer = EmotionRecognizer.load(given.recognizer)
    many = list(itertools.islice(itertools.cycle(given.recordings), RECOGNISED))

    def recognise() -> None:
        recognizer.recognize([waveform.load(each) for each in many], batch_size=BATCH)

    begun = time.process_time()
    row("recognised, reading included", [len(many) / each for each in timed(recognise, 3)], unit="recordings/s")
    print(f"  {4 * len(many) / (time.process_time() - begun):.1f} for a second of one core's time")


if __name__ == "__main__":
    main()
