"""Sections of a report that draw: recognition with its confusion matrices, and the levels behind the means."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from re_llm.core.page import NONE, Block, Heading, Paragraph, Picture, Table, Value, percent, quote
from re_llm.evaluate.empathy.epitome import MECHANISMS
from re_llm.report.plots import confusion_picture, level_picture
from re_llm.report.tables import ScoreTable, corpus_title, show_cell, system_title


def _slug(name: str) -> str:
    """A file name for a corpus of any name: readable, and different for different names."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-")[:40]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def _picture(out: Path, name: str, alt: str, draw: Callable[[Path], Path]) -> Picture:
    return Picture(draw(out / "figures" / name), f"figures/{name}", alt)


def _confusions(table: ScoreTable, corpus: str) -> tuple[dict[str, Any], list[str]]:
    """Confusion matrices of the systems on a corpus, their seeds summed, and the label set."""
    matrices: dict[str, Any] = {}
    labels: list[str] = []
    for system in table.systems:
        for row in table.groups_of(system, corpus, "UA"):
            extra = row.model_extra or {}
            if "confusion" not in extra or (labels and extra["labels"] != labels):
                continue
            labels = list(extra["labels"])
            matrices[system_title(system)] = matrices.get(system_title(system), 0) + np.array(extra["confusion"])
    return matrices, labels


def recognition_blocks(table: ScoreTable, out: Path) -> list[Block]:
    rows: list[list[Value | str]] = []
    pictures: list[Block] = []
    for corpus in table.corpora:
        for system in table.systems:
            ua = table.cell(system, corpus, "UA")
            if not ua:
                continue
            others = [table.cell(system, corpus, metric) for metric in ("WA", "F1", "UNPARSABLE")]
            number = sum((r.model_extra or {}).get("number", 0) for r in table.groups_of(system, corpus, "UNPARSABLE"))
            rows.append([
                quote(corpus_title(corpus)), quote(system_title(system)), str(ua.items), show_cell(ua),
                *(f"{cell.mean:.3f}" if cell else NONE for cell in others[:2]),
                f"{number} ({percent(others[2].mean)})" if others[2] else NONE,
            ])  # fmt: skip
        matrices, labels = _confusions(table, corpus)
        if matrices:
            alt = f"{corpus_title(corpus)}: emotion named, by reference emotion (% of the reference)"
            name = f"confusion_{_slug(corpus)}.png"
            draw = partial(confusion_picture, matrices=matrices, labels=labels, title=alt)
            pictures.append(_picture(out, name, alt, draw))
    if not rows:
        return []
    header = ["corpus", "system", "answers", "UA", "WA", "macro-F1", "name no emotion"]
    note = "An answer that names no emotion is wrong and stays in every count; in the pictures it is the column `none`."
    return [Heading(2, "Recognition"), Table(header, rows, (0, 1)), Paragraph(note), *pictures]


def level_blocks(table: ScoreTable, out: Path) -> list[Block]:
    blocks: list[Block] = []
    for corpus in table.corpora:
        fractions: dict[str, dict[str, list[float]]] = {}
        for metric in MECHANISMS:
            for system in table.systems:
                values = list(table.items.get((system, corpus, metric), {}).values())
                if values:
                    fractions.setdefault(metric, {})[system_title(system)] = [
                        sum(v == level for v in values) / len(values) for level in range(3)
                    ]
        if fractions:
            alt = f"{corpus_title(corpus)}: how many replies stand at each level"
            name = f"levels_{_slug(corpus)}.png"
            blocks.append(_picture(out, name, alt, partial(level_picture, fractions=fractions, title=alt)))
    return [Heading(2, "Levels behind the means"), *blocks] if blocks else []
