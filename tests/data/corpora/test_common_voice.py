"""Common Voice: quotation marks, levels, lengths from the table."""

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records


def test_splits_and_texts(tmp_path):
    root = worlds.common_voice(tmp_path / "cv-corpus-13.0")
    report = prepare("common_voice", root, tmp_path / "m.jsonl", hash=False)
    found = list(read_records(tmp_path / "m.jsonl", Utterance))
    assert report.by_split == {"train": 2, "dev": 2, "test": 2} and report.problems == []
    assert {u.text for u in found} == {'He said "no'} and {u.language for u in found} == {"en"}
    assert len({u.speaker for u in found}) == 6 and found[0].duration == pytest.approx(0.5, abs=0.1)
    with pytest.raises(RellmError, match="too high") as error:
        prepare("common_voice", root.parent, tmp_path / "m.jsonl")
    assert error.value.todo == f"Give --root {root}"


def test_missing_clip_and_bad_line(tmp_path):
    root = worlds.common_voice(tmp_path / "cv")
    (root / "clips/common_voice_en_00000003.mp3").unlink()
    with (root / "test.tsv").open("a") as table:
        table.write("only\tthree\tcolumns\n")
    report = prepare("common_voice", root, tmp_path / "m.jsonl")
    assert report.rows == 5
    assert sorted(str(p).split(": ")[0] for p in report.problems) == [
        "clips/common_voice_en_00000003.mp3",
        "test.tsv:4",
    ]


def test_validated_needs_its_table(tmp_path):
    with pytest.raises(RellmError, match=r"has none of validated\.tsv"):
        prepare("common_voice", worlds.common_voice(tmp_path / "cv"), tmp_path / "m.jsonl", protocol="validated")
