"""`re-llm report --compare A B`: two reports beside each other, number by number."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, quote, write_page
from re_llm.report.tables import METRIC_TITLES, Cell, corpus_title, show_cell, system_title

Place = tuple[str, str, str]  # corpus, system, metric


@dataclass(frozen=True)
class Change:
    """A number of two reports.

    Attributes:
        first, second: means; None where a report lacks the number. items: in either.
        apart: whether the 95 % intervals, or the means of the seeds, of the two do not overlap; None without either.
    """

    corpus: str
    system: str
    metric: str
    first: float | None
    second: float | None
    items: tuple[int, int]
    apart: bool | None

    @property
    def difference(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first


def _read(report: Path) -> dict[Place, Cell]:
    path = report / "results.json" if report.is_dir() else report
    if not path.is_file():
        raise RellmError(f"{report} is no report", allowed="a folder that `re-llm report` wrote, or its results.json")
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return {(each.pop("corpus"), each.pop("system"), each.pop("metric")): Cell(**each) for each in cells}
    except (ValueError, KeyError, TypeError) as error:
        raise RellmError(f"{path} is no results.json of a report: {error}") from None


def _range(cell: Cell) -> tuple[float, float] | None:
    if len(cell.seeds) > 1:
        return min(cell.seeds), max(cell.seeds)
    return (cell.interval[0], cell.interval[1]) if cell.interval else None


def _apart(first: Cell, second: Cell) -> bool | None:
    ours, theirs = _range(first), _range(second)
    return None if ours is None or theirs is None else ours[1] < theirs[0] or theirs[1] < ours[0]


def compare_reports(first: Path, second: Path) -> list[Change]:
    """Every number of either report, in the order of the first.

    Raises:
        RellmError: one of the two is no report.
    """
    ours, theirs = _read(first), _read(second)
    changes = []
    for place in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(place), theirs.get(place)
        means = [cell.mean if cell else None for cell in (a, b)]
        items = a.items if a else 0, b.items if b else 0
        changes.append(Change(*place, means[0], means[1], items, _apart(a, b) if a and b else None))
    return changes


def write_comparison(first: Path, second: Path, out: Path) -> Path:
    """Writes `report.html`, `report.md` and `results.json` of a comparison; returns the page.

    Raises:
        RellmError: one of the two is no report, or the files cannot be written.
    """
    ours, theirs = _read(first), _read(second)
    rows: list[Cells] = []
    changes = compare_reports(first, second)
    for change in changes:
        place = change.corpus, change.system, change.metric
        a, b = (show_cell(cells[place]) if place in cells else NONE for cells in (ours, theirs))
        gap: Value | str = NONE if change.difference is None else f"{change.difference:+.3f}"
        apart = {None: NONE, True: Value("yes"), False: Value("no")}[change.apart]
        items = "/".join(map(str, change.items)) if change.items[0] != change.items[1] else str(change.items[0])
        names = quote(corpus_title(change.corpus)), quote(system_title(change.system))
        rows.append([*names, METRIC_TITLES.get(change.metric, quote(change.metric)), a, b, gap, apart, items])
    title = f"{first.name} and {second.name}"
    blocks: list[Block] = [
        Heading(1, quote(title)),
        Paragraph(
            "The second report minus the first. apart: the means of the seeds, or with one seed the 95 % intervals, do "
            "not overlap. No test: means alone are compared; for tests on paired utterances give the scores of both to "
            "one report, under two names."
        ),
        Heading(2, "Numbers"),
        Table(["corpus", "system", "metric", "first", "second", "difference", "apart", "items"], rows, (0, 1, 2)),
    ]
    numbers = {"first": str(first), "second": str(second), "changes": [asdict(change) for change in changes]}
    write_page(out, title, numbers, lambda: blocks)
    return out / "report.html"
