"""Tables of one's own, and corpora that come as tables: RESD, MER2023, SpeechAlpaca."""

import json
import tarfile
import zipfile

import corpus_worlds as worlds
import numpy as np
import pytest
from corpus_worlds import prepare

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.check import check


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


def test_ratings_that_are_not_complete_are_told_once(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    lines = ["audio,key,valence,arousal", *(f"one.wav,k{n},0.5,0.5" for n in range(3))]
    table = worlds.write(tmp_path / "t.csv", "\n".join(lines))
    report = prepare("table", table, tmp_path / "m.jsonl")
    assert report.rows == 3 and [p.line for p in report.problems] == [2]
    assert "only valence, arousal of" in report.problems[0].what


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


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_recordings_in_an_archive(tmp_path, kind):
    plain = worlds.sound(tmp_path / "clips/one.wav", 0.2)
    archive = tmp_path / f"clips.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as out:
            out.writestr("notes.txt", "not a recording")
            out.write(plain, "deep/one.wav")
    else:
        with tarfile.open(archive, "w") as out:
            out.add(plain, "./deep/one.wav")
    table = worlds.write(
        tmp_path / "t.csv", "audio,start,duration\ndeep/one.wav,,\ndeep/one.wav,0.1,0.05\nabsent.wav,,\n"
    )
    report = prepare("table", table, tmp_path / "out/m.jsonl", options={"audio_root": str(archive)})
    assert [p.what for p in report.problems if p.line == 4] == [f"clips.{kind} has no readable member absent.wav"]
    row = rows(tmp_path / "out/m.jsonl")[0]
    assert row.audio.startswith(f"../clips.{kind}:") and row.sha256 == waveform.sha256(plain)
    np.testing.assert_array_equal(waveform.load(row.audio, root=tmp_path / "out"), waveform.load(plain))


def test_headers_in_any_case(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    table = worlds.write(
        tmp_path / "t.csv",
        "File Name,Transcription,EMOTION,Speaker-ID,Val,Aro,Dom,Gender\none.wav,hi,Sad,ann,1,3,5,F\n",
    )
    report = prepare("table", table, tmp_path / "m.jsonl", options={"scale": "1..5"})
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.emotion, row.speaker, row.model_extra["gender"]) == ("hi", "sad", "ann", "F")
    assert row.dimensions() == (0.0, 0.5, 1.0) and report.problems == [] and report.notes == []
    worlds.write(table, "AUDIO,Gold\none.wav,Angry\n")
    prepare("table", table, tmp_path / "m.jsonl", options={"emotion": "gold"})
    assert rows(tmp_path / "m.jsonl")[0].emotion == "angry"


def test_semicolons_where_the_header_has_them(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    table = worlds.write(tmp_path / "t.csv", 'audio;text;emotion\none.wav;"Well, yes; no";sad\n')
    assert prepare("table", table, tmp_path / "m.jsonl").problems == []
    assert [(row.text, row.emotion) for row in rows(tmp_path / "m.jsonl")] == [("Well, yes; no", "sad")]


def test_columns_that_are_not_read_are_noted(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    table = worlds.write(tmp_path / "t.csv", "audio,emotoin,Rater 3,emotion\none.wav,x,y,sad\n")
    report = prepare("table", table, tmp_path / "m.jsonl", strict=True)
    assert report.notes == ["t.csv: columns that are not read: Rater 3, emotoin"]
    lines = ['{"audio": "one.wav", "mood": 1}', '{"audio": "one.wav", "key": "b", "colour": 2}']
    report = prepare("table", worlds.write(tmp_path / "t.jsonl", "\n".join(lines)), tmp_path / "m.jsonl")
    assert report.rows == 2 and report.notes == ["t.jsonl: columns that are not read: colour, mood"]


def test_folders_of_labels(tmp_path):
    root = tmp_path / "sounds"
    for path in ("Happy/a.wav", "anger/a.flac", "train/sad/b.wav", "Val/sad/c.wav", "Grumpy/d.wav", "loose.wav"):
        worlds.sound(root / path, 0.2)
    report = prepare("table", root, tmp_path / "m.jsonl", options={"default_language": "en"})
    found = {u.key: (u.emotion, u.split) for u in rows(tmp_path / "m.jsonl")}
    assert found == {
        "sounds-Happy-a": ("happy", "all"),
        "sounds-anger-a": ("angry", "all"),
        "sounds-train-sad-b": ("sad", "train"),
        "sounds-Val-sad-c": ("sad", "dev"),
        "sounds-Grumpy-d": (None, "all"),
    }
    assert {p.what for p in report.problems} == {"unknown emotion label 'Grumpy'", "not in the folder of a label"}
    report = prepare("table", root, tmp_path / "m.jsonl", options={"labels": "grumpy:angry"})
    assert report.by_emotion == {"happy": 1, "angry": 2, "sad": 2}


def test_audformat(tmp_path):
    worlds.sound(tmp_path / "audio/one.wav", 3.0)
    lines = ["0 days 00:00:00,0 days 00:00:01.5,anger", "0 days 00:00:01.5,NaT,happiness", "00:00:01,2.25,", "soon,,"]
    text = "file,start,end,emotion\n" + "".join(f"audio/one.wav,{line}\n" for line in lines)
    report = prepare("table", worlds.write(tmp_path / "db.csv", text), tmp_path / "m.jsonl")
    found = [(u.start, u.duration, u.emotion) for u in rows(tmp_path / "m.jsonl")]
    assert found == [(0.0, 1.5, "angry"), (1.5, 1.5, "happy"), (1.0, 1.25, None)]
    assert [u.key for u in rows(tmp_path / "m.jsonl")] == ["db-audio-one", "db-audio-one-1.5", "db-audio-one-1"]
    assert [(p.line, p.what) for p in report.problems] == [(5, "could not convert string to float: 'soon'")]


def test_compressed_members_of_a_zip(tmp_path):
    plain = worlds.sound(tmp_path / "one.wav", 1.0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.write(plain, "deep/one.wav")
    table = worlds.write(tmp_path / "t.csv", "audio,start,duration\ndeep/one.wav,0.25,0.5\ndeep/one.flac,,\n")
    prepare("table", table, tmp_path / "out/m.jsonl", options={"audio_root": str(tmp_path / "a.zip")})
    row, other = rows(tmp_path / "out/m.jsonl")
    assert row.audio.startswith("../a.zip:") and row.audio.endswith(":deflate")
    assert row.sha256 == waveform.sha256(plain) and other.duration == 1.0, "found under another suffix"
    np.testing.assert_array_equal(
        waveform.load(row.audio, start=0.25, duration=0.5, root=tmp_path / "out"),
        waveform.load(plain, start=0.25, duration=0.5),
    )


def test_label_sets(tmp_path):
    worlds.sound(tmp_path / "one.wav", 0.2)
    labels = ("proud", "Joyful", "surprised", "happy", "grumpy")
    table = worlds.write(tmp_path / "t.csv", "audio,key,emotion\n" + "".join(f"one.wav,{n},{n}\n" for n in labels))
    options = {"label_set": "empathetic_dialogues"}
    report = prepare("table", table, tmp_path / "m.jsonl", options=options)
    assert [u.emotion for u in rows(tmp_path / "m.jsonl")] == ["proud", "joyful", "surprised", None, None]
    assert {u.label_set for u in rows(tmp_path / "m.jsonl")} == {"empathetic_dialogues"} and len(report.problems) == 2
    found = check(tmp_path / "m.jsonl", decode=False).problems
    assert [p.what for p in found] == [
        "Joyful: labelled joyful, the same recording as proud, labelled proud",
        "surprised: labelled surprised, the same recording as proud, labelled proud",
    ]
    report = prepare(
        "table", table, tmp_path / "m.jsonl", options={"label_set": "proud,grumpy", "labels": "happy:proud"}
    )
    assert report.by_emotion == {"proud": 2, "grumpy": 1, "none": 2}
    with pytest.raises(RellmError, match="option label_set='proud'"):
        prepare("table", table, tmp_path / "m.jsonl", options={"label_set": "proud"})


def test_archives_that_cannot_be_read_in_place(tmp_path):
    plain = worlds.sound(tmp_path / "one.wav", 0.2)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in ("fine.wav", "../up.wav", "/etc/root.wav", "C:\\windows.wav", "a/../../b.wav"):
            out.writestr(name, plain.read_bytes())
        out.write(plain, "packed.wav", compress_type=zipfile.ZIP_LZMA)
    table = worlds.write(tmp_path / "t.csv", "audio\nfine.wav\n../up.wav\npacked.wav\n")
    options = {"audio_root": str(tmp_path / "a.zip")}
    report = prepare("table", table, tmp_path / "m.jsonl", options=options)
    assert report.rows == 1 and sum("leads out of the archive" in p.what for p in report.problems) == 4
    assert any("1 members are encrypted or compressed by another method" in p.what for p in report.problems)
    assert {p.line for p in report.problems if p.file == "t.csv"} == {3, 4}
    with pytest.raises(RellmError, match="leads out of the archive"):
        prepare("table", table, tmp_path / "m.jsonl", options=options, strict=True)
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:500])
    with pytest.raises(RellmError, match=r"cannot read .*a\.zip"):
        prepare("table", table, tmp_path / "m.jsonl", options=options)
    with pytest.raises(RellmError, match="neither a folder nor an archive"):
        prepare("table", table, tmp_path / "m.jsonl", options={"audio_root": str(plain)})


def test_paths_of_another_machine_are_found_by_their_end(tmp_path):
    worlds.sound(tmp_path / "corpus/audios/one.wav", 0.2)
    file = tmp_path / "t.jsonl"
    file.write_text('{"audio": "/dataset/Somewhere/audios/one.wav"}\n{"audio": "/dataset/Somewhere/audios/two.wav"}\n')
    report = prepare("table", file, tmp_path / "m.jsonl", options={"audio_root": str(tmp_path / "corpus")})
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.audio, row.key) == ("corpus/audios/one.wav", "t-audios-one")
    assert report.problems[0].what == "no such file: /dataset/Somewhere/audios/two.wav"


def test_files_without_a_row(tmp_path):
    for name in ("one", "two", "three"):
        worlds.sound(tmp_path / f"clips/{name}.wav", 0.2)
    table = worlds.write(tmp_path / "t.csv", "audio\nclips/one.wav\n")
    report = prepare("table", table, tmp_path / "m.jsonl")
    assert report.dropped == {"recording in clips without a row in t.csv, such as three.wav": 2}


def test_jsonl_in_utf_16_says_so(tmp_path):
    worlds.write(tmp_path / "t.jsonl", '{"audio": "one.wav"}\n', "utf-16")
    with pytest.raises(RellmError, match="UTF-16"):
        prepare("table", tmp_path / "t.jsonl", tmp_path / "m.jsonl")


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
