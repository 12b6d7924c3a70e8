"""How many replies a second the empathy scorers take on one core, beside what a user would pick instead.

    python benchmarks/score_throughput.py

The rival is the original architecture (two RoBERTa-base encoders for each mechanism) with random weights: speed does
not depend on what they are. Everything is timed in seconds of the processor, which on an idle core are seconds of the
clock, so that other work on the machine does not count. `--full` gives the rival a larger sample.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.provenance import machine
from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate import load_scorer, score_file
from re_llm.evaluate.empathy.epitome import MECHANISMS

if TYPE_CHECKING:
    from re_llm.evaluate.empathy.biencoder_scorer import BiEncoderScorer

PIECES = (
    "I'm sorry to hear that.", "What happened?", "That must be hard for you.", "I hope it gets better soon.",
    "You could talk to a friend about it.", "How long have you felt this way?", "I was there once, it took me a year.",
    "Take a walk, drink some water and sleep.", "It is a quarter past nine.", "You sound happy, tell me more about it!",
)  # fmt: skip
SEEKER = "I got the letter today and now I do not know what to do."
REPEATS = 5


def replies(count: int, words: int) -> list[str]:
    """Replies of about `words` words, all different."""
    rng = random.Random(0)
    out = []
    for n in range(count):
        text = f"Well, number {n}."
        while len(text.split()) < words:
            text += " " + rng.choice(PIECES)
        out.append(text)
    return out


def rate(work: Callable[[], object], count: int, repeats: int = REPEATS) -> tuple[float, float]:
    """Median of items per second of processor time, and the spread (highest minus lowest, share of the median)."""
    work()
    rates = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        rates.append(count / (time.process_time() - began))
    middle = statistics.median(rates)
    return middle, (max(rates) - min(rates)) / middle


def time_small(count: int, words: int) -> tuple[float, float]:
    scorer = load_scorer("small")
    texts, seekers = replies(count, words), [SEEKER] * count
    return rate(lambda: scorer.score(seekers, texts), count)


def time_stage(count: int, words: int) -> tuple[float, float]:
    """The whole stage: read replies, score, write scores."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replies.jsonl"
        rows = (
            ReplyRecord(key=str(n), system="s", text="I got the letter.", response=text, emotion="sad", answer="sad")
            for n, text in enumerate(replies(count, words))
        )
        write_records(path, rows)
        names = map(str, itertools.count())  # scores that are there already would not be made again
        return rate(lambda: score_file(path, Path(folder) / next(names), progress=False), count)


@cache
def biencoders(original: bool) -> BiEncoderScorer:
    """Three pairs of RoBERTa-base encoders with random weights, and a tokenizer of the replies' own words."""
    import torch
    from transformers import RobertaConfig

    from re_llm.evaluate.empathy.biencoder import BiEncoder
    from re_llm.evaluate.empathy.biencoder_scorer import BiEncoderScorer
    from re_llm.evaluate.empathy.biencoder_start import train_tokenizer

    torch.set_num_threads(1)
    config = RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    models = {mechanism: BiEncoder(config, original=original) for mechanism in MECHANISMS}
    return BiEncoderScorer(models, train_tokenizer([*PIECES, SEEKER], 500))


def time_biencoder(count: int, words: int, *, original: bool = False, whole: bool = False) -> tuple[float, float]:
    scorer = biencoders(original)
    texts, seekers = replies(count, words), [SEEKER] * count
    work = scorer.score_whole if whole else scorer.score
    return rate(lambda: work(seekers, texts), count, repeats=3)


def one_core() -> None:
    """Starts the script again with one thread: the libraries read these variables when they are imported."""
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def main() -> None:
    one_core()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="more replies for the bi-encoders (minutes)")
    options = parser.parse_args()
    print(f"{date.today()}  {machine()['processor']}, one core, Python {sys.version.split()[0]}")
    few = 64 if options.full else 4
    print(f"{'what':62} {'replies/s':>10} {'spread':>7}")
    rows = (
        ("small scorer, replies of 12 words", lambda: time_small(4000, 12)),
        ("small scorer, replies of 48 words", lambda: time_small(2000, 48)),
        ("re-llm score: read, ER + EX + IP + SER, write; 12 words", lambda: time_stage(4000, 12)),
        ("bi-encoders as the authors run them, padded to 64; 12 words", lambda: time_biencoder(few, 12, original=True)),
        ("bi-encoders, truncation 64; 12 words", lambda: time_biencoder(few, 12)),
        ("bi-encoders, truncation 64; 120 words", lambda: time_biencoder(few, 120)),
        ("bi-encoders, truncation none; 120 words", lambda: time_biencoder(few, 120, whole=True)),
    )
    for name, work in rows:
        middle, spread = work()
        print(f"{name:62} {middle:10.1f} {100 * spread:6.0f}%", flush=True)


if __name__ == "__main__":
    main()
