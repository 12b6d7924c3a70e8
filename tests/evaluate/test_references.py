"""Replies against a benchmark's references: letters read out of answers, and ROUGE-L counted by hand."""

from pathlib import Path

import pytest
from reply_world import Keywords

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate import score_file
from re_llm.evaluate.references import chosen_letter, right_letter, rouge_l, words_of
from re_llm.report.score_files import read_scores

ANSWERS = [
    ("B", "B"), ("b.", "B"), ("(C)", "C"), ("**D**", "D"), ("B) wood", "B"), ("A. iron", "A"), ("C: glass", "C"),
    ("The answer is: B", "B"), ("The answer is [C]", "C"), ("The correct answer is b.", "B"),
    ("I would choose option D, as it is the lightest.", "D"), ("The right option would be (A).", "A"),
    ("The answer is A because iron conducts.", "A"), ("Answer: **C**", "C"), ("I'd go with B.", "B"),
    ("It must be iron, that is (A).", "A"), ("Iron is a metal, so **A. iron**", "A"),
    ("The answer is not B. The answer is C.", "C"), ("答案是B", "B"), ("我选C。", "C"), ("正确选项是 D", "D"),
    ("A metal conducts.", None), ("The answer is A metal.", None), ("I like option A and option B.", None),
    ("It could be A) or C).", None), ("I do not know.", None), ("", None), ("Plan B's answer", None),
    ("Could be anything, I am afraid", None), ("the answer is a metal", None), ("I am sorry to hear that.", None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "letter"), ANSWERS)
def test_the_letter_that_an_answer_decides_for(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@pytest.mark.parametrize(
    ("reference", "letter"), [("A", "A"), (" (B). ", "B"), ("Z", None), ("An umbrella", None), ("", None), (None, None)]
)
def test_a_reference_is_a_letter_or_words(reference: str | None, letter: str | None) -> None:
    assert right_letter(reference) == letter


@pytest.mark.parametrize(
    ("reference", "response", "value"),
    [
        ("the cat sat", "The cat sat!", 1.0),
        ("police killed the gunman", "police kill the gunman", 3 / 4),  # the example of Lin (2004)
        ("police killed the gunman", "the gunman kill police", 2 / 4),
        ("a b c d", "b d", 2 * 2 / 6),
        ("不要着急", "别着急。", 2 * 2 / 7),
        ("yes", "no", 0.0),
        ("yes", "", 0.0),
    ],
)
def test_rouge_l(reference: str, response: str, value: float) -> None:
    assert rouge_l(reference, response) == pytest.approx(value)


def test_words_are_split_at_what_is_no_letter() -> None:
    assert words_of("Don't_stop: 3.5 km 好的ok") == ["don", "t", "stop", "3", "5", "km", "好", "的", "ok"]


def replies(path: Path, system: str, texts: list[str]) -> Path:
    references = ["A", "B", "B", "the cat sat"]
    records = [
        ReplyRecord(key=str(n), system=system, corpus="quiz", text="?", response=text, reference=reference)
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]
    write_records(path, records)
    return path


def test_rows_of_scores_and_their_report(tmp_path: Path) -> None:
    first = replies(tmp_path / "a.jsonl", "a", ["The answer is A.", "C", "Who knows?", "A cat sat"])
    report = score_file(first, tmp_path / "sa.jsonl", scorer=Keywords(), metrics=["choice", "rouge_l"], progress=False)
    rows = {(row.metric, row.key): row for row in read_records(tmp_path / "sa.jsonl", Score)}
    assert {key: row.value for key, row in rows.items()} == {
        ("CHOICE", "0"): 1.0, ("CHOICE", "1"): 0.0, ("CHOICE", "2"): 0.0, ("CHOICE", "*"): pytest.approx(1 / 3),
        ("ROUGE_L", "3"): pytest.approx(2 / 3), ("ROUGE_L", "*"): pytest.approx(2 / 3),
    }  # fmt: skip
    assert (rows["CHOICE", "*"].model_extra or {})["undecided"] == report.undecided == 1
    assert "1 replies to multiple-choice questions decide for no letter" in report.summary()
    assert "CHOICE 0.333, ROUGE_L 0.667" in report.summary()
    table = read_scores([tmp_path / "sa.jsonl"])
    cell = table.cell("a", "quiz", "CHOICE")
    assert cell and (cell.items, cell.interval) == (3, (0.0, 1.0))


def test_systems_are_compared_on_the_same_questions(tmp_path: Path) -> None:
    paths = []
    for system, texts in (("a", ["A", "B", "B", "x"]), ("b", ["A", "A", "C", "x"])):
        file = replies(tmp_path / f"{system}.jsonl", system, texts)
        if system == "a":
            file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
        paths.append(tmp_path / f"s{system}.jsonl")
        score_file(file, paths[-1], scorer=Keywords(), metrics=["choice"], progress=False)
    with pytest.raises(RellmError, match="not scored on the same items"):
        read_scores(paths)
    common = read_scores(paths, common=True)
    assert [common.cell(name, "quiz", "CHOICE").mean for name in "ab"] == [1.0, 0.0]  # type: ignore[union-attr]


def test_a_file_without_references_is_told_so(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [ReplyRecord(key="1", system="a", text="?", response="B")])
    with pytest.raises(RellmError, match="CHOICE needs replies with a `reference` that is a letter"):
        score_file(tmp_path / "r.jsonl", tmp_path / "s.jsonl", scorer=Keywords(), metrics=["CHOICE"])
