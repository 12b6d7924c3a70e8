"""Agreement between two judges, or between a judge and people: on the replies that both have judged."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.files import existing
from re_llm.core.records import Score, read_numbered
from re_llm.evaluate.judge.judging import CRITERIA
from re_llm.evaluate.judge.results import WIN

COLUMNS = ("key", "value", "criterion", "system", "seed")
Place = tuple[str, str, str | None, int | None]  # criterion, key, system, seed; None where a csv file does not say


@dataclass(frozen=True)
class Agreement:
    """How far two judges agree on one criterion.

    Attributes:
        kappa: Cohen's; of scores with quadratic weights, rounded to whole numbers. None when both gave one value only.
        spearman: rank correlation; None when one of them does not vary.
        same: fraction with the same (rounded) value. difference: mean of first minus second.
        pairs: judged by both; only_first, only_second: judged by one of them, and left out.
    """

    criterion: str
    kappa: float | None
    spearman: float | None
    same: float
    difference: float
    pairs: int
    only_first: int
    only_second: int


@dataclass(frozen=True)
class AgreementReport:
    """Agreement of two files, by criterion."""

    rows: list[Agreement]

    def summary(self) -> str:
        """For a person."""
        lines = []
        for row in self.rows:
            kappa, rho = ("—" if each is None else f"{each:.3f}" for each in (row.kappa, row.spearman))
            lines.append(
                f"{row.criterion.lower()}: kappa {kappa}, Spearman {rho}, the same {100 * row.same:.0f} %, mean "
                f"difference {row.difference:+.2f}; {row.pairs} judged by both, {row.only_first} and {row.only_second} "
                "by one alone"
            )
        return "\n".join(lines)


def compare(first: Sequence[float], second: Sequence[float], criterion: str, alone: tuple[int, int]) -> Agreement:
    """Agreement of paired values. Args: alone: values of either that have no partner.

    Raises:
        ValueError: the sequences differ in length or are empty.
    """
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    if len(first) != len(second) or not len(first):
        raise ValueError(f"paired values are needed, got {len(first)} and {len(second)}")
    scored = criterion != "PAIRWISE"
    labels = [[round(value if scored else 2 * value) for value in values] for values in (first, second)]
    varies = [len(set(each)) > 1 for each in labels]
    kappa = cohen_kappa_score(*labels, weights="quadratic" if scored else None) if any(varies) else None
    rho = spearmanr(first, second).statistic if len(set(first)) > 1 and len(set(second)) > 1 else None
    same = sum(a == b for a, b in zip(*labels, strict=True)) / len(first)
    difference = (sum(first) - sum(second)) / len(first)
    return Agreement(
        criterion, None if kappa is None else float(kappa), None if rho is None else float(rho), same, difference,
        len(first), *alone,
    )  # fmt: skip


def judge_agreement(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> AgreementReport:
    """Compares two files: judgements of `re-llm judge`, or csv files of people.

    A csv file has the columns `key` and `value` (a score from 0 to 10, or win, tie, loss) and, where it holds more than
    one, `criterion` (quality, empathy or pairwise), `system` and `seed`.

    Raises:
        RellmError: a file or a line is wrong, a row of a csv file fits several judgements, or nothing is in both.
    """
    ours, theirs = _read(Path(first)), _read(Path(second))
    pairs: dict[str, list[tuple[float, float]]] = {}
    matched: tuple[set[Place], set[Place]] = set(), set()
    by_key: dict[str, list[Place]] = {}
    for place in theirs:
        by_key.setdefault(place[1], []).append(place)
    for place in ours:
        fitting = [other for other in by_key.get(place[1], []) if _fits(place, other)]
        if len(fitting) > 1 or (fitting and fitting[0] in matched[1]):
            raise RellmError(
                f"the judgement of {place[1]!r} in one file fits several in the other",
                todo="Add the columns criterion, system and seed to the csv file",
            )
        if fitting:
            matched[0].add(place)
            matched[1].add(fitting[0])
            criterion = place[0] or fitting[0][0] or "SCORE"
            pairs.setdefault(criterion, []).append((ours[place], theirs[fitting[0]]))
    if not pairs:
        raise RellmError(
            f"{first} and {second} have no judgement in common", allowed="the same keys and systems in both"
        )
    rows = []
    for criterion, values in pairs.items():
        alone = [
            sum(p[0] in ("", criterion) for p in each.keys() - met)
            for each, met in zip((ours, theirs), matched, strict=True)
        ]
        pair = [a for a, _ in values], [b for _, b in values]
        rows.append(compare(*pair, criterion, (alone[0], alone[1])))
    return AgreementReport(rows)


def _fits(one: Place, other: Place) -> bool:
    criterion = one[0] == other[0] or not one[0] or not other[0]
    return criterion and all(a == b or a is None or b is None for a, b in zip(one[2:], other[2:], strict=True))


def _read(path: Path) -> dict[Place, float]:
    found: dict[Place, float] = {}
    for place, value, where in _csv_rows(path) if path.suffix.lower() == ".csv" else _judgements(path):
        if place in found:
            raise RellmError(f"{where}: {place[1]!r} is judged twice", todo="Keep one judgement of each reply")
        found[place] = value
    return found


def _judgements(path: Path) -> Iterable[tuple[Place, float, str]]:
    for number, row in read_numbered(path, Score):
        if row.metric.startswith("JUDGE_") and row.key != "*" and row.value is not None:
            yield (row.metric.removeprefix("JUDGE_"), row.key, row.system, row.seed), row.value, f"{path}:{number}"


def _csv_rows(path: Path) -> Iterable[tuple[Place, float, str]]:
    with existing(path).open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        missing = {"key", "value"} - set(reader.fieldnames or [])
        if missing:
            raise RellmError(f"{path} lacks the column {', '.join(sorted(missing))}", allowed=", ".join(COLUMNS))
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if (row["value"] or "").strip():
                yield _place(row, where), _value(row["value"], where), where


def _place(row: Mapping[str, str | None], where: str) -> Place:
    criterion = (row.get("criterion") or "").strip().upper()
    if criterion and criterion not in CRITERIA:
        raise RellmError(f"{where}: unknown criterion {criterion!r}", allowed=", ".join(CRITERIA))
    seed = (row.get("seed") or "").strip()
    if seed and not seed.isdigit():
        raise RellmError(f"{where}: the seed is {seed!r}", allowed="a whole number, or nothing")
    return criterion, (row["key"] or "").strip(), (row.get("system") or "").strip() or None, int(seed) if seed else None


def _value(text: str, where: str) -> float:
    plain = text.strip().lower()
    if plain in WIN:
        return WIN[plain]
    try:
        value = float(plain)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise RellmError(f"{where}: the value is {text!r}", allowed="0 to 10, or win, tie, loss")
    return value
