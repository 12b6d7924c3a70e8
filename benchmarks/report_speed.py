"""`re-llm report` on 5,000 replies, and the statistics of Table I alone: seconds of the processor.

    python benchmarks/report_speed.py              # 8 systems on 3 corpora, 5,000 replies
    python benchmarks/report_speed.py --profile    # and the functions that take most of it

Seconds of the processor are those of the clock on an idle core; other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

from _common import head
from score_throughput import PIECES, one_core

from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate import score_file
from re_llm.report.score_files import read_scores
from re_llm.report.tables import CORPORA, SYSTEMS
from re_llm.report.write import write_report

EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")
SPEAKERS = 6
SENTENCE = "I got letter number {} today and now I do not know what to do."


def replies(count: int) -> Iterator[ReplyRecord]:
    """Replies of every system of Table I to the same utterances: sentences spoken in five emotions."""
    groups = list(product(CORPORA, SYSTEMS))
    draw = random.Random(0)
    for corpus, system in groups:
        for number in range(count // len(groups)):
            emotion, sentence = EMOTIONS[number % len(EMOTIONS)], number // len(EMOTIONS)
            sure = draw.uniform(0.3, 0.9)
            named = emotion if draw.random() < 0.6 else draw.choice(EMOTIONS)
            yield ReplyRecord(
                key=f"{corpus}-{number}", system=system, corpus=corpus, text=SENTENCE.format(sentence), emotion=emotion,
                response=f"You sound {named}. " + " ".join(draw.choices(PIECES, k=4)), speaker=f"s{number % SPEAKERS}",
                gender="female" if number % 2 else "male", language="en", duration=draw.uniform(1, 8), answer=named,
                predicted_emotion=named, transcript=SENTENCE.format(sentence + number % 2),
                probabilities={e: sure if e == named else (1 - sure) / (len(EMOTIONS) - 1) for e in EMOTIONS},
                **{f"{kind}{name}": draw.random() for kind in ("", "reference_")
                   for name in ("valence", "arousal", "dominance")},
            )  # fmt: skip


def seconds(name: str, work: Callable[[], object]) -> None:
    """Prints how long one call takes."""
    began, clock = time.process_time(), time.perf_counter()
    work()
    print(f"{name:44} {time.process_time() - began:6.2f} s of the processor, {time.perf_counter() - clock:6.2f} s")


def main() -> None:
    one_core()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=5000)
    parser.add_argument("--profile", action="store_true", help="print the functions that take most of a report")
    options = parser.parse_args()
    head(f"report, {options.replies:,} replies, {len(SYSTEMS)} systems, {len(CORPORA)} corpora")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / "replies.jsonl", replies(options.replies))
        score_file(folder / "replies.jsonl", folder / "scores.jsonl", progress=False)
        files = [folder / "scores.jsonl"], [folder / "replies.jsonl"]

        def report(out: str, pages: bool = True) -> None:
            write_report(*files, folder / out, pages=pages, baseline="cascade")

        seconds("the whole report, imports included", lambda: report("cold"))
        seconds("the whole report", lambda: report("warm"))
        seconds("numbers alone", lambda: report("numbers", pages=False))
        table = read_scores(files[0])
        seconds("statistics of Table I", lambda: table.gains("cascade"))
        if options.profile:
            profile = cProfile.Profile(time.process_time)
            profile.runcall(report, "profiled")
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
