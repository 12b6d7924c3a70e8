"""EmoBox: rows, folds, label maps and speakers as in its repository."""

import json
from pathlib import Path

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.corpora.base import Scan
from re_llm.data.corpora.emobox import LABELS, LANGUAGES, UNDECIDED

# What the label maps of the 32 corpora lead to, in their spelling.
NAMES = (
    "Neutral,Happy,Angry,Sad,Fear,Disgust,Surprise,Boredom,Excited,Calm,Contempt,Amused,Anxious,Worried,Enthusiastic,"
    "Sleepy,Sarcastic,Poker,pleasure,breath,Apologetic,Assertive,Concerned,Encouraging,Other,No-agreement,UnKnown,"
    "pain; groan,disappointment; disapproval"
)


def rows(path):
    return {u.key: u for u in read_records(path, Utterance)}


def line(key: str, wav: str, emo: str, **more) -> str:
    row = {"key": key, "dataset": key.split("-")[0], "wav": f"downloads/{wav}", "type": "raw", "sample_rate": 16000}
    row |= {"num_frame": 3200.0, "task": "category", "length": 0.2, "emo": emo, "channel": 1}
    return json.dumps({**row, **more}) + "\n"


@pytest.fixture
def emovo(tmp_path: Path) -> Path:
    """Italian labels, whose map is called label_dict; speakers in the transcript file, which says `lang=en`."""
    folder = tmp_path / "EmoBox/data/emovo"
    sides = {"train": (("dis-m1-b1", "dis"), ("gio-m1-b2", "gio")), "test": (("rab-f3-b1", "rab"),)}
    stm, whole = "", ""
    for side, members in sides.items():
        text = ""
        for name, emotion in members:
            worlds.sound(tmp_path / f"EmoBox/downloads/emovo/{name}.wav", 0.2)
            text += line(f"emovo-{name}", f"emovo/{name}.wav", emotion)
            speaker = name.split("-")[1]
            stm += (
                f"emovo-{name} 1 {speaker} 0 0.2 <id=emovo-{name},lang=en,spk={speaker},emotion={emotion}> {emotion}\n"
            )
        worlds.write(folder / f"fold_1/emovo_{side}_fold_1.jsonl", text)
        whole += text
    worlds.write(folder / "label_dict.json", json.dumps({"dis": "Disgust", "gio": "Happy", "rab": "Angry"}))
    worlds.write(folder / "data.seg.wrd.stm", stm)
    worlds.write(folder / "emovo.jsonl", whole)
    return folder


def test_labels_speakers_and_language(emovo, tmp_path):
    report = prepare("emobox", emovo, tmp_path / "m.jsonl")
    assert report.problems == [] and report.by_emotion == {"disgust": 1, "happy": 1, "angry": 1}
    found = rows(tmp_path / "m.jsonl")
    assert {u.speaker for u in found.values()} == {"m1", "f3"} and {u.language for u in found.values()} == {"it"}
    assert found["emovo-rab-f3-b1"].emotion_raw == "rab"


def test_folds(emovo, tmp_path):
    assert prepare("emobox", emovo, tmp_path / "m.jsonl", protocol="fold").by_split == {"train": 2, "test": 1}
    single = emovo / "fold_1/emovo_test_fold_1.jsonl"
    assert prepare("emobox", single, tmp_path / "m.jsonl").by_emotion == {"angry": 1}, "map and audio are found"
    with pytest.raises(RellmError, match="has no fold 7"):
        prepare("emobox", emovo, tmp_path / "m.jsonl", protocol="fold", options={"fold": "7"})
    (emovo / "emovo.jsonl").unlink()
    with pytest.raises(RellmError, match="--protocol fold"):
        prepare("emobox", emovo, tmp_path / "m.jsonl")


def test_the_wrong_level(emovo, tmp_path):
    for given, words in {
        emovo.parent: "one level",
        emovo.parent.parent: "two levels",
        emovo / "fold_1": "deep",
    }.items():
        with pytest.raises(RellmError, match=words) as error:
            prepare("emobox", given, tmp_path / "m.jsonl")
        assert error.value.todo == f"Give --root {emovo}"


def test_segments_of_one_long_recording(tmp_path):
    folder = tmp_path / "data/pavoque"
    worlds.sound(tmp_path / "downloads/pavoque/pavoque-sad.flac", 3.0)
    text = line("pavoque-a-sad", "pavoque/pavoque-sad.flac", "sad", start_time=0.5, end_time=1.25)
    text += line("pavoque-b-poker", "pavoque/pavoque-sad.flac", "poker", start_time=1.25, end_time=9.0)
    worlds.write(folder / "pavoque.jsonl", text)
    report = prepare("emobox", folder, tmp_path / "m.jsonl")
    (row,) = rows(tmp_path / "m.jsonl").values()
    assert (row.start, row.duration, row.language) == (0.5, 0.75, "de")
    assert "but the segment goes to 9.00 s" in report.problems[0].what


