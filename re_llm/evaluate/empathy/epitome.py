"""EPITOME: how much empathy a response shows to what a seeker wrote; the interface of its scorers and its data files.

Three mechanisms, each at level 0 (none), 1 (weak) or 2 (strong): ER emotional reactions ("I'm sorry"), IP
interpretations ("that must be lonely"), EX explorations ("what happened?"). Source: Sharma, Miner, Atkins, Althoff:
A Computational Approach to Understanding Empathy Expressed in Text-Based Mental Health Support, EMNLP 2020.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from re_llm.core.errors import RellmError
from re_llm.core.files import existing
from re_llm.evaluate.empathy.rationales import locate

MECHANISMS = ("ER", "IP", "EX")
LEVELS = 3
CSV_NAMES = {
    "ER": "emotional-reactions-reddit.csv",
    "IP": "interpretations-reddit.csv",
    "EX": "explorations-reddit.csv",
}
COLUMNS = ("sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales")
# Accuracy and macro-F1 that the authors report for RoBERTa-base, on their own test split (EMNLP 2020, table 3).
PUBLISHED = {"ER": (0.794, 0.745), "IP": (0.840, 0.626), "EX": (0.926, 0.726)}
SMALL_NAME = "empathy_small.npz"
ASSET = Path(__file__).parent / "assets" / SMALL_NAME
# The longest post of the corpus has about 10,000 characters; a cell of this size is not one of it.
MAX_CELL = 2**20

# Said beside every score, whatever the scorer (paper facts and measurements: docs/results.md).
WEAKNESSES = (
    "EX is close to a question-mark detector: on EPITOME's Reddit pairs the rule `a question mark -> level 2` is right "
    "in 87.5 % of the pairs.",
    "ER does not ask whether the emotion that a reply names is the right one; the audit `ER, 0 where wrong` does.",
    "The original RoBERTa scorer truncates texts at 64 tokens: a question at the end of a longer reply is never seen. "
    "The shipped small scorer sees the whole reply; `re-llm score --truncation both` gives both scores side by side; "
    "the audits `over 64`, `Ex at 64` and `Ex whole` say how much truncation changes.",
    "All EPITOME scorers learned from English posts on mental health, not from spoken dialogue; levels are for "
    "comparing systems on the same items, not for grading one reply.",
)


@dataclass(frozen=True)
class Level:
    """One mechanism of one response.

    Attributes:
        level: 0, 1 or 2.
        probabilities: of the levels, three numbers that sum to 1.
        rationale: (start, end) character spans of the response that carry the level; empty when unknown.
    """

    level: int
    probabilities: tuple[float, float, float]
    rationale: tuple[tuple[int, int], ...] = ()

    @property
    def expected(self) -> float:
        """Mean level under the probabilities, 0..2."""
        return self.probabilities[1] + 2.0 * self.probabilities[2]


# Empathy of one response: a Level for each of MECHANISMS.
Empathy: TypeAlias = dict[str, Level]


@runtime_checkable
class EmpathyScorer(Protocol):
    """Anything that scores responses to seekers.

    Attributes:
        name: stands in the scores. window: tokens that it reads of each text, None for all of them.
        mechanisms: those of MECHANISMS that it knows.
    """

    name: str

    @property
    def mechanisms(self) -> tuple[str, ...]: ...

    @property
    def window(self) -> int | None: ...

    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """Levels of its mechanisms, one entry per response; `seekers` and `responses` have the same length."""
        ...


@dataclass(frozen=True)
class Pair:
    """One annotated row of an EPITOME file. `spans`: the rationales, as character spans of the response."""

    seeker_id: str
    seeker: str
    response: str
    level: int
    spans: tuple[tuple[int, int], ...]
    lost_rationales: int = 0


def seeker_post(pair: Pair) -> str:
    """What tells seeker posts apart: their words, since some posts came in twice under two ids."""
    return " ".join(pair.seeker.lower().split())


def _one_line(text: str) -> str:
    """Single spaces: the three files differ in their white space, and rationales from their responses."""
    return " ".join(text.split())


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Rows of an EPITOME csv file (columns `sp_id, rp_id, seeker_post, response_post, level, rationales`).

    Raises:
        RellmError: the file is missing, is not UTF-8 or csv, lacks a column or a cell, or holds a level other than
            0, 1, 2; names the line.
    """
    path = existing(path, todo="Give the folder that holds the EPITOME csv files")
    csv.field_size_limit(MAX_CELL)
    pairs = []
    # Spreadsheets put a byte order mark before the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise RellmError(f"{path}:1: the column {missing[0]!r} is missing", allowed=", ".join(COLUMNS))
            pairs = [_pair(row, f"{path}:{reader.line_num}") for row in reader]
        except csv.Error as error:
            raise RellmError(f"{path}:{reader.line_num}: not readable as csv: {error}") from None
        except UnicodeDecodeError as error:
            raise RellmError(
                f"{path}:{reader.line_num + 1}: not UTF-8 hereabouts: {error.reason}", todo="Save the file as UTF-8"
            ) from None
    if not pairs:
        raise RellmError(f"{path} holds no rows")
    return pairs


def _pair(row: dict[str | None, str | None], where: str) -> Pair:
    """One row of the file; `None` stands in it for cells that the line lacks, and as the name of those too many."""
    cells = [row[column] for column in COLUMNS]
    if None in row or None in cells:
        raise RellmError(
            f"{where}: the row has {'more' if None in row else 'fewer'} cells than the header",
            todo='Put texts with commas or line breaks in double quotes ("")',
        )
    seeker_id, _, seeker, response, level, rationales = (cell or "" for cell in cells)
    if level.strip() not in ("0", "1", "2"):
        raise RellmError(f"{where}: level {level!r}", allowed="0, 1, 2")
    response = _one_line(response)
    spans, lost = locate(response, _one_line(rationales))
    return Pair(seeker_id, _one_line(seeker), response, int(level), spans, lost)
