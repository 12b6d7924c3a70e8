"""Dialogues of three turns out of a manifest: who is who, what is joined, where nothing is bridged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.dialogues import first_emotion, turns, words
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.data.corpora import prepare
from re_llm.data.dialogues import DialogueReport, write_dialogues


def manifest(path: Path, said: str, **changes: object) -> Path:
    """Utterances of one dialogue from words such as `A1:sad`: speaker, turn, emotion (none: `-`)."""
    rows = []
    for each in said.split():
        who, _, emotion = each.partition(":")
        rows.append(
            Utterance(
                **{
                    "key": f"k{who[1:]}", "corpus": "toy", "split": "test", "audio": f"wav/{who}.wav",
                    "text": f"words {who}", "speaker": who[0], "dialogue": "d", "turn": int(who[1:]),
                    "emotion": None if emotion in ("", "-") else emotion, **changes,
                }
            )
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_records(path, rows)
    return path


def cut(tmp_path: Path, said: str, **options: object) -> tuple[list[Utterance], DialogueReport]:
    report = write_dialogues(manifest(tmp_path / "in" / "m.jsonl", said), tmp_path / "out" / "d.jsonl", **options)
    return list(read_records(report.out, Utterance)), report


def test_three_turns_of_two_speakers_joined_where_one_goes_on(tmp_path: Path) -> None:
    rows, report = cut(tmp_path, "A1:- A2:angry B3:sad A4:happy B5 B6 A7:sad A8:happy")
    (row,) = rows
    assert (row.key, row.corpus, row.emotion, row.speaker) == ("k7", "toy-dialogues", "sad", "A")
    assert [(role, words(said)) for role, said in turns(row.history)] == [
        ("user", "words A1 words A2"), ("assistant", "words B3"), ("user", "words A4"),
        ("assistant", "words B5 words B6"),
    ]  # fmt: skip
    assert first_emotion(row.history) == "angry" and row.audio == "../in/wav/A7.wav"
    assert {each.audio for each in row.history} == {f"../in/wav/{n}.wav" for n in ("A1", "A2", "B3", "A4", "B5", "B6")}
    assert (report.rows, report.first_known, report.splits) == (1, 1, {"test": 1})


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ("A1 B2 A3 B4 A5:sad B6 A7 B8 A9:sad", ["k5"]),  # dialogues do not overlap: B6 begins the next
        ("A1 B2 A3 B4 A5:sad B6:sad A7 B8 A9 B10:sad", ["k5", "k10"]),
        ("A1 B2 A3 B4 A5:frustrated B6:sad", ["k6"]),  # a last turn without a usable label is no last turn
        ("A1 B2 A3 B4 A6:sad B7 A8 B9 A10:happy", ["k10"]),  # an utterance is missing
    ],
)
def test_which_turns_make_a_dialogue(tmp_path: Path, said: str, keys: list[str]) -> None:
    assert [row.key for row in cut(tmp_path, said)[0]] == keys


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("A1 B2 C3 B4 A5:sad", "more than two speakers 1"),
        ("A1 B2 A3 B4 A5", "last turn without an emotion 1"),
        ("A1 B2 A3 B4", "no rows"),
    ],
)
def test_a_manifest_without_a_dialogue_says_why(tmp_path: Path, said: str, why: str) -> None:
    with pytest.raises(RellmError, match=why):
        cut(tmp_path, said)
    assert not (tmp_path / "out" / "d.jsonl").exists()


def test_rows_without_words_or_place_are_counted(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.jsonl", "A1 B2 A3 B4 A5:sad")
    rows = list(read_records(path, Utterance))
    lost = [
        rows[0].model_copy(update={"key": "x", "turn": None}),
        rows[0].model_copy(update={"key": "y", "turn": 6, "text": " "}),
    ]
    write_records(path, [*rows, *lost])
    report = write_dialogues(path, tmp_path / "d.jsonl")
    assert report.rows == 1
    assert report.dropped == {"utterance without dialogue and turn": 1, "utterance without text or speaker": 1}


def test_more_or_fewer_turns_from_the_command_line_and_again(tmp_path: Path) -> None:
    path = manifest(tmp_path / "m.jsonl", "A1 B2 A3:sad B4 A5:happy")
    command = ["prepare", "dialogues", str(path), "--out", str(tmp_path / "d.jsonl")]
    assert CliRunner().invoke(app, [*command, "--turns", "2"]).exit_code == 0
    (row,) = read_records(tmp_path / "d.jsonl", Utterance)
    assert row.key == "k3" and len(row.history) == 2
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "--turns was 2, and is 3 now" in again.output
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0
    assert "Complete already" in CliRunner().invoke(app, command).output


MELD = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"


def meld(root: Path, said: str) -> Path:
    """One dialogue of MELD's test part, from words such as `A1:sadness`."""
    lines = [MELD]
    for each in said.split():
        who, _, emotion = each.partition(":")
        lines.append(f"words of {who},{who[0]},{emotion or 'neutral'},neutral,7,{who[1:]}")
        wave = root / "output_repeated_splits_test" / f"dia7_utt{who[1:]}.wav"
        wave.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wave, np.sin(np.arange(16_000) / 9), 16_000)
    (root / "test_sent_emo.csv").write_text("\n".join(lines))
    return root