def test_balanced_sets_of_track_two(tmp_path):
    worlds.sound(tmp_path / "audio/dia595_utt5.wav", 0.2)
    row = {"wav_filename": "audio/dia595_utt5.wav", "label": "angry", "speaker": "Chandler"}
    file = worlds.write(tmp_path / "MELD_selected_balenced.jsonl", json.dumps(row) + "\n")
    prepare("emobox", file, tmp_path / "m.jsonl", options={"audio_root": str(tmp_path)})
    (found,) = rows(tmp_path / "m.jsonl").values()
    assert (found.corpus, found.speaker, found.emotion, found.language) == ("meld", "Chandler", "angry", "en")


GENUINE = {
    # corpus: (keys as in EmoBox, speakers as its own reader here names them, name of the corpus here)
    "ravdess": (("03-01-05-01-02-01-18", "03-01-08-01-01-02-07"), ("18", "07"), "ravdess"),
    "ased": (("a5-02-01-01-33", "n1-06-02-02-65"), ("33", "65"), "ased"),
    "aesdd": (("a03-3", "f12-01", "a06-5b"), ("3", "1", "5"), "aesdd"),
    "iemocap": (
        ("Ses05M_impro01_F021", "Ses02F_script01_1_M003", "Ses03F_impro06_FXX0"),
        ("Ses05F", "Ses02M", "Ses03F"),
        "iemocap",
    ),
    "cremad": (("1041-TAI-HAP-XX",), ("1041",), "crema_d"),
    "emodb": (("16b10Td",), ("16",), "emodb"),
    "esd": (("0020-001747",), ("0020",), "esd"),
    "mead": (("M034-sad-level-1-002",), ("M034",), "mead"),
    "savee": (("JK-n27",), ("JK",), "savee"),
    "tess": (("OAF-wag-angry",), ("OAF",), "tess"),
    "jlcorpus": (("male1-assertive-7b-2",), ("male1",), "jl"),
}


@pytest.mark.parametrize("name", GENUINE)
def test_speakers_in_keys(name, tmp_path):
    keys, speakers, corpus = GENUINE[name]
    worlds.sound(tmp_path / f"downloads/{name}/one.wav", 0.2)
    text = "".join(line(f"{name}-{key}", f"{name}/one.wav", "sad") for key in keys)
    worlds.write(tmp_path / f"data/{name}/{name}.jsonl", text)
    prepare("emobox", tmp_path / f"data/{name}", tmp_path / "m.jsonl")
    found = rows(tmp_path / "m.jsonl").values()
    assert tuple(u.speaker for u in found) == speakers and {u.corpus for u in found} == {corpus}


def test_speakers_that_end_the_key_are_speakers(tmp_path):
    """CASIA and others have speakers in the transcript file alone; JL has their folders there."""
    folder = tmp_path / "data/polish"
    worlds.sound(tmp_path / "downloads/polish/one.wav", 0.2)
    stm = "".join(f"x <id=polish-S{n}-{n},lang=pl,spk={n},emotion=sad> sad\n" for n in (1, 2))
    stm += "x <id=polish-male,lang=pl,spk=downloads/polish/JL(wav+txt)/male2,emotion=sad> sad\n"
    worlds.write(folder / "data.seg.wrd.stm", stm)
    keys = ("polish-S1-1", "polish-S2-2", "polish-male")
    worlds.write(folder / "polish.jsonl", "".join(line(key, "polish/one.wav", "sad") for key in keys))
    report = prepare("emobox", folder, tmp_path / "m.jsonl", options={"test_speakers": "2"})
    assert [u.speaker for u in rows(tmp_path / "m.jsonl").values()] == ["1", "2", "male2"]
    assert report.by_split == {"train": 2, "test": 1}


def test_names_of_files_are_no_speakers(tmp_path):
    folder = tmp_path / "data/mer2023"
    worlds.sound(tmp_path / "downloads/mer2023/sample_1.wav", 0.2)
    worlds.write(folder / "mer2023.jsonl", line("mer2023-sample_1", "mer2023/sample_1.wav", "worried"))
    worlds.write(folder / "data.seg.wrd.stm", "x <id=mer2023-sample_1,lang=zh,spk=sample_1,emotion=worried> worried\n")
    prepare("emobox", folder, tmp_path / "m.jsonl")
    (found,) = rows(tmp_path / "m.jsonl").values()
    assert (found.speaker, found.emotion, found.language) == (None, "anxious", "zh")


def test_every_label_of_every_corpus_is_known(tmp_path):
    scan = Scan(tmp_path)
    for name in (n.replace(";", ",") for n in NAMES.split(",")):
        assert name.lower() in UNDECIDED or scan.emotion(name, "label_map.json", extra=LABELS), name
    assert scan.problems == [] and len(LANGUAGES) == 30, "all but ASVP-ESD (mixed) and ESD (by speaker)"


def test_broken_rows(emovo, tmp_path):
    with (emovo / "emovo.jsonl").open("a") as out:
        out.write('{"key": "x"}\nno json\n' + line("emovo-x", "emovo/absent.wav", "gio"))
    problems = prepare("emobox", emovo, tmp_path / "m.jsonl").problems
    assert {p.line for p in problems} == {4, 5, None}
    assert next(p.file for p in problems if p.line is None).endswith("absent.wav")
    worlds.write(emovo / "label_dict.json", "[]")
    with pytest.raises(RellmError, match="not a map of labels"):
        prepare("emobox", emovo, tmp_path / "m.jsonl")
