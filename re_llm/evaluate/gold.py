"""Gold levels of empathy of replies, given by people or written with them, and how far a scorer agrees.

A file of gold levels is csv or JSON lines; `key` and one of `er`, `ip`, `ex` (0, 1, 2) are enough. `right_tone` (yes or
no) says whether a reply is in the tone of the emotion that it answers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from re_llm.core.errors import RellmError
from re_llm.core.files import existing
from re_llm.core.records import Record, problem_of, read_numbered
from re_llm.evaluate.empathy.epitome import LEVELS, MECHANISMS

RESAMPLES = 2_000
COLUMNS = ("key", "er", "ip", "ex", "right_tone", "system", "corpus", "seed")
Place = tuple[str, str, str, int | None]  # system, corpus, key, seed: of a reply
Floats = npt.NDArray[np.float64]

OneLevel = Field(default=None, ge=0, lt=LEVELS)


class GoldRow(Record):
    """Levels of one reply, None where nobody gave one. system, corpus, seed: needed where `key` does not tell alone."""

    er: int | None = OneLevel
    ip: int | None = OneLevel
    ex: int | None = OneLevel
    right_tone: bool | None = None
    system: str | None = None
    corpus: str | None = None
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, cells: object) -> object:
        """Names of columns in any case, empty cells left out."""
        if not isinstance(cells, dict):
            return cells
        stripped = {name: cell.strip() if isinstance(cell, str) else cell for name, cell in cells.items()}
        return {name.strip().lower(): cell for name, cell in stripped.items() if cell != ""}

    def level(self, mechanism: str) -> int | None:
        return {"ER": self.er, "IP": self.ip, "EX": self.ex}[mechanism]

    def fits(self, place: Place) -> bool:
        """Whether the row may be about this reply."""
        system, corpus, key, seed = place
        named = ((self.system, system), (self.corpus, corpus), (self.seed, seed))
        return self.key == key and all(own is None or own == other for own, other in named)


def read_gold(path: Path) -> Iterator[tuple[str, GoldRow]]:
    """(file:line, row) of a file of gold levels, csv or JSON lines by its ending.

    Raises:
        RellmError: the file is missing or lacks a column, or a row is not valid; names the line.
    """
    if path.suffix.lower() != ".csv":
        yield from ((f"{path}:{number}", row) for number, row in read_numbered(path, GoldRow))
        return
    with existing(path).open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        try:
            names = {name.strip().lower() for name in reader.fieldnames or []}
            if "key" not in names or not names & {name.lower() for name in MECHANISMS}:
                raise RellmError(
                    f"{path} lacks the column `key`, or all of `er`, `ip` and `ex`", allowed=", ".join(COLUMNS),
                    todo="Separate the columns by commas, and name them in the first line",
                )  # fmt: skip
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                yield where, GoldRow.model_validate({name: cell or "" for name, cell in cells.items() if name})
        except ValidationError as error:
            raise RellmError(f"{where}: not a valid row of gold levels: {problem_of(error)}") from None
        except (csv.Error, UnicodeDecodeError) as error:
            raise RellmError(f"{path}: not readable as csv in UTF-8, after line {reader.line_num}: {error}") from None


@dataclass
class Gold:
    """Gold levels of replies, by reply.

    Attributes:
        files: that they were read from. unmatched: file and line of rows that are about no reply.
    """

    rows: dict[Place, GoldRow] = field(default_factory=dict)
    files: int = 0
    unmatched: list[str] = field(default_factory=list)


def match_gold(paths: Iterable[Path], replies: Iterable[Place]) -> Gold:
    """Finds the reply of every row of some files of gold levels.

    Raises:
        RellmError: a file is wrong, a row fits several replies, a reply has two rows, or no row fits a reply.
    """
    by_key: dict[str, list[Place]] = {}
    for place in replies:
        by_key.setdefault(place[2], []).append(place)
    gold, lines = Gold(), dict[Place, str]()
    for path in paths:
        gold.files += 1
        for where, row in read_gold(path):
            fitting = [place for place in by_key.get(row.key, []) if row.fits(place)]
            if len(fitting) > 1:
                raise RellmError(
                    f"{where}: the levels of {row.key!r} fit {len(fitting)} replies",
                    todo="Add the columns system, corpus and seed where replies to one utterance differ in them",
                )
            if not fitting:
                gold.unmatched.append(where)
            elif fitting[0] in lines:
                raise RellmError(
                    f"{where}: the reply to {row.key!r} has levels in {lines[fitting[0]]} already",
                    todo="Keep one row for each reply; what several people decided, as one level",
                )
            else:
                lines[fitting[0]], gold.rows[fitting[0]] = where, row
    if gold.files and not gold.rows:
        raise RellmError(
            "no row of the gold levels is about a reply that was scored", allowed="the keys and systems of the scores"
        )
    if gold.files and not any(row.level(m) is not None for row in gold.rows.values() for m in MECHANISMS):
        raise RellmError("the files of gold levels hold no level", allowed="er, ip or ex of 0, 1, 2 in a row")
    return gold


@dataclass(frozen=True)
class Agreement:
    """Gold levels and a scorer's of the same replies.

    Attributes:
        replies: that have both. gold, scorer: mean levels.
        confusion: [gold level][level by the scorer], numbers of replies.
        accuracy: fraction with the same level.
        kappa: Cohen's with quadratic weights; None where one side has one level only.
        interval: 95 % bootstrap interval of kappa over utterances; None without kappa.
    """

    replies: int
    gold: float
    scorer: float
    confusion: list[list[int]]
    accuracy: float
    kappa: float | None
    interval: tuple[float, float] | None


def _kappas(confusions: Floats) -> Floats:
    """[..., 3, 3] -> [...]: Cohen's kappa with quadratic weights; NaN where one side has one level only."""
    total = confusions.sum((-1, -2))
    gold, scorer = confusions.sum(-1), confusions.sum(-2)
    weights = np.subtract.outer(np.arange(LEVELS), np.arange(LEVELS)) ** 2.0
    by_chance = np.einsum("...i,ij,...j->...", gold, weights, scorer) / total
    varies = ((gold > 0).sum(-1) > 1) & ((scorer > 0).sum(-1) > 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas = 1 - (confusions * weights).sum((-1, -2)) / by_chance
    return np.where(varies, kappas, np.nan)


def agreement(gold: Sequence[int], scorer: Sequence[int], utterances: Sequence[str], *, seed: int = 0) -> Agreement:
    """Compares levels of the same replies.

    Args:
        utterances: what each reply answers; replies to one utterance (of several systems or seeds) are drawn together
            in the bootstrap.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    if not (len(gold) == len(scorer) == len(utterances) > 0):
        raise ValueError(f"paired levels are needed, got {len(gold)}, {len(scorer)} and {len(utterances)}")
    names, own = np.unique(np.asarray(utterances), return_inverse=True)
    each = np.zeros((len(names), LEVELS, LEVELS))
    np.add.at(each, (own, np.asarray(gold), np.asarray(scorer)), 1.0)
    confusion = each.sum(0)
    kappa = float(_kappas(confusion))
    interval = None
    if not np.isnan(kappa):
        # Utterances with the same levels are alike: drawing their counts draws the utterances.
        patterns, counts = np.unique(each.reshape(len(names), -1), axis=0, return_counts=True)
        draws = np.random.default_rng(seed).multinomial(len(names), counts / len(names), size=RESAMPLES)
        found = _kappas((draws @ patterns).reshape(-1, LEVELS, LEVELS))
        low, high = np.nanquantile(found, [0.025, 0.975])
        interval = float(low), float(high)
    return Agreement(
        len(gold), fmean(gold), fmean(scorer), confusion.astype(int).tolist(),
        float(np.trace(confusion) / len(gold)), None if interval is None else kappa, interval,
    )  # fmt: skip
