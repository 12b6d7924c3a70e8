"""Gold levels beside a scorer's: what agrees, what is left out, and the tone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, read_records, write_records
from re_llm.evaluate.empathy.epitome import MECHANISMS
from re_llm.evaluate.gold import GoldRow
from re_llm.mini.grammar import CATEGORY_NAMES, Sentence, gold_levels, reply, world
from re_llm.mini.levels import compare_levels, has_gold, small_scores, write_gold


def replies(emotion: str = "sad") -> list[ReplyRecord]:
    """Replies of one emotion to a sentence of each category, and one that is no reply of the world."""
    one_of_each: dict[str, Sentence] = {s.category: s for s in world(0, 500)}
    said = [
        ReplyRecord(key=name, system="s", text=s.text, emotion="sad", response=reply(s, emotion, True))
        for name in CATEGORY_NAMES
        for s in [one_of_each[name]]
    ]
    return [*said, ReplyRecord(key="x", system="s", text="x", emotion="sad", response="I cannot say.")]


def perfect(seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, int]]:
    return [{m: (gold_levels(text) or {})[m.lower()] for m in MECHANISMS} for text in responses]


def test_a_scorer_that_knows_the_levels_agrees() -> None:
    found = compare_levels(replies(), perfect)
    assert (found.replies, found.others) == (12, 1)
    for each in found.mechanisms.values():
        assert each.accuracy == each.kappa == 1.0 and each.gold == each.scorer == each.gold_right_tone


def test_a_scorer_that_is_upside_down_and_one_that_sees_nothing() -> None:
    turned = compare_levels(replies(), lambda s, r: [{m: 2 - v for m, v in each.items()} for each in perfect(s, r)])
    assert all(each.kappa is not None and each.kappa < 0 for each in turned.mechanisms.values())
    blind = compare_levels(replies(), lambda s, r: [dict.fromkeys(MECHANISMS, 0) for _ in r])
    for mechanism, each in blind.mechanisms.items():
        gold = [levels[mechanism] for levels in perfect([], [r.response for r in replies()[:-1]])]
        assert each.kappa is None and each.accuracy == pytest.approx(gold.count(0) / 12) and each.scorer == 0


def test_levels_in_the_wrong_tone_count_as_nothing() -> None:
    found = compare_levels(replies("happy"), perfect)
    assert found.mechanisms["ER"].gold > 0 and found.mechanisms["ER"].gold_right_tone == 0


def test_no_reply_of_the_world() -> None:
    assert compare_levels(replies()[-1:], perfect).mechanisms == {}


def test_the_small_scorer_is_asked() -> None:
    scored = small_scores(["I fell."], ["I'm so sorry to hear that. How are you feeling now?"])
    assert set(scored[0]) == set(MECHANISMS) and scored[0]["EX"] > 0


def test_a_file_of_gold_levels_for_a_report(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", [*replies("sad")[:2], *replies("happy")[2:]])
    report = write_gold([tmp_path / "r.jsonl"], tmp_path / "gold.jsonl")
    assert (report.rows, report.others) == (12, 1)
    rows = list(read_records(tmp_path / "gold.jsonl", GoldRow))
    assert [row.right_tone for row in rows] == [True] * 2 + [False] * 10  # the speakers are sad
    assert [row.level("ER") for row in rows[:2]] == [
        (gold_levels(each.response) or {})["er"] for each in replies("sad")[:2]
    ]
    assert {row.system for row in rows} == {"s"}
    assert write_gold([tmp_path / "r.jsonl"], tmp_path / "gold.jsonl").skipped
    write_records(tmp_path / "r.jsonl", replies("sad"))
    with pytest.raises(RellmError, match="made differently"):
        write_gold([tmp_path / "r.jsonl"], tmp_path / "gold.jsonl")


def test_no_file_without_a_reply_of_the_world(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl", replies()[-1:])
    assert not has_gold([tmp_path / "r.jsonl"])
    with pytest.raises(RellmError, match="none of 1 replies"):
        write_gold([tmp_path / "r.jsonl"], tmp_path / "gold.jsonl")
    assert [path.name for path in tmp_path.iterdir() if "gold" in path.name] == []
