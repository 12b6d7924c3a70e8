"""Invented pairs in the format of EPITOME's csv files; the level is told by one of three sentences."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from re_llm.evaluate.empathy.epitome import COLUMNS, CSV_NAMES, MECHANISMS

PARTS = {
    "ER": ["Take a walk now.", "I hope it gets better soon.", "I am sorry, that makes me sad."],
    "IP": ["Do it step by step.", "I understand how you feel.", "I was in your place, I lost my job."],
    "EX": ["Here is the number.", "What happened?", "Are you alone because your friend moved away?"],
}


def write_corpus(folder: Path, pairs: int = 90) -> Path:
    """The three csv files; two pairs to each seeker post."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(0)
    rows = [(n, {m: rng.choices((0, 1, 2), (6, 2, 2))[0] for m in MECHANISMS}) for n in range(pairs)]
    for mechanism, name in CSV_NAMES.items():
        with (folder / name).open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(COLUMNS)
            for n, level in rows:
                filler = f"Well {'abcdef'[n // 2 % 6]} it is."
                response = " ".join(PARTS[m][level[m]] for m in MECHANISMS) + f" Item {n % 7}."
                rationale = PARTS[mechanism][level[mechanism]] + "|" if level[mechanism] else ""
                writer.writerow([n // 2, n, f"Post {n // 2}. {filler}", response, level[mechanism], rationale])
    return folder


def write_rows(path: Path, rows: list[tuple[str, str, int, str]]) -> Path:
    """One csv file of (seeker post, response, level, rationales)."""
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        writer.writerows([n, n, *row] for n, row in enumerate(rows))
    return path
