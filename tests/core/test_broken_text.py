"""Damaged lines of records and damaged recipes: the only error is that of a user."""

import json

import pytest
from fuzz_text import RECORDS, read_lines, read_recipes

from re_llm.core.appending import RecordAppender
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.check import check
from re_llm.recipe.files import load_recipe, parse_overrides


@pytest.mark.parametrize("kind", RECORDS)
def test_damaged_records(kind, tmp_path):
    assert read_lines(kind, tmp_path, seed=0, count=60) > 60


def test_damaged_recipes(tmp_path):
    assert read_recipes(tmp_path, seed=0, count=40) > 40


def test_numbers_that_json_does_not_have(tmp_path):
    row = RECORDS[Utterance].to_line().strip()
    path = tmp_path / "m.jsonl"
    for field, number in (("duration", "1e400"), ("extra", "NaN"), ("vad_range", '[1, {"a": -1e999}]')):
        good = json.dumps({**json.loads(row), "key": "good"})
        path.write_text(row[:-1] + f',"{field}":{number}}}\n{good}\n')
        with pytest.raises(RellmError, match=r"m\.jsonl:1: not a valid Utterance record: .*finite"):
            list(read_records(path, Utterance))
        report = check(path, decode=False)
        assert (report.summary.rows, [p.line for p in report.problems]) == (1, [1])


def test_nesting_without_end(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"key": ' + "[" * 5_000 + "\n")
    with pytest.raises(RellmError, match="not a record"):
        RecordAppender(tmp_path / "r.jsonl")
    deep = "[" * 500
    (tmp_path / "r.yaml").write_text(f"stages: {deep}")
    with pytest.raises(RellmError, match="nested too deeply"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(RellmError, match=r"--set seed: .*nested too deeply"):
        parse_overrides([f"seed={deep}"])


@pytest.mark.parametrize("value", ["!!int x", "!!float x", "!!timestamp x", "2001-99-99", "!!int ''", "1" * 5000])
def test_values_that_yaml_cannot_make(tmp_path, value):
    (tmp_path / "r.yaml").write_text(f"seed: {value}\n")
    with pytest.raises(RellmError, match=r"r\.yaml: not valid YAML"):
        load_recipe(tmp_path / "r.yaml")
