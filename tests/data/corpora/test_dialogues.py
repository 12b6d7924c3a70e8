"""MELD and CMU-MOSEI: tables beside clips, segments of long recordings."""

import corpus_worlds as worlds
from corpus_worlds import prepare

from re_llm.core.records import Utterance, read_records


def rows(path):
    return {u.key: u for u in read_records(path, Utterance)}


def meld(root):
    header = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    end = 'negative,0,{},4,7,"00:21:01,927","00:21:03,261"'
    train = [
        header,
        '1,"Well, it\x92s all about the little blue teapot.",Monica,surprise,' + end.format(0),
        "2,What?,Ross,joy," + end.format(1),
        "3,The shop had nothing left on Sunday.,Ross,disgust," + end.format(2),
    ]
    worlds.write(root / "train_sent_emo.csv", "\n".join(train), "latin-1")
    for part in ("dev", "test"):
        worlds.write(
            root / part / f"{part}_sent_emo.csv",
            f"{header}\n1,We could walk there before lunch.,Ann,neutral,{end.format(0)}",
        )
    for folder, names in {
        "train/train_splits": ["dia0_utt0", "dia0_utt1"],
        "dev_splits_complete": ["dia0_utt0"],
        "test/output_repeated_splits_test": ["dia0_utt0"],
    }.items():
        for name in names:
            worlds.sound(root / folder / f"{name}.wav", 1.0)
    return root


def test_meld(tmp_path):
    root = meld(tmp_path / "MELD.Raw")
    report = prepare("meld", root, tmp_path / "m.jsonl")
    found = rows(tmp_path / "m.jsonl")
    assert report.by_split == {"train": 2, "dev": 1, "test": 1}
    first = found["meld-train-dia0_utt0"]
    assert first.text == "Well, it\u2019s all about the little blue teapot." and first.emotion == "surprise"
    assert (first.speaker, first.dialogue, first.turn) == ("Monica", "train-0", 0)
    assert found["meld-train-dia0_utt1"].emotion == "happy"
    assert [p.file for p in report.problems] == ["train/train_splits/dia0_utt2.mp4"]


def test_meld_in_blsp_emo(tmp_path):
    report = prepare("meld", meld(tmp_path / "meld"), tmp_path / "m.jsonl", protocol="blsp-emo")
    assert report.by_split == {"train": 1, "dev": 1, "test": 1}
    assert report.dropped == {"fewer than 5 words": 1, "emotion disgust": 1} and report.problems == []


def test_meld_in_blsp_emo_keeps_1_to_30_seconds(tmp_path):
    root = meld(tmp_path / "meld")
    for clip, length in {"train/train_splits/dia0_utt0": 0.9, "dev_splits_complete/dia0_utt0": 30.5}.items():
        worlds.sound(root / f"{clip}.wav", length)
    report = prepare("meld", root, tmp_path / "m.jsonl", protocol="blsp-emo")
    assert report.by_split == {"test": 1} and report.published == {"train": 5_920, "test": 1_577}
    assert report.dropped["shorter than 1 s"] == 1 and report.dropped["longer than 30 s"] == 1


def test_meld_not_unpacked(tmp_path):
    root = meld(tmp_path / "meld")
    (root / "train/train_splits").rename(tmp_path / "elsewhere")
    report = prepare("meld", root, tmp_path / "m.jsonl")
    assert report.by_split == {"dev": 1, "test": 1} and report.dropped == {"train: no clips are there": 3}
    assert "unpack train.tar.gz" in report.problems[0].what and report.problems[0].file == "train_sent_emo.csv"


def test_meld_clips_without_a_row(tmp_path):
    root = meld(tmp_path / "meld")
    for name in ("final_videos_testdia2_utt1", "dia9_utt9"):
        worlds.sound(root / f"test/output_repeated_splits_test/{name}.wav", 0.1)
    report = prepare("meld", root, tmp_path / "m.jsonl")
    (why,) = report.dropped
    assert report.dropped[why] == 2 and "without a row in test_sent_emo.csv, such as dia9_utt9.wav" in why


def mosei(root):
    lines = [
        "-vid1___0___0.0___0.5___This is a very good day___ really.",
        "-vid1___1___0.5___1.0___Nothing here worked for anyone.",
        "-vid1___2___1.0___1.5___It sounds like a plain report.",
        "-vid1___3___1.5___2.0___He is glad and sad at once.",
        "-vid1___4___2.0___2.5___nobody rated this",
        "-vid1___5___2.5___9.0___It ends after the recording does.",
        "-vid1 without marks",
    ]
    worlds.write(root / "Raw/Transcript/Segmented/Combined/-vid1.txt", "\n".join(lines))
    names = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
    table = ["Input.VIDEO_ID,Input.CLIP," + ",".join(f"Answer.{n}" for n in names)]
    ratings = {
        0: ["0,0,0,2,0,0", ",,,1,,"],
        1: ["0,0,0,0,1,0", "0,0,0,0,0,0"],
        2: ["0,0,0,0,0,0"],
        3: ["0,0,0,1,2,0"],
        5: ["3,0,0,0,0,0"],
    }
    table += [f"-vid1,{clip},{row}" for clip, many in ratings.items() for row in many] + ["-vid1,4,,,,,,"]
    worlds.write(root / "Raw/Labels/5000_batch_raw.csv", "\n".join(table))
    worlds.sound(root / "Raw/Audio/Full/WAV_16000/-vid1.wav", 3.0)
    return root


def test_mosei_raw(tmp_path):
    report = prepare("cmu_mosei", mosei(tmp_path / "mosei"), tmp_path / "m.jsonl")
    found = {u.turn: u for u in rows(tmp_path / "m.jsonl").values()}
    assert {turn: u.emotion for turn, u in found.items()} == {0: "happy", 1: "sad", 2: "neutral", 3: None}
    assert (found[1].start, found[1].duration, found[0].text) == (0.5, 0.5, "This is a very good day___ really.")
    assert len({u.sha256 for u in found.values()}) == 1, "segments of one file"
    told = {p.line: p.what for p in report.problems if p.line}
    assert set(told) == {5, 7} and told[5] == "no ratings of -vid1 4" and "-vid1 without marks" in told[7]
    assert any("goes to 9.00 s" in p.what for p in report.problems)
    assert report.dropped == {"row of a worker without answers": 1}


def test_mosei_single_label_and_threshold(tmp_path):
    root = mosei(tmp_path / "mosei")
    report = prepare("cmu_mosei", root, tmp_path / "m.jsonl", protocol="blsp-emo", options={"threshold": 0.5})
    # Two workers, one of them with 1 of 3: not above one half.
    assert report.by_emotion == {"happy": 1, "neutral": 2} and report.dropped["emotion several"] == 1


def test_mosei_mmsa(tmp_path):
    root = tmp_path / "mosei"
    worlds.write(
        root / "label.csv",
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n-v,3,so it is,1.0,0,0,0,Positive,valid\n",
    )
    worlds.sound(root / "Raw/-v/3.wav", 0.1)
    assert prepare("cmu_mosei", root, tmp_path / "m.jsonl").by_split == {"dev": 1}
    row = next(iter(rows(tmp_path / "m.jsonl").values()))
    assert row.emotion is None and row.model_extra["sentiment"] == "1.0"
