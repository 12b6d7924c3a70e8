"""LibriSpeech, GigaSpeech, WenetSpeech: the corpora of semantic alignment."""

import json

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.corpora import files


def rows(path):
    return list(read_records(path, Utterance))


def test_librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for part in ("train-clean-100", "dev-other"):
        chapter = root / part / "103" / "1240"
        worlds.sound(chapter / "103-1240-0000.flac", 0.1)
        worlds.write(chapter / "103-1240.trans.txt", "103-1240-0000 CHAPTER ONE\nbroken\n")
    report = prepare("librispeech", root, tmp_path / "m.jsonl", options={"parts": "train-clean-100"})
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.speaker, row.split, row.turn) == ("chapter one", "103", "train", 0)
    assert [p.line for p in report.problems] == [2]
    assert prepare(
        "librispeech", root, tmp_path / "m.jsonl", options={"case": "keep", "parts": "dev-other"}
    ).by_split == {"dev-other": 1}
    with pytest.raises(RellmError, match=r"no part 'train-clean-360'.*Allowed: train-clean-100, dev-other"):
        prepare("librispeech", root, tmp_path / "m.jsonl", options={"parts": "train-clean-360"})


def gigaspeech(root):
    segments = [
        {
            "sid": "A_0",
            "speaker": "N/A",
            "begin_time": 0.0,
            "end_time": 0.4,
            "text_tn": "HELLO <COMMA> YOU <QUESTIONMARK>",
            "subsets": ["{M}", "{L}"],
        },
        {"sid": "A_1", "speaker": "B", "begin_time": 0.4, "end_time": 0.8, "text_tn": "<MUSIC>", "subsets": ["{M}"]},
        {"sid": "A_2", "begin_time": 0.4, "end_time": 0.8, "text_tn": "MORE", "subsets": ["{XL}"]},
        {"sid": "A_3", "begin_time": "later", "end_time": 0.8, "text_tn": "MORE", "subsets": ["{M}"]},
    ]
    item = {"aid": "A", "path": "audio/a.flac", "segments": segments}
    worlds.write(root / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": [item]}, indent=1))
    worlds.sound(root / "audio/a.flac", 1.0)
    return root


def test_gigaspeech(tmp_path):
    report = prepare("gigaspeech", gigaspeech(tmp_path / "g"), tmp_path / "m.jsonl")
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.start, row.duration, row.speaker) == ("hello, you?", 0.0, 0.4, None)
    assert report.dropped == {"no speech": 1} and "A_3" in report.problems[0].what
    with pytest.raises(RellmError, match="Allowed: XS, S, M"):
        prepare("gigaspeech", tmp_path / "g", tmp_path / "m.jsonl", options={"subset": "huge"})


def test_wenetspeech_sample(tmp_path):
    root = tmp_path / "w"
    segments = [
        {
            "sid": f"Y_{n}",
            "begin_time": n / 10,
            "end_time": n / 10 + 0.1,
            "text": "今天天气很好",
            "confidence": 1.0,
            "subsets": ["M", "L"],
        }
        for n in range(40)
    ]
    worlds.write(
        root / "WenetSpeech.json", json.dumps({"audios": [{"aid": "Y", "path": "audio/y.wav", "segments": segments}]})
    )
    worlds.sound(root / "audio/y.wav", 4.0)
    assert prepare("wenetspeech", root, tmp_path / "all.jsonl").rows == 40
    report = prepare("wenetspeech", root, tmp_path / "part.jsonl", options={"sample": "0.5"})
    assert 10 <= report.rows <= 30 and report.rows + report.dropped["not in the sample"] == 40
    again = prepare("wenetspeech", root, tmp_path / "again.jsonl", options={"sample": "0.5"}, workers=3)
    assert again.rows == report.rows
    assert (tmp_path / "part.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()


def test_a_json_array_is_read_item_by_item(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 64)
    items = [{"n": n, "text": 'a "quoted", [bracketed] 文' * (n % 7)} for n in range(50)]
    path = worlds.write(
        tmp_path / "a.json", json.dumps({"name": "x", "audios": items, "after": 1}, indent=2, ensure_ascii=False)
    )
    assert list(files.read_json_array(path, "audios")) == items
    path.write_text(path.read_text()[:900])
    with pytest.raises(RellmError, match="is not JSON"):
        list(files.read_json_array(path, "audios"))
    with pytest.raises(RellmError, match="no array 'songs'"):
        list(files.read_json_array(path, "songs"))
