"""First sections of a report."""

from __future__ import annotations

import pytest

from re_llm.core.page import markdown_page
from re_llm.report.table_one import introduction
from re_llm.report.tables import ScoreTable


@pytest.mark.parametrize(
    ("groups", "words"),
    [([("a", "x")], "1 system on 1 corpus."), ([("a", "x"), ("b", "x"), ("b", "y")], "2 systems on 2 corpora.")],
)
def test_how_many_systems_and_corpora(groups: list[tuple[str, str]], words: str) -> None:
    table = ScoreTable(items={(system, corpus, "ER"): {("k", None): 1.0} for system, corpus in groups})
    assert markdown_page(introduction(table, None)).startswith(words)
