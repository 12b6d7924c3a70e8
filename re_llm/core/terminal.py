"""Predicted emotions and replies in a terminal: the same in `respond`, `demo` and `chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def likely(probabilities: Mapping[str, float] | None, count: int = 3) -> str:
    """The most probable emotions, e.g. `angry 81 %, sad 12 %, neutral 5 %`."""
    ranked = sorted((probabilities or {}).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * value:.0f} %" for name, value in ranked[:count])


def dimensions(estimate: object) -> str:
    """`valence 0.25, arousal 0.58, dominance 0.91` of an object with these attributes; empty when they are None."""
    from re_llm.core.records import DIMENSIONS  # with pydantic: more than all of `re-llm --help` takes

    values = {name: getattr(estimate, name) for name in DIMENSIONS}
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if value is not None)


def print_pairs(console: Any, *pairs: tuple[str, str], width: int) -> None:
    """Names to the right of a column of `width` characters, texts (rich markup) wrapped beside them."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", width=width)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        if text:
            grid.add_row(name, text)
    console.print(grid)
