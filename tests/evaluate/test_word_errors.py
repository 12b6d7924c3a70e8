"""Word errors, against distances counted by hand."""

import pytest

from re_llm.evaluate.word_errors import edits, error_rate, plain, word_error_rate


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "", 2), ("x", "x", 0)]
)
def test_edits(a: str, b: str, distance: int) -> None:
    assert edits(a, b) == distance


def test_plain_text() -> None:
    assert plain("Well\u2014it isn\u2019t  THERE, is it?") == "well it isn't there is it"


def test_rates_are_over_the_whole_set() -> None:
    assert word_error_rate(["The dog ran.", "Yes"], ["the dog", "no yes no"]) == 3 / 4
    assert error_rate(["abc"], ["abd"]) == pytest.approx(1 / 3)
    assert word_error_rate([], []) == 0.0
