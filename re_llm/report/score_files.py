"""Reads scores of many files into one table, and refuses systems that were not scored on the same items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Score, read_numbered
from re_llm.evaluate import dimensions, references, word_errors
from re_llm.evaluate.empathy.epitome import LEVELS, MECHANISMS
from re_llm.evaluate.ser import score_recognition
from re_llm.report.tables import GROUP_KEY, NO_CORPUS, ScoreTable

NAMED_ITEMS = 5
Details = Sequence[Mapping[str, Any]]


def _recognition(prefix: str, details: Details) -> Iterator[tuple[str, dict[str, Any]]]:
    result = score_recognition([each["reference"] for each in details], [each.get("named") for each in details])
    return ((prefix + name, fields) for name, fields in result.rows())


def _of_references(metric: str, details: Details) -> Iterator[tuple[str, dict[str, Any]]]:
    yield metric, references.GROUPS[metric](details)


# What makes the rows of a group from the details of its items, for metrics whose mean over items says nothing.
GROUP_ROWS: dict[str, Callable[[Details], Iterable[tuple[str, dict[str, Any]]]]] = {
    "SER": partial(_recognition, ""),
    "HEAD": partial(_recognition, "HEAD_"),
    "VAD": lambda details: dimensions.group_fields(each["pairs"] for each in details),
    "WER": lambda details: [
        ("WER", word_errors.group_fields([each["edits"] for each in details], [each["words"] for each in details]))
    ],
    **{name: partial(_of_references, name) for name in references.GROUPS},
}


def read_scores(paths: Sequence[Path], *, common: bool = False) -> ScoreTable:
    """All scores of some files.

    Args:
        common: compare the systems on the items that all of them have, where they have different ones.

    Raises:
        RellmError: a file or a line is broken, nothing is in them, two lines score the same item or name different
            reference emotions of it, or the systems have different items of a corpus; names line or items.
    """
    table = ScoreTable()
    emotions: dict[tuple[str, str], str] = {}
    for path in paths:
        for number, row in read_numbered(path, Score):
            _add(table, row, emotions, f"{path}:{number}")
    if not table.items and not table.groups:
        raise RellmError(
            "the scores files hold no scores", todo="Score replies first: re-llm score REPLIES --out SCORES"
        )
    for corpus in table.corpora:
        for metric in MECHANISMS:
            _check_scorers(table, corpus, metric)
        for metric in (*MECHANISMS, *GROUP_ROWS):
            _check_items(table, corpus, metric, common)
    return table


def _add(table: ScoreTable, row: Score, emotions: dict[tuple[str, str], str], where: str) -> None:
    corpus = row.corpus or NO_CORPUS
    group = row.key == GROUP_KEY
    place = (row.system, corpus, row.seed, row.metric)
    values = table.items.get((row.system, corpus, row.metric), {})
    if place in table.groups if group else (row.key, row.seed) in values:
        raise RellmError(
            f"{where}: {row.metric} of {row.key!r} was read before "
            f"(system {row.system}, corpus {corpus}, seed {row.seed})",
            todo="Give every scores file once; scores of other seeds need their `seed`",
        )
    if group:
        table.groups[place] = row
    elif row.value is not None:
        if row.metric in MECHANISMS and not 0 <= row.value <= LEVELS - 1:
            raise RellmError(f"{where}: {row.metric} of {row.key!r} is {row.value:g}", allowed="levels of 0, 1, 2")
        table.items.setdefault((row.system, corpus, row.metric), {})[row.key, row.seed] = row.value
        extra = row.model_extra or {}
        if row.metric in GROUP_ROWS:
            details = extra if row.metric not in references.GROUPS else {**extra, "value": row.value}
            table.details.setdefault((row.system, corpus, row.metric), {})[row.key, row.seed] = details
        if extra.get("rationale"):
            spans = [(first, last) for first, last in extra["rationale"]]
            table.rationales.setdefault((row.system, corpus, row.metric), {})[row.key, row.seed] = spans
        if "reference" in extra:
            first = emotions.setdefault((corpus, row.key), extra["reference"])
            if first != extra["reference"]:
                raise RellmError(
                    f"{where}: the reference emotion of {row.key!r} is {extra['reference']}, elsewhere {first}",
                    todo="Answer the same manifest with every system",
                )
    elif "failed" not in (row.model_extra or {}):  # a judge that refused, or that could not be read
        raise RellmError(f"{where}: {row.metric} of {row.key!r} has no value", todo="Score the replies again")


def _check_scorers(table: ScoreTable, corpus: str, metric: str) -> None:
    """Levels of two scorers, or of replies cut differently, are no difference between systems."""
    used: dict[tuple[str, str], str] = {}
    for system in table.systems:
        for extra in table.extras(system, corpus, metric):
            if "scorer" in extra:
                used.setdefault((extra["scorer"], extra.get("truncation", "none")), system)
    if len(used) > 1:
        each = "; ".join(f"{system} by {name}, truncation {cut}" for (name, cut), system in used.items())
        raise RellmError(
            f"{metric} on {corpus} was scored differently: {each}",
            todo="Score the replies of all systems with one --scorer and one --truncation",
        )


def _check_items(table: ScoreTable, corpus: str, metric: str, common: bool) -> None:
    """Every system, with every seed, must have the same items; else they are refused, or reduced to the common ones."""
    have: dict[tuple[str, int | None], set[str]] = {}
    for system in table.systems:
        for key, seed in table.items.get((system, corpus, metric), {}):
            have.setdefault((system, seed), set()).add(key)
    if len({frozenset(keys) for keys in have.values()}) < 2:
        return
    every, shared = set().union(*have.values()), set.intersection(*have.values())
    if not common or not shared:
        (system, seed), least = min(have.items(), key=lambda each: len(each[1]))
        lacking = sorted(every - least)
        more = f" and {len(lacking) - NAMED_ITEMS} more" if len(lacking) > NAMED_ITEMS else ""
        named = ", ".join(lacking[:NAMED_ITEMS]) + more
        which = system if seed is None else f"{system} (seed {seed})"
        way_out = f", or compare the {len(shared)} common items with --common" if shared else "; none is common to all"
        raise RellmError(
            f"the systems were not scored on the same items of {corpus}: {which} lacks {metric} of {len(lacking)} of "
            f"{len(every)} items: {named}",
            todo=f"Answer the same manifest with every system{way_out}",
        )
    table.common[corpus, metric] = len(shared), len(every)
    for system in table.systems:
        _reduce(table, system, corpus, metric, shared)


def _reduce(table: ScoreTable, system: str, corpus: str, metric: str, keys: set[str]) -> None:
    """Leaves the scores of other items out, and makes the rows of the group again from those that stay."""
    values = table.items.get((system, corpus, metric), {})
    table.items[system, corpus, metric] = {item: value for item, value in values.items() if item[0] in keys}
    if metric not in GROUP_ROWS:
        return
    details = {item: each for item, each in table.details.get((system, corpus, metric), {}).items() if item[0] in keys}
    table.details[system, corpus, metric] = details
    for seed in {seed for _, seed in details}:
        for name, fields in GROUP_ROWS[metric]([each for (_, own), each in details.items() if own == seed]):
            table.groups[system, corpus, seed, name] = Score(
                key=GROUP_KEY, system=system, metric=name, corpus=corpus, seed=seed, **fields
            )
