"""EPITOME's csv files: where rationales stand, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from epitome_world import write_rows

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.epitome import COLUMNS, read_pairs
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.empathy.measures import TrainReport, measures, trivial_levels
from re_llm.evaluate.empathy.rationales import locate, merge

HEAD = ",".join(COLUMNS)


def found(response: str, rationales: str) -> list[str]:
    spans, lost = locate(response, rationales)
    assert lost == 0
    return [response[a:b] for a, b in spans]


def test_rationales_are_text_not_patterns():
    response = "Why? (really) I paid $5.00 for a+b [sic]... axb happened."
    for rationale in ("Why? (really)", "$5.00", "a+b [sic]...", "axb"):
        assert found(response, rationale) == [rationale]
    # As a pattern `a.b` would match `a+b` first, `(really` would not compile.
    assert locate(response, "a.b") == ((), 1)
    assert locate(response, "(really")[0] == ((5, 12),)


def test_rationales_that_occur_twice_take_two_places():
    response = "Me too. It is hard. Me too."
    assert locate(response, "Me too.|Me too.") == (((0, 7), (20, 27)), 0)
    assert locate(response, "Me too.") == (((0, 7),), 0)
    # The same text once more than it stands there shares the first place.
    assert locate(response, "Me too.|Me too.|Me too.")[0][2] == (0, 7)


def test_whole_words_come_before_parts_of_words():
    assert locate("This is it: I cry.", "I")[0] == ((12, 13),)
    assert locate("unhappy", "happy")[0] == ((2, 7),)


def test_empty_separated_and_retyped_rationales():
    assert locate("A b c.", "") == locate("A b c.", "|") == locate("A b c.", " | | ") == ((), 0)
    assert found("I am sorry. What happened?", "what happened?| I AM SORRY. |") == ["What happened?", "I am sorry."]
    response = "I know how frustrating this feels today"
    assert locate(response, "I know how frustrating it feels") == (((0, 31),), 0)
    # The lower case of this capital has two characters; places must not move by it.
    assert found("İ am sorry", "sorry") == ["sorry"]


def test_spans_merge():
    assert merge([(5, 9), (0, 3), (3, 4), (8, 12)]) == ((0, 4), (5, 12))
    assert merge([]) == ()


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path):
    path = write_rows(tmp_path / "x.csv", [("Hello.", "I'm so  sorry\nfor you.", 2, "sorry for you|lost words|")])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (pair,) = read_pairs(path)
    assert (pair.seeker_id, pair.response) == ("0", "I'm so sorry for you.")
    assert [pair.response[a:b] for a, b in pair.spans] == ["sorry for you"]
    assert pair.lost_rationales == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"sp_id,rp_id\n", r"x\.csv:1: the column 'seeker_post' is missing"),
        (b"", r"x\.csv:1: the column 'sp_id' is missing"),
        (f"{HEAD}\n".encode(), "holds no rows"),
        (f"{HEAD}\na,b,hello,there,5,\n".encode(), r"x\.csv:2: level '5'"),
        (f"{HEAD}\na,b,hello,there,,\n".encode(), r"x\.csv:2: level ''"),
        (f"{HEAD}\na,b,c,d,1,\na,b,hello,there\n".encode(), r"x\.csv:3: the row has fewer cells"),
        (f"{HEAD}\na,b,hello, you,there,1,\n".encode(), r"x\.csv:2: the row has more cells"),
        (f"{HEAD}\na,b,caf\xe9,there,1,\n".encode("latin-1"), r"x\.csv:\d: not UTF-8"),
        (f'{HEAD}\na,b,"{"x" * (2**20 + 1)}",d,1,\n'.encode(), r"x\.csv:\d: not readable as csv"),
    ],
)
def test_broken_files_name_file_and_line(text: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.csv").write_bytes(text)
    with pytest.raises(RellmError, match=message):
        read_pairs(tmp_path / "x.csv")


def test_missing_files_and_scorers(tmp_path: Path):
    with pytest.raises(RellmError, match="no such file"):
        read_pairs(tmp_path / "x.csv")
    with pytest.raises(RellmError, match="no such empathy scorer"):
        load_scorer("large")
    with pytest.raises(RellmError, match="holds no empathy scorer"):
        load_scorer(str(tmp_path))
    with pytest.raises(RellmError, match="--original has no meaning with the small scorer"):
        load_scorer("small", original=True)


def test_measures_are_of_the_whole_set():
    truth, levels = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 0])
    got = measures(truth, levels)
    assert got["accuracy"] == pytest.approx(4 / 6, abs=1e-4)
    assert got["level_f1"] == pytest.approx([4 / 6, 2 / 3, 2 / 3], abs=1e-4)
    # Over batches, as the authors take it, levels that a batch lacks count as 0.
    halves = [measures(truth[a : a + 3], levels[a : a + 3])["macro_f1"] for a in (0, 3)]
    assert abs(np.mean(halves) - got["macro_f1"]) > 0.1


def test_trivial_rules_and_the_published_scorer_stand_beside_every_scorer():
    held = ["What?", "I\u2019m so sorry.", "No.", "I understand."]
    got = {"ours": np.array([2, 2, 0, 1]), **trivial_levels(np.array([0, 0, 0, 2]), held)}
    assert list(got) == ["ours", "majority", "rule: a question mark -> 2", 'rule: "I\'m sorry" -> 2',
                         'rule: "understand" -> 2']  # fmt: skip
    each = {name: measures(np.array([2, 2, 0, 1]), levels) for name, levels in got.items()}
    assert [found["accuracy"] for found in each.values()] == [1.0, 0.25, 0.5, 0.5, 0.25]
    report = TrainReport(Path("out"), "these", {"EX": {"measures": each}})
    rows = list(report.rows())
    assert rows[0] == ("EX", "ours", "100.0", "100.0", "100.0 / 100.0 / 100.0")
    assert rows[-1] == ("EX", "RoBERTa, published, another split", "92.6", "72.6", "")
    assert "measured on these" in report.summary()
