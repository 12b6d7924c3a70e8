"""docs/corpora.md: its table is current, its protocols exist, and the reader that it shows works."""

import importlib.util
import re
import sys
from pathlib import Path

import corpus_worlds as worlds
import pytest

from re_llm import corpora
from re_llm.corpora import run
from re_llm.records import Utterance, read_records

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "corpora.md").read_text(encoding="utf-8")


def test_the_table_is_current():
    spec = importlib.util.spec_from_file_location("generate_corpora", DOCS / "generate_corpora.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == PAGE, "run python docs/generate_corpora.py"


def test_every_protocol_is_described_and_exists():
    table = PAGE.split("## Protocols")[1].split("##")[0]
    told = {
        (name.strip(), protocol)
        for names, protocol in re.findall(r"^\| ([\w, ]+) \| `([\w-]+)` \|", table, re.MULTILINE)
        for name in names.split(",")
    }
    there = {(info.name, protocol) for info in corpora.infos() for protocol in info.protocols}
    assert told == there


def test_common_options_are_described():
    table = PAGE.split("## Options of every reader")[1].split("```")[0]
    assert set(re.findall(r"`(\w+)`(?=[^|]*\|)", table)) >= set(run.COMMON_OPTIONS)


def test_the_reader_shown_works(tmp_path, monkeypatch: pytest.MonkeyPatch):
    source = re.search(r"^```py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "bells.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("bells")
    monkeypatch.setitem(corpora._modules(), "bells", module)
    for name in ("founder01_happy_1", "founder02_sadness_2", "founder02_ringing_3", "strange"):
        worlds.sound(tmp_path / "corpus" / "wav" / f"{name}.wav", 0.1)
    report = corpora.prepare("bells", tmp_path / "corpus", tmp_path / "m.jsonl")
    assert report.by_emotion == {"happy": 1, "sad": 1, "none": 1} and len(report.problems) == 2
    assert corpora.prepare("bells", tmp_path / "corpus", tmp_path / "m.jsonl", protocol="happy").rows == 1
    assert next(read_records(tmp_path / "m.jsonl", Utterance)).speaker == "founder01"
    del sys.modules["bells"]
