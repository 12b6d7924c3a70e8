"""What waiting threads of OpenMP cost: replies with several limits to their spinning, machine as it is and busy.

    python benchmarks/waiting.py [RECORDING...] [--model small:re-llm] [--limits 0 3000]

A reply of one token, one of up to 40, and all recordings in batches of 16: seconds of wall time, of the processor in
brackets, medians of 3 in a process for each limit. Busy: a loop for each core runs beside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from _common import head, shipped

from re_llm.core.assets import default_model

LIMITS = (0, 1_000, 3_000, 10_000, 300_000)  # the last one is what libgomp does by itself
MOST_BUSY = 10_000  # more takes minutes on a busy machine
LOOP = [sys.executable, "-c", "while True: pass"]


def reply(model: str, recordings: list[str]) -> None:
    """What a child prints: its row."""
    import re_llm
    from re_llm.audio import waveform

    engine = re_llm.load(model)
    waves = [(waveform.load(each), waveform.RATE) for each in recordings]

    def told(work: Callable[[], object]) -> str:
        work()
        walls, begun = [], time.process_time()
        for _ in range(3):
            start = time.perf_counter()
            work()
            walls.append(time.perf_counter() - start)
        return f"{statistics.median(walls):.2f} ({(time.process_time() - begun) / 3:.2f})"

    one = told(lambda: engine.respond(waves[0], max_new_tokens=1))
    whole = told(lambda: engine.respond(waves[0], max_new_tokens=40))
    many = told(lambda: engine.respond_many(waves, batch_size=16, max_new_tokens=40))
    print(f"{one} | {whole} | {many}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="*", default=shipped())
    parser.add_argument("--model", default=default_model())
    parser.add_argument("--limits", type=int, nargs="*", default=LIMITS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return reply(given.model, given.recordings)
    head(f"Waiting threads, {given.model}")
    print("| spins | machine | one token | up to 40 | batches of 16 |\n|---|---|---|---|---|")
    for busy in (False, True):
        loops = [subprocess.Popen(LOOP) for _ in range((os.cpu_count() or 1) * busy)]
        try:
            for limit in (each for each in given.limits if not busy or each <= MOST_BUSY):
                command = [sys.executable, __file__, *given.recordings, "--model", given.model, "--child"]
                environment = {**os.environ, "GOMP_SPINCOUNT": str(limit)}
                found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                row = found.stdout.splitlines()[-1]
                print(f"| {limit} | {'busy' if busy else 'as it is'} | {row} |", flush=True)
        finally:
            for loop in loops:
                loop.kill()


if __name__ == "__main__":
    main()
