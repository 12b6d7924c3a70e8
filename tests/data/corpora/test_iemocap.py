"""IEMOCAP in its genuine layout: protocols, order, speakers, ratings, and the oddities of the release."""

from pathlib import Path

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records


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
    worlds.sound(root / "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F009.wav")
    dropped = prepare("iemocap", root, tmp_path / "m.jsonl", strict=True).dropped
    assert report.dropped == {
        "recording in wav without a row in EmoEvaluation, such as Ses03F_impro09/Ses03F_impro09_F000.wav": 1
    }
    assert sum(dropped.values()) == 2


def test_votes_and_ratings_of_annotators(root, tmp_path):
    found = rows(root, tmp_path / "m.jsonl")
    extra = found["Ses01F_impro01_M000"].model_extra
    assert extra["votes"] == {"E2": ["Neutral", "Other"]} and extra["style"] == "improvised"
    assert extra["ratings"] == {"E3": {"valence": 2.0, "arousal": 2.0, "dominance": 2.0}}
    labels = worlds.iemocap(tmp_path / "c") / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    labels.write_text(
        "[0.0 - 1.0]\tSes02F_impro01_F000\tang\t[1.0000, 5.0000, 4.0000]\nC-E2:\tAnger;\t()\n"
        "C-E4:\tAnger; Frustration;\t(a; b)\nC-M1:\tExcited; \t()\nA-E3:\tval 1; act ; dom  5;\t()\n"
        "A-F1:\tval ; act ; dom ;\t()\n[broken]\nC-E2:\tSadness;\t()\n"
    )
    extra = rows(tmp_path / "c", tmp_path / "m.jsonl")["Ses02F_impro01_F000"].model_extra
    assert extra["votes"] == {"E2": ["Anger"], "E4": ["Anger", "Frustration"], "M1": ["Excited"]}
    assert extra["ratings"] == {"E3": {"valence": 1.0, "dominance": 5.0}}


def test_improvised_or_scripted(tmp_path):
    root = worlds.iemocap(tmp_path / "corpus")
    for folder in ("dialog/EmoEvaluation", "dialog/transcriptions"):
        old = root / "Session3" / folder / "Ses03F_impro01.txt"
        new = old.with_name("Ses03F_script01_1.txt")
        new.write_text(old.read_text().replace("Ses03F_impro01_M000", "Ses03F_script01_1_M000"))
        old.unlink()
    worlds.sound(root / "Session3/sentences/wav/Ses03F_script01_1/Ses03F_script01_1_M000.wav")
    for style, keys in {"scripted": {"Ses03F_script01_1_M000"}, "improvised": None}.items():
        found = rows(root, tmp_path / "m.jsonl", options={"style": style})
        assert {u.model_extra["style"] for u in found.values()} == {style} and set(found) == (keys or set(found))
    with pytest.raises(RellmError, match=r"option style='read'.*improvised, scripted"):
        rows(root, tmp_path / "m.jsonl", options={"style": "read"})


@pytest.mark.parametrize(("protocol", "folds"), [("5-fold", 5), ("10-fold", 10)])
def test_folds_test_every_utterance_once_and_no_speaker_twice(tmp_path, protocol, folds):
    root = worlds.iemocap(tmp_path / "corpus")
    for session in range(1, 6):  # both actors of every session speak
        dialogue = f"Ses{session:02}F_impro01"
        lines = [f"[{n}.0 - {n}.5]\t{dialogue}_{n}000\tneu\t[2.5, 2.5, 2.5]\n" for n in "FM"]
        lines = [line.replace("[F.0 - F.5]", "[1.0 - 1.5]").replace("[M.0 - M.5]", "[2.0 - 2.5]") for line in lines]
        (root / f"Session{session}/dialog/EmoEvaluation/{dialogue}.txt").write_text("".join(lines))
        for actor in "FM":
            worlds.sound(root / f"Session{session}/sentences/wav/{dialogue}/{dialogue}_{actor}000.wav")
    tested = []
    for fold in range(1, folds + 1):
        found = rows(root, tmp_path / "m.jsonl", protocol=protocol, options={"fold": fold}, hash=False)
        sides = {split: {u.speaker for u in found.values() if u.split == split} for split in ("train", "dev", "test")}
        assert not sides["test"] & (sides["train"] | sides["dev"]) and not sides["train"] & sides["dev"]
        assert [len(sides[split]) for split in sides] == ([8, 0, 2] if folds == 5 else [8, 1, 1])
        tested += [key for key, u in found.items() if u.split == "test"]
    assert sorted(tested) == sorted(found) and len(found) == 10, "every utterance is tested once"
    with pytest.raises(RellmError, match="option fold"):
        rows(root, tmp_path / "m.jsonl", protocol=protocol, options={"fold": folds + 1})


def test_a_missing_session_is_a_problem(tmp_path):
    root = worlds.iemocap(tmp_path / "corpus")
    (root / "Session4").rename(tmp_path / "elsewhere")
    report = prepare("iemocap", root, tmp_path / "m.jsonl")
    assert [(p.file, p.what) for p in report.problems] == [("Session4", "the session is missing")]
