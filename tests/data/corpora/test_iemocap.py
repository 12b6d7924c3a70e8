"""IEMOCAP in its genuine layout: protocols, order, speakers, ratings, and the oddities of the release."""

from pathlib import Path

import corpus_worlds as worlds
import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.corpora import prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.iemocap(tmp_path_factory.mktemp("iemocap"))


def rows(root: Path, out: Path, **kwargs) -> dict[str, Utterance]:
    prepare("iemocap", root, out, **kwargs)
    return {u.key.removeprefix("iemocap-"): u for u in read_records(out, Utterance)}


def test_everything(root, tmp_path):
    found = rows(root, tmp_path / "m.jsonl")
    assert len(found) == 9
    undecided = found["Ses01F_impro01_FXX0"]
    assert undecided.emotion is None and undecided.emotion_raw == "xxx"
    assert undecided.speaker == "Ses01F" and found["Ses01F_impro01_M000"].speaker == "Ses01M"
    turns = [u for u in found.values() if u.dialogue == "Ses01F_impro01"]
    assert [u.turn for u in turns] == [0, 1, 2, 3], "turns are in the order of time, not of the label file"
    assert turns[1].text == "We are going to the sea tomorrow!"


def test_ratings_are_scaled_by_name_and_the_range_is_kept(root, tmp_path):
    excited = rows(root, tmp_path / "m.jsonl")["Ses01F_impro01_M000"]
    assert (excited.valence, excited.arousal, excited.dominance) == (0.75, 0.875, 0.5)
    assert excited.vad_source == "annotated" and excited.model_extra["vad_range"] == [1.0, 5.0]


def test_protocol_of_re_llm_merges_excited_and_holds_session_five_out(root, tmp_path):
    report = prepare("iemocap", root, tmp_path / "m.jsonl", protocol="re-llm")
    found = list(read_records(tmp_path / "m.jsonl", Utterance))
    assert report.by_emotion == {"happy": 2, "sad": 2, "neutral": 1, "angry": 1}
    assert {u.split for u in found if u.speaker.startswith("Ses05")} == {"test"}
    assert {u.split for u in found if not u.speaker.startswith("Ses05")} == {"train"}
    assert report.dropped == {"emotion xxx": 1, "emotion frustrated": 1, "emotion surprise": 1}
    assert report.rows + sum(report.dropped.values()) == 9


def test_protocol_of_blsp_emo_drops_excited_and_short_transcripts(root, tmp_path):
    report = prepare("iemocap", root, tmp_path / "m.jsonl", protocol="blsp-emo")
    assert report.by_emotion == {"sad": 2, "neutral": 1, "angry": 1}
    assert report.dropped["emotion excited"] == 1 and report.dropped["fewer than 5 words"] == 1


def test_another_test_session(root, tmp_path):
    found = rows(root, tmp_path / "m.jsonl", options={"test_session": "2"})
    assert {k[:5] for k, u in found.items() if u.split == "test"} == {"Ses02"}


@pytest.mark.parametrize(("given", "words"), [("..", "too high"), ("Session1/dialog", "too deep")])
def test_wrong_level_names_the_right_folder(root, tmp_path, given, words):
    with pytest.raises(RellmError, match=words) as error:
        prepare("iemocap", (root / given).resolve(), tmp_path / "m.jsonl")
    assert str(root) in error.value.todo


def test_broken_lines_are_listed_with_file_and_line(tmp_path):
    root = worlds.iemocap(tmp_path / "corpus")
    labels = root / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    text = labels.read_text()
    labels.write_text(
        text.replace("[1.0000, 5.0000, 4.0000]", "[1.0000, 5.5000, 4.0000]")
        + "[9.0 - 9.5]\tSes02F_impro01_M009\tneu\n"
        + "[11.0 - 12.0]\tSes02F_impro01_M010\tneu\t[2.5, 2.5, 2.5]\n"
    )
    report = prepare("iemocap", root, tmp_path / "m.jsonl")
    by_line = {(p.line, p.what.split(":")[0]) for p in report.problems if "EmoEvaluation" in p.file}
    assert (7, "not a turn") in by_line
    assert (8, "Ses02F_impro01_M010 has no transcript") in by_line
    assert any("5.5 is outside of 1..5" in p.what for p in report.problems)
    missing = [p for p in report.problems if "no such file" in p.what]
    assert len(missing) == 1 and missing[0].file.endswith("Ses02F_impro01_M010.wav")
    assert report.problems_file is not None
    assert len(report.problems_file.read_text().splitlines()) == len(report.problems) == 4
    angry = next(u for u in read_records(tmp_path / "m.jsonl", Utterance) if u.emotion == "angry")
    assert angry.dimensions() is None, "a rating that is not on the scale is not clipped"
    with pytest.raises(RellmError, match=r"Ses02F_impro01.txt:7: not a turn"):
        prepare("iemocap", root, tmp_path / "s.jsonl", strict=True)
    assert not (tmp_path / "s.jsonl").exists()


def test_recordings_of_a_dialogue_without_labels_are_counted(tmp_path):
    root = worlds.iemocap(tmp_path / "corpus")
    worlds.sound(root / "Session3/sentences/wav/Ses03F_impro09/Ses03F_impro09_F000.wav")
    report = prepare("iemocap", root, tmp_path / "m.jsonl", strict=True)
    assert report.dropped == {"recording of Ses03F_impro09, which has no label file": 1}


def test_a_missing_session_is_a_problem(tmp_path):
    root = worlds.iemocap(tmp_path / "corpus")
    (root / "Session4").rename(tmp_path / "elsewhere")
    report = prepare("iemocap", root, tmp_path / "m.jsonl")
    assert [(p.file, p.what) for p in report.problems] == [("Session4", "the session is missing")]
