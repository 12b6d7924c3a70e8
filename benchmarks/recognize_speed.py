"""How many recordings an emotion encoder recognises in a second, without an LLM; files read and decoded included.

    python benchmarks/recognize_speed.py [ENCODER] [MANIFEST] [LIMIT]

ENCODER: folder that `re-llm train emotion` wrote, else `small:emotion`. MANIFEST: of utterances, LIMIT of which are
taken, evenly spread; else the recordings that ship.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from _common import head, need_parts, row, shipped, spread, timed

from re_llm.audio import waveform
from re_llm.core.records import Utterance, read_records
from re_llm.inference.recognizer import EmotionRecognizer
from re_llm.inference.respond import rows_for

LIMIT = 200
REPEATS = 3
BATCHES = (1, 8, 16)


def main() -> None:
    head("Recognition without an LLM")
    encoder = sys.argv[1] if len(sys.argv) > 1 else "small:emotion"
    need_parts(encoder)
    recognizer = EmotionRecognizer.load(encoder)
    manifest = Path(sys.argv[2]) if len(sys.argv) > 2 else Path()
    rows = list(read_records(manifest, Utterance)) if len(sys.argv) > 2 else rows_for(shipped())
    limit = min(len(rows), int(sys.argv[3]) if len(sys.argv) > 3 else LIMIT)
    rows = spread(rows, limit)

    def waves() -> list[np.ndarray]:
        return [waveform.load(u.audio, start=u.start, duration=u.duration, root=manifest.parent) for u in rows]

    seconds = sum(map(len, waves())) / waveform.RATE / len(rows)
    print(f"{len(rows)} recordings, {seconds:.1f} s on average, {recognizer.dtype}\n")
    row("reading", [len(rows) / each for each in timed(waves, REPEATS)], unit="recordings/s")
    for size in BATCHES:

        def work(size: int = size) -> None:
            recognizer.recognize(waves(), batch_size=size)

        begun = time.process_time()
        row(f"batch {size}", [len(rows) / each for each in timed(work, REPEATS)], unit="recordings/s")
        used = (time.process_time() - begun) / (REPEATS + 1)  # one is not counted above
        print(f"  {len(rows) / used:.1f} for a second of one core's time: what a busy machine does not change")


if __name__ == "__main__":
    main()
