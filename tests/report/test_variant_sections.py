"""Variants in a report: systems are found by their records, and the page has sections and a plot."""

from __future__ import annotations

from pathlib import Path

import pytest

from re_llm.core.errors import RellmError
from re_llm.core.page import markdown_page
from re_llm.core.records import ReplyRecord, Score, write_records
from re_llm.report.reply_sections import read_replies
from re_llm.report.score_files import read_scores
from re_llm.report.variant_sections import variant_blocks, variants, write_dose


def world(folder: Path) -> tuple[list[Path], list[Path]]:
    """Replies and scores of a system, of two doses of it, of a shorter one, and of one that asks."""
    changes: dict[str, tuple[dict[str, object] | None, str]] = {
        "s": (None, "You sound happy. Tell me more of it."),
        "s, 50 % corrupted": ({"corrupt_emotion": 0.5, "corrupt_seed": 0}, "I see."),
        "s, 100 % corrupted": ({"corrupt_emotion": 1.0, "corrupt_seed": 0}, "I see."),
        "s, 5 words, question": ({"max_words": 5, "end_with_question": True}, "I see. Why?"),
        "s, asks when unsure": (
            {"ask_when_unsure": {"threshold": 0.5, "temperature": 1.0}},
            "How do you feel about it?",
        ),
    }
    replies, scores = [], []
    for system, (settings, text) in changes.items():
        for n in range(8):
            dose = (settings or {}).get("corrupt_emotion", 0.0)
            exchanged = isinstance(dose, float) and n < 8 * dose
            replies.append(ReplyRecord(
                key=f"k{n}", system=system, response=text, corpus="esd", emotion="sad", variant=settings,
                variant_of="s" if settings else None, exchanged_with="x" if exchanged else None,
                predicted_emotion="happy" if exchanged else "sad",
                asked=True if settings and "ask_when_unsure" in settings else None,
            ))  # fmt: skip
            for metric in ("ER", "EX"):
                value = 0.0 if exchanged else 1.0
                scores.append(Score(key=f"k{n}", system=system, metric=metric, value=value, corpus="esd"))
    write_records(folder / "replies.jsonl", replies)
    write_records(folder / "scores.jsonl", scores)
    return [folder / "scores.jsonl"], [folder / "replies.jsonl"]


def test_each_kind_of_variant_has_its_section(tmp_path: Path) -> None:
    scores, replies = world(tmp_path)
    found = variants(read_scores(scores), read_replies(replies))
    assert [(each.system, [dose.fraction for dose in each.doses]) for each in found.doses] == [("s", [0.0, 0.5, 1.0])]
    assert [each.variant for each in found.compared] == ["s, 5 words, question", "s, asks when unsure"]
    page = markdown_page(variant_blocks(found, tmp_path))
    for part in (
        "## Dose and response",
        "## Length control",
        "## Asking when unsure",
        "5 words and a question",
        "50 %",
    ):
        assert part in page
    assert (tmp_path / "figures" / "dose_esd.png").stat().st_size > 5000


def test_without_variants_there_is_no_section(tmp_path: Path) -> None:
    scores, replies = world(tmp_path)
    plain = [r for r in read_replies(replies).values() if r[0].variant is None]
    found = variants(read_scores(scores), {("s", "esd"): plain[0]})
    assert variant_blocks(found, tmp_path) == []


def test_the_page_of_a_sweep_needs_two_doses(tmp_path: Path) -> None:
    scores, replies = world(tmp_path)
    (found,) = write_dose(scores, replies, tmp_path / "page")
    assert found.slopes["ER"].mean == pytest.approx(1.0)
    assert "Dose and response" in (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    plain = [r for r in read_replies(replies)["s", "esd"]]
    write_records(tmp_path / "one.jsonl", plain)
    with pytest.raises(RellmError, match="two doses"):
        write_dose(scores, [tmp_path / "one.jsonl"], tmp_path / "page")
