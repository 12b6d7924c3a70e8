"""Tables of one's own, and corpora that come as tables: RESD, MER2023, SpeechAlpaca."""

import json

import corpus_worlds as worlds
import pytest

from re_llm.corpora import prepare
from re_llm.errors import RellmError
from re_llm.records import Utterance, read_records


def rows(path):
    return list(read_records(path, Utterance))


def test_csv_with_usual_names(tmp_path):
    worlds.sound(tmp_path / "clips/one.wav", 0.2)
    worlds.sound(tmp_path / "clips/two.wav", 0.5)
    table = worlds.write(
        tmp_path / "mine.csv",
        "path,transcript,emotion,speaker,valence,arousal,dominance,start,end\n"
        'clips/one.wav,"Well, yes",joy,ann,1,3,5,,\n'
        "clips/two.wav,,,,,,,0.1,0.4\n"
        ",nothing,,,,,,,\n"
        "clips/two.wav,twice,gloomy,,,,,0,0.2\n"
        "clips/one.wav,off the scale,sad,ann,9,3,5,0,0.1\n",
    )
    report = prepare("table", table, tmp_path / "m.jsonl", options={"scale": "1..5", "default_language": "en"})
    one, two = rows(tmp_path / "m.jsonl")[:2]
    assert (one.text, one.emotion, one.speaker, one.corpus, one.split) == ("Well, yes", "happy", "ann", "mine", "all")
    assert one.dimensions() == (0.0, 0.5, 1.0) and one.model_extra["vad_range"] == [1.0, 5.0]
    assert (two.text, two.start, two.duration, two.language) == (None, 0.1, pytest.approx(0.3), "en")
    told = {(p.line, p.what.split("(")[0].strip()) for p in report.problems}
    assert (4, "no audio") in told and (5, "unknown emotion label 'gloomy'") in told
    assert any(line == 6 and "9 is outside of 1..5" in what for line, what in told)


def test_columns_of_other_names(tmp_path):
    worlds.sound(tmp_path / "audio/one.flac", 0.2)
    worlds.write(tmp_path / "m.tsv", "sound\twho\tfeels\none\tann\tN\n")
    options = {
        "audio": "sound",
        "speaker": "who",
        "emotion": "feels",
        "suffix": ".flac",
        "audio_root": str(tmp_path / "audio"),
    }
    prepare("table", tmp_path / "m.tsv", tmp_path / "out/m.jsonl", options=options)
    (row,) = rows(tmp_path / "out/m.jsonl")
    assert (row.speaker, row.emotion, row.audio) == ("ann", "neutral", "../audio/one.flac")
    with pytest.raises(RellmError, match=r"m\.tsv:1: no column who2"):
        prepare("table", tmp_path / "m.tsv", tmp_path / "out/m.jsonl", options={**options, "speaker": "who2"})


def test_labels_of_its_own(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    table = worlds.write(tmp_path / "t.csv", "audio,emotion\none.wav,Cheery\n")
    prepare("table", table, tmp_path / "m.jsonl", options={"labels": "worried:anxious, cheery: happy"})
    assert rows(tmp_path / "m.jsonl")[0].emotion == "happy"
    with pytest.raises(RellmError, match="option labels='cheery:jolly'"):
        prepare("table", table, tmp_path / "m.jsonl", options={"labels": "cheery:jolly"})


def test_jsonl_and_its_broken_lines(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    good = json.dumps({"audio": "one.wav", "text": "hello", "turn": 3})
    worlds.write(
        tmp_path / "m.jsonl", f'{good}\n{{broken\n[1]\n{{"text": 1}}\n{{"audio": "one.wav", "key": "k", "turn": "x"}}\n'
    )
    report = prepare("table", tmp_path / "m.jsonl", tmp_path / "out.jsonl")
    assert report.rows == 1 and rows(tmp_path / "out.jsonl")[0].turn == 3
    assert [p.line for p in report.problems] == [2, 3, 4, 5]


def test_which_file(tmp_path):
    with pytest.raises(RellmError, match="holds none"):
        prepare("table", tmp_path, tmp_path / "m.jsonl")
    with pytest.raises(RellmError, match="no such file or folder"):
        prepare("table", tmp_path / "absent.csv", tmp_path / "m.jsonl")
    worlds.write(tmp_path / "a.parquet", "PAR1")
    with pytest.raises(RellmError, match=r"Allowed: \.csv, \.tsv, \.jsonl"):
        prepare("table", tmp_path / "a.parquet", tmp_path / "m.jsonl")
    table = worlds.write(tmp_path / "a.csv", "audio\n")
    with pytest.raises(RellmError, match="option scale='wide'"):
        prepare("table", table, tmp_path / "m.jsonl", options={"scale": "wide"})


def test_resd(tmp_path):
    root = tmp_path / "resd"
    for split, emotion in (("train", "enthusiasm"), ("test", "happiness")):
        worlds.sound(root / split / "01_happiness_enthusiasm_h_120.wav", 0.1)
        worlds.write(root / f"{split}.csv", f"name,path,emotion\nx,01_happiness_enthusiasm_h_120.wav,{emotion}\n")
    report = prepare("resd", root, tmp_path / "m.jsonl")
    assert report.by_split == {"train": 1, "test": 1} and report.by_emotion == {"excited": 1, "happy": 1}
    assert prepare("resd", root, tmp_path / "m.jsonl", protocol="blsp-emo").by_emotion == {"happy": 1}


def test_merbench(tmp_path):
    root = tmp_path / "mer"
    worlds.sound(root / "test1/sample_1.wav", 0.1)
    worlds.sound(root / "mer2023train/test3/sample_3.wav", 0.1)
    worlds.write(
        root / "test-labels/test1-label.csv", "name,discrete,valence\nsample_1,worried,-1.2\nsample_2,happy,1\n"
    )
    worlds.write(root / "test-labels/test3-label.csv", "name,discrete\nsample_3,happy\n")
    worlds.write(root / "transcription-all.csv", "name,sentence\nsample_1,你今天怎么样\n")
    report = prepare("merbench", root, tmp_path / "m.jsonl")
    first, third = rows(tmp_path / "m.jsonl")
    assert (first.emotion, first.text, first.split, third.split) == ("anxious", "你今天怎么样", "test1", "test3")
    told = [p.what for p in report.problems]
    assert "no clip sample_2 in test1" in told and "the labels of test2 are missing" in told


def test_speech_alpaca(tmp_path):
    name = "00003-en-US-JasonNeural-cheerful.wav"
    worlds.sound(tmp_path / "wavs" / name, 0.1)
    file = worlds.write(
        tmp_path / "test_alpaca.jsonl",
        json.dumps({"audio": f"wavs/{name}", "text": "Name a fruit.", "emotion": "cheerful"}),
    )
    prepare("speech_alpaca", file, tmp_path / "m.jsonl")
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.emotion, row.speaker, row.split) == ("happy", "en-US-JasonNeural", "test")
