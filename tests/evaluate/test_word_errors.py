"""Word errors, against distances counted by hand."""

from pathlib import Path

import pytest
from reply_world import Keywords

from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate import score_file
from re_llm.evaluate.word_errors import edits, error_rate, plain, rate_interval, word_error_rate


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


def test_interval_holds_the_rate_and_needs_variation() -> None:
    low, high = rate_interval([0, 1, 2, 0], [4, 4, 4, 4])
    assert low < 3 / 16 < high
    assert rate_interval([1, 1], [4, 4]) == (0.25, 0.25)


def test_rows_of_scores(tmp_path: Path) -> None:
    texts = [("The cat sat.", "the cat sat"), ("Oh no", ""), ("Never heard", None)]
    rows = [
        ReplyRecord(key=str(n), system="cascade", response="Yes.", text=text, transcript=found)
        for n, (text, found) in enumerate(texts)
    ]
    write_records(tmp_path / "r.jsonl", rows)
    report = score_file(tmp_path / "r.jsonl", tmp_path / "s.jsonl", scorer=Keywords(), progress=False)
    got = [row for row in read_records(tmp_path / "s.jsonl", Score) if row.metric == "WER"]
    assert {row.key: row.value for row in got} == {"0": 0, "1": 1, "*": pytest.approx(2 / 5)}
    assert (got[-1].model_extra["count"], got[-1].model_extra["words"]) == (2, 5)
    assert "WER 0.400" in report.summary()