def test_dialogues_of_meld_as_it_is_shipped(tmp_path: Path) -> None:
    root = meld(tmp_path / "MELD.Raw", "A0:sadness B1 A2 B3 A4:joy C5 A6 B7")
    prepare("meld", root, tmp_path / "meld.jsonl")
    write_dialogues(tmp_path / "meld.jsonl", tmp_path / "d.jsonl")
    (row,) = read_records(tmp_path / "d.jsonl", Utterance)
    assert (row.key, row.emotion, first_emotion(row.history)) == ("meld-test-dia7_utt4", "happy", "sad")
    assert (tmp_path / row.history[2].audio).is_file()


def test_a_protocol_leaves_gaps_that_no_dialogue_bridges(tmp_path: Path) -> None:
    root = meld(tmp_path / "MELD.Raw", "A0:sadness B1:disgust A2 B3 A4:joy")
    prepare("meld", root, tmp_path / "meld.jsonl", protocol="blsp-emo", options={"min_words": 1})
    with pytest.raises(RellmError, match="without --protocol"):
        write_dialogues(tmp_path / "meld.jsonl", tmp_path / "d.jsonl")


def test_dialogues_of_iemocap_in_its_layout(tmp_path: Path) -> None:
    labels, words = [], []
    for number, who in enumerate(("Fneu", "Mxxx", "Fang", "Mneu", "Fsad")):
        actor, key = who[0], f"Ses05F_impro01_{who[0]}{number:03}"
        labels.append(f"[{number}.0 - {number}.9]\t{key}\t{who[1:]}\t[2.5, 2.5, 2.5]\n")
        words.append(f"{key} [{number}.0-{number}.9]: words of {actor}{number}")
        wave = tmp_path / "IEMOCAP" / "Session5" / "sentences" / "wav" / "Ses05F_impro01" / f"{key}.wav"
        wave.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wave, np.sin(np.arange(16_000) / 9), 16_000)
    dialog = tmp_path / "IEMOCAP" / "Session5" / "dialog"
    for folder, lines in (("EmoEvaluation", labels), ("transcriptions", words)):
        (dialog / folder).mkdir(parents=True)
        (dialog / folder / "Ses05F_impro01.txt").write_text("\n".join(lines) + "\n")
    prepare("iemocap", tmp_path / "IEMOCAP", tmp_path / "iemocap.jsonl")
    write_dialogues(tmp_path / "iemocap.jsonl", tmp_path / "d.jsonl")
    (row,) = read_records(tmp_path / "d.jsonl", Utterance)
    assert (row.split, row.emotion, first_emotion(row.history)) == ("test", "sad", "neutral")
    assert [each.role for each in row.history] == ["user", "assistant"] * 2
