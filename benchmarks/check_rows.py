"""`re-llm prepare check --no-audio` on a manifest of a million rows: time and peak memory of the command.

python benchmarks/check_rows.py            # a million rows of 5,000 speakers
python benchmarks/check_rows.py 100000
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from _common import COMMAND, child, head

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance, write_records

SPEAKERS = 5000
SENTENCE = "I did not see that you had left the house so early on such a cold and rainy day"


def utterances(rows: int) -> Iterator[Utterance]:
    """Rows as of a large corpus: training and test speakers apart, most sentences said once."""
    draw, words = random.Random(0), SENTENCE.split()
    for number in range(rows):
        speaker = draw.randrange(SPEAKERS)
        yield Utterance(
            key=f"utterance-{number:08d}",
            corpus="invented",
            split="test" if speaker < SPEAKERS // 10 else "train",
            audio=f"audio/{speaker:05d}/{number:08d}.flac",
            duration=round(draw.uniform(1.0, 15.0), 3),
            sample_rate=16_000,
            text=" ".join([*draw.choices(words, k=draw.randint(3, 16)), str(draw.randrange(rows))]),
            language="en",
            speaker=f"speaker-{speaker:05d}",
            emotion=draw.choice(PROMPT_EMOTIONS),
            valence=0.4,
            arousal=0.5,
            dominance=0.6,
            vad_source="annotated",
            sha256=f"{number:064x}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    rows = parser.parse_args().rows
    head(f"check --no-audio, {rows:,} rows")
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.jsonl"
        write_records(manifest, utterances(rows))
        print(f"manifest of {manifest.stat().st_size / 1e6:.0f} MB")
        done = child([COMMAND, "prepare", "check", str(manifest), "--no-audio"])
    print(f"{done.seconds:.1f} s, {rows / done.seconds:,.0f} rows a second, peak {done.peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
