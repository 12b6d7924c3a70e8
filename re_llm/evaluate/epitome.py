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

from re_llm.errors import RellmError

MECHANISMS = ("ER", "IP", "EX")
LEVELS = 3
CSV_NAMES = {
    "ER": "emotional-reactions-reddit.csv",
    "IP": "interpretations-reddit.csv",
    "EX": "explorations-reddit.csv",
}
COLUMNS = ("sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales")
# The longest post of the corpus has about 10,000 characters; a cell of this size is not one of it.
MAX_CELL = 2**20

# Said beside every score, whatever the scorer (paper facts and measurements: docs/results.md).
WEAKNESSES = (
    "EX is close to a question-mark detector: on EPITOME's Reddit pairs the rule `a question mark -> level 2` is right "
    "in 87.5 % of the pairs.",
    "ER does not ask whether the emotion that a reply names is the right one; the audit `named emotion right` does.",
    "The original RoBERTa scorer cuts texts at 64 tokens: a question at the end of a longer reply is never seen. The "
    "shipped small scorer reads the whole reply; the audits `cut at 64` and `Ex by the cut` say how much that changes.",
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
    """

    name: str

    @property
    def window(self) -> int | None: ...

    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """Levels of ER, IP and EX, one entry per response; `seekers` and `responses` have the same length."""
        ...


def load_scorer(name: str = "small") -> EmpathyScorer:
    """The scorer `small` (shipped, numpy only), or the original bi-encoder from a folder.

    Raises:
        RellmError: the name is neither `small` nor a folder with a scorer.
    """
    if name == "small":
        from re_llm.evaluate.empathy_small import SmallScorer

        return SmallScorer.load()
    folder = Path(name)
    if folder.suffix == ".npz" and folder.is_file():
        from re_llm.evaluate.empathy_small import SmallScorer

        return SmallScorer.load(folder)
    if folder.is_dir():
        from re_llm.evaluate.epitome_biencoder import BiEncoderScorer

        return BiEncoderScorer.load(folder)
    raise RellmError(
        f"no such empathy scorer: {name!r}",
        allowed="small; a file that `train_small` wrote (.npz); a folder with a bi-encoder for each of ER, IP, EX",
    )


@dataclass(frozen=True)
class Pair:
    """One annotated row of an EPITOME file. `spans`: the rationales, as character spans of the response."""

    seeker_id: str
    seeker: str
    response: str
    level: int
    spans: tuple[tuple[int, int], ...]
    lost_rationales: int = 0


def _one_line(text: str) -> str:
    """Single spaces: the three files differ in their white space, and rationales from their responses."""
    return " ".join(text.split())


def _spans(response: str, rationales: str) -> tuple[tuple[tuple[int, int], ...], int]:
    """Where the rationales stand in the response, and how many were not found (annotators retyped some)."""
    low, found, lost = response.lower(), [], 0
    for rationale in filter(None, (part.strip() for part in rationales.split("|"))):
        # Retyped ones mostly start like the text: the first words place them.
        start = low.find(rationale.lower())
        start = low.find(rationale[:20].lower()) if start < 0 else start
        if start < 0:
            lost += 1
        else:
            found.append((start, min(len(response), start + len(rationale))))
    return tuple(found), lost


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Rows of an EPITOME csv file (columns `sp_id, rp_id, seeker_post, response_post, level, rationales`).

    Raises:
        RellmError: the file is missing, lacks a column, or holds a level other than 0, 1, 2; names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise RellmError(f"no such file: {path}", todo="Give the folder that holds the EPITOME csv files")
    csv.field_size_limit(MAX_CELL)
    pairs = []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise RellmError(f"{path} lacks the column {missing[0]!r}", allowed=", ".join(COLUMNS))
        try:
            for row in reader:
                if row["level"] not in ("0", "1", "2"):
                    raise RellmError(f"{path}:{reader.line_num}: level {row['level']!r}", allowed="0, 1, 2")
                seeker, response = (_one_line(row[column]) for column in ("seeker_post", "response_post"))
                spans, lost = _spans(response, _one_line(row["rationales"] or ""))
                pairs.append(Pair(row["sp_id"], seeker, response, int(row["level"]), spans, lost))
        except csv.Error as error:
            raise RellmError(f"{path}:{reader.line_num}: not readable as csv: {error}") from None
    if not pairs:
        raise RellmError(f"{path} holds no rows")
    return pairs
