"""The score stage: rows, groups, answers, mistakes, and nothing half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reply_world import Keywords, reply, write_replies

from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate import load_scorer, score_file


def scored(replies: Path, **options) -> tuple[list[Score], object]:
    out = replies.with_suffix(".scores")
    report = score_file(replies, out, scorer=Keywords(), progress=False, overwrite=Overwrite.YES, **options)
    return list(read_records(out, Score)), report


def groups(rows: list[Score], metric: str) -> list[Score]:
    return [row for row in rows if row.key == "*" and row.metric == metric]


def test_rows_and_groups(tmp_path: Path):
    rows, report = scored(write_replies(tmp_path / "r.jsonl", "re-llm", fraction=1.0, seed=3))
    items = [row for row in rows if row.key != "*" and row.metric == "EX"]
    assert len(items) == 80
    assert {(row.system, row.corpus, row.seed) for row in rows} == {("re-llm", "esd", 3)}
    (group,) = groups(rows, "EX")
    assert group.value == pytest.approx(sum(row.value for row in items) / 80)
    assert group.model_extra["count"] == 80
    assert groups(rows, "UA")[0].value == 1
    assert report.metrics == ("ER", "EX", "IP", "SER")
    assert "re-llm esd 3: 80 replies" in report.summary()


def test_bare_replies_of_some_other_system(tmp_path: Path):
    lines = [
        {"key": str(i), "system": "theirs", "text": "Hi.", "response": r} for i, r in enumerate(["Sorry.", "Why?"])
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, report = scored(tmp_path / "r.jsonl")
    assert report.metrics == ("ER", "EX", "IP")
    assert {row.metric: row.value for row in rows if row.key == "*"} == {"ER": 1.0, "EX": 1.0, "IP": 0.0}


def test_answers_are_read_and_the_silent_count_as_wrong(tmp_path: Path):
    rows = [
        reply("s", "1", "sad", hears=True),
        reply("s", "2", "sad", hears=True, answer="I cannot say."),
        reply("s", "3", "happy", hears=True, answer=None),
        reply("s", "4", "happy", hears=True, answer=None, named_emotion="Joyful"),
    ]
    write_records(tmp_path / "r.jsonl", rows)
    got, report = scored(tmp_path / "r.jsonl", metrics=["ser"])
    assert {row.key: row.value for row in got if row.metric == "SER"} == {"1": 1, "2": 0, "3": 0, "4": 1}
    (unparsable,) = groups(got, "UNPARSABLE")
    assert (unparsable.value, unparsable.model_extra["number"], report.unparsable) == (0.5, 2, 2)
    assert groups(got, "UA")[0].model_extra["confusion"] == [[1, 0, 1], [0, 1, 1]]


def test_systems_that_were_not_asked_have_no_recognition(tmp_path: Path):
    rows = [reply("text-label", "1", "sad", hears=True, answer=None), reply("re-llm", "1", "sad", hears=True)]
    write_records(tmp_path / "r.jsonl", rows)
    got, _ = scored(tmp_path / "r.jsonl")
    assert [row.system for row in groups(got, "UA")] == ["re-llm"]


def test_the_head_is_scored_beside_the_named_emotion(tmp_path: Path):
    rows = [
        reply("s", "1", "sad", hears=True, predicted_emotion="sad"),
        reply("s", "2", "sad", hears=True, predicted_emotion="Joyful"),
        reply("s", "3", "happy", hears=False, predicted_emotion="happiness"),
    ]
    write_records(tmp_path / "r.jsonl", rows)
    got, report = scored(tmp_path / "r.jsonl")
    assert {row.key: row.value for row in got if row.metric == "HEAD" and row.key != "*"} == {"1": 1, "2": 0, "3": 1}
    head, named = groups(got, "HEAD_UA")[0], groups(got, "UA")[0]
    assert (head.value, named.value) == (0.75, 0.5)
    assert head.model_extra["confusion"] == [[1, 0, 0], [1, 1, 0]]
    assert "UA 0.500, HEAD_UA 0.750" in report.summary()


def test_empty_replies_and_lost_texts_are_counted(tmp_path: Path):
    write_records(
        tmp_path / "r.jsonl",
        [ReplyRecord(key="1", system="s", response=" "), ReplyRecord(key="2", system="s", response="?")],
    )
    got, report = scored(tmp_path / "r.jsonl")
    assert (report.empty, report.without_text) == (1, 2)
    assert [row.value for row in got if row.metric == "EX" and row.key != "*"] == [0, 2]
    assert "1 replies are empty" in report.summary()


def test_mistakes_name_the_place(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    write_records(path, [reply("s", "1", "sad", hears=True)] * 2)
    with pytest.raises(RellmError, match=r"r\.jsonl:2: key '1' of system 's' is in line 1"):
        scored(path)
    write_records(path, [reply("s", "1", "sad", hears=True)])
    with pytest.raises(RellmError, match="unknown metric 'BLEU'"):
        scored(path, metrics=["BLEU"])
    path.write_text(path.read_text() + '{"key": "2"}\n')
    with pytest.raises(RellmError, match=r"r\.jsonl:2"):
        scored(path)
    path.write_text('{"key": "1", "system": "s", "response": "x", "emotion": "wistful"}\n')
    with pytest.raises(RellmError, match=r"wistful.*r\.jsonl:1"):
        scored(path)
    path.write_text('{"key": "1", "system": "s", "response": "x"}\n')
    with pytest.raises(RellmError, match="SER needs"):
        scored(path, metrics=["SER"])
    path.write_text("")
    with pytest.raises(RellmError, match="no replies"):
        scored(path)
    assert not path.with_suffix(".scores").exists()
    with pytest.raises(RellmError, match="no such empathy scorer"):
        load_scorer("large")


class Short(Keywords):
    """Sees a window and nothing beyond it."""

    window = 64


LONG = "You could go for a walk and drink some water. " * 8 + "What happened?"


def test_both_truncations_of_a_long_reply(tmp_path: Path):
    path = tmp_path / "r.jsonl"
    write_records(
        path, [reply("s", "1", "sad", hears=True), ReplyRecord(key="2", system="s", text="Hi.", response=LONG)]
    )
    for truncation, levels in ((None, {"1": 2, "2": 2}), ("none", {"1": 2, "2": 2}), ("64", {"1": 2, "2": 0})):
        got, report = scored(path, metrics=["EX"], truncation=truncation)
        assert {row.key: row.value for row in got if row.key != "*"} == levels
        assert {row.model_extra["truncation"] for row in got} == {truncation or "none"} == set(report.truncations)
    got, report = scored(path, metrics=["EX"], truncation="both")
    both = {row.key: row.model_extra["levels"] for row in got if row.key != "*"}
    assert both == {"1": {"64": 2, "none": 2}, "2": {"64": 0, "none": 2}}
    (first,) = [row.model_extra for row in got if row.key == "*" and row.corpus is None]
    assert (first["over_64"], first.get("window"), report.over_64) == (1.0, None, 1)
    assert {t: each["mean"] for t, each in first["truncations"].items()} == {"64": 0, "none": 2}
    assert "truncation 64: EX 0.000" in report.summary()
    assert "1 replies (50 %) are longer" in report.summary()


def test_truncations_that_cannot_be_done(tmp_path: Path):
    path = write_replies(tmp_path / "r.jsonl", "s", fraction=1.0)
    with pytest.raises(RellmError, match=r"unknown truncation: '32'.*64, none, both"):
        scored(path, truncation="32")
    with pytest.raises(RellmError, match="sees 64 tokens only"):
        score_file(path, tmp_path / "s.jsonl", scorer=Short(), truncation="both", progress=False)
    done = score_file(path, tmp_path / "s.jsonl", scorer=Short(), progress=False)
    assert done.truncations == ("64",)


def test_a_scorer_of_one_mechanism(tmp_path: Path):
    class OnlyEx(Keywords):
        mechanisms = ("EX",)

    path = write_replies(tmp_path / "r.jsonl", "s", fraction=1.0)
    assert score_file(path, tmp_path / "s.jsonl", scorer=OnlyEx(), progress=False).metrics == ("EX", "SER")
    with pytest.raises(RellmError, match="not trained for IP"):
        score_file(path, tmp_path / "t.jsonl", scorer=OnlyEx(), metrics=["IP"], progress=False)
