"""What a recipe asks a report for: tables with the paper's figures, comparisons by pairs, whole replies by key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from re_llm.core.records import ReplyRecord, Score, write_records
from re_llm.recipe.tables import ShownOptions
from re_llm.report.write import write_report

LONG = "I am so sorry to hear that. " + "It was a long day and so on. " * 40 + "What happened then?"
SHOWN = {
    "tables": [
        {
            "title": "Table 9", "systems": ["a", "b"],
            "columns": [
                {"corpus": "toy", "metrics": ["WA", "HEAD_WA"], "title": "SER"},
                {"corpus": "toy", "metrics": ["JUDGE_EMPATHY", "ER"], "title": "empathy"},
            ],
            "published": {"a": [76.0, None]},
        }
    ],
    "wins": [{"title": "Figure 9", "system": "a", "against": ["b"], "corpus": "toy"}],
    "cases": [{"title": "Cases", "corpus": "toy", "systems": ["a", "b"], "keys": ["u1", "gone"]}],
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Scores and replies of two systems; `a` names emotions, `b` has a head alone."""
    replies, scores = [], []
    for system, levels in (("a", (2, 1, 0, 2)), ("b", (1, 1, 1, 0))):
        for i, level in enumerate(levels):
            about = {"key": f"u{i}", "system": system, "corpus": "toy"}
            text = LONG if i == 1 else f"Reply {i} of {system}."
            replies.append(ReplyRecord(**about, text=f"Words {i}.", response=text, emotion="sad"))
            scores.append(Score(**about, metric="ER", value=level, rationale=[[0, 27]]))
    scores.append(Score(key="*", system="a", corpus="toy", metric="WA", value=0.75, count=4))
    scores.append(Score(key="*", system="b", corpus="toy", metric="HEAD_WA", value=0.5, count=4))
    write_records(tmp_path / "scores.jsonl", scores)
    write_records(tmp_path / "replies.jsonl", replies)
    return [tmp_path / "scores.jsonl"], [tmp_path / "replies.jsonl"]


def report(files: tuple[list[Path], list[Path]], out: Path, judged: list[Path]) -> tuple[str, dict]:
    shown = ShownOptions.model_validate(SHOWN)
    made = write_report(*files, out, shown=shown, judged=judged)
    return (out / "report.md").read_text(), json.loads(made.numbers.read_text())


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}")[2].partition("\n## ")[0]


def test_tables_comparisons_and_cases(files: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    page, numbers = report(files, tmp_path / "report", [])
    table = section(page, "Table 9")
    assert "75.0" in table and "paper 76" in table and "50.0" in table and "HEAD_WA" in table
    assert "1.25" in table and "ER" in table, "the second metric where the first is not there"
    assert numbers["wins"] == [
        {"system": "a", "against": "b", "corpus": "toy", "by": "ER", "won": 2, "tied": 1, "lost": 1}
    ]
    assert "figures/wins_toy.png" in page and (tmp_path / "report" / "figures" / "wins_toy.png").is_file()
    cases = section(page, "Cases")
    assert cases.count("What happened then?") == 2, "replies are whole"
    assert "Words 1." in cases and "No system has replied to: gone" in cases


def test_a_judge_s_comparison_stands_in_place_of_er(files: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    about = {"against": "b", "judge": "J", "wins": 3, "ties": 0, "losses": 1, "count": 4}
    judged = [Score(key="*", system="a", corpus="toy", metric="JUDGE_PAIRWISE", value=0.75, **about)]
    write_records(tmp_path / "judged.jsonl", judged)
    page, numbers = report(files, tmp_path / "report", [tmp_path / "judged.jsonl"])
    (found,) = numbers["wins"]
    assert (found["by"], found["won"], found["lost"]) == ("judge J", 3, 1)
    assert "75 %" in section(page, "Figure 9") and "judge J" in section(page, "Figure 9")


def test_dialogues_have_their_section(tmp_path: Path) -> None:
    history = [{"role": "user", "text": "a", "emotion": "sad"}, {"role": "assistant", "text": "b"}]
    rows = [
        ReplyRecord(
            key=f"u{i}", system="a", corpus="toy", text="c", response="You sound sad.", emotion="happy", history=history
        )
        for i in range(8)
    ]
    write_records(tmp_path / "r.jsonl", rows)
    scores = [Score(key=row.key, system="a", corpus="toy", metric="ER", value=1) for row in rows]
    write_records(tmp_path / "s.jsonl", scores)
    made = write_report([tmp_path / "s.jsonl"], [tmp_path / "r.jsonl"], tmp_path / "report")
    (found,) = json.loads(made.numbers.read_text())["dialogues"]
    assert found["memory"]["named_first"] == 1.0 and found["memory"]["p"] == 1.0, "all dialogues are alike"
    assert "100 %" in section((tmp_path / "report" / "report.md").read_text(), "Dialogues")
