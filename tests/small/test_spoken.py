"""Figures read aloud."""

from __future__ import annotations

import pytest

from re_llm.small.spoken import spoken


def test_without_figures_nothing_changes() -> None:
    assert spoken("Nobody  knows, I think.") == "Nobody  knows, I think."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("At 7:30 or 9:05, or 8:00.", "At seven thirty or nine oh five, or eight o'clock."),
        ("It was 1984.", "It was nineteen eighty-four."),
        ("$45.99 is too much, $1 is not.", "forty-five dollars ninety-nine is too much, one dollar is not."),
        ("May 3rd, 12,500 people.", "May third, twelve thousand, five hundred people."),
        ("About 25% of 3.5.", "About twenty-five percent of three point five."),
        ("Call 555 013 4000.", "Call five five five, zero one three, four zero zero zero."),
        ("A 20-year-old at 6 p.m.", "A twenty-year-old at six PM"),
    ],
)
def test_figures_become_words(text: str, said: str) -> None:
    pytest.importorskip("num2words", reason="num2words is not installed (extra small-build)")
    assert spoken(text) == said
