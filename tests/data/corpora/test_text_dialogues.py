"""Dialogues that come as text, and EmotionTalk: fixtures in the layout of each release."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data import corpora

ED = """conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags
hit:0_conv:1,1,afraid,I heard steps_comma_ late.,1,I heard steps_comma_ late at night.,5|5|5_2|2|5,
hit:0_conv:1,2,afraid,I heard steps_comma_ late.,0,Were you alone?,5|5|5_2|2|5,
hit:0_conv:1,3,afraid,I heard steps_comma_ late.,1,Yes. I was.,5|5|5_2|2|5,,
hit:1_conv:3,1,proud,My son won.,7,My son won!,5|5|5_2|2|5,<HI>
hit:1_conv:3,2,proud
"""


def rows(path: Path) -> list[Utterance]:
    return list(read_records(path, Utterance))


def test_empathetic_dialogues(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.csv").write_text(ED.replace("hit:", f"{part}:"))
    out = tmp_path / "out" / "manifest.jsonl"
    report = corpora.prepare("empathetic_dialogues", tmp_path, out)
    assert report.by_split == {"train": 3, "dev": 3, "test": 3}
    assert [(each.file, each.line) for each in report.problems] == [("test.csv", 6), ("train.csv", 6), ("valid.csv", 6)]
    first, second, other = rows(out)[:3]
    assert (first.text, first.history, first.audio) == ("I heard steps, late at night.", None, "")
    assert (second.emotion, second.label_set, second.turn) == ("afraid", "empathetic_dialogues", 2)
    assert [(e.role, e.text) for e in second.history or []] == [
        ("user", "I heard steps, late at night."), ("assistant", "Were you alone?"),
    ]  # fmt: skip
    assert other.emotion == "proud" and (other.model_extra or {})["situation"] == "My son won."
    before = out.read_bytes()
    assert corpora.prepare("empathetic_dialogues", tmp_path, out).skipped and out.read_bytes() == before


@pytest.mark.parametrize("form", [("seeker", "supporter", "content"), ("usr", "sys", "text")])
def test_esconv_in_both_forms(tmp_path: Path, form: tuple[str, str, str]) -> None:
    seeker, supporter, text = form
    dialog = [
        (supporter, "Hello."),
        (seeker, "Hi."),
        (seeker, "I lost my job."),
        (supporter, " Oh. \n"),
        (seeker, "Yes."),
    ]
    found = [
        {"emotion_type": emotion, "problem_type": "job crisis", "situation": "Fired.",
         "dialog": [{"speaker": who, text: said} for who, said in dialog]}
        for emotion in ("sadness", "shame")
    ] + [{"dialog": []}]  # fmt: skip
    (tmp_path / "ESConv.json").write_text(json.dumps(found))
    report = corpora.prepare("esconv", tmp_path, tmp_path / "m.jsonl")
    assert report.dropped == {"a turn before the user's first": 2} and len(report.problems) == 1
    first, second, shame, _ = rows(tmp_path / "m.jsonl")
    assert (first.text, first.emotion, first.history) == ("Hi. I lost my job.", "sad", None)
    assert [(e.role, e.text) for e in second.history or []] == [("user", "Hi. I lost my job."), ("assistant", "Oh.")]
    assert (shame.emotion, shame.emotion_raw) == (None, "shame")


def test_reccon(tmp_path: Path) -> None:
    said = [
        {"turn": 1, "speaker": "A", "utterance": "Dessert !", "emotion": "neutral"},
        {"turn": 2, "speaker": "B", "utterance": "Always .", "emotion": "happiness",
         "expanded emotion cause evidence": [1], "type": ["no-context"]},
        {"turn": 3, "speaker": "A", "utterance": "Good !", "emotion": "happiness"},
    ]  # fmt: skip
    (tmp_path / "dailydialog_test.json").write_text(json.dumps({"te_1": [said], "te_2": [[{"turn": 1}]]}))
    report = corpora.prepare("reccon", tmp_path, tmp_path / "m.jsonl")
    assert len(report.problems) == 1 and report.by_split == {"test": 2}
    assert [(row.text, row.emotion) for row in rows(tmp_path / "m.jsonl")] == [
        ("Dessert !", "neutral"),
        ("Good !", "happy"),
    ]
    (tmp_path / "dailydialog_test.json").write_text("[]")
    with pytest.raises(RellmError, match="no conversations"):
        corpora.prepare("reccon", tmp_path, tmp_path / "other.jsonl")


def test_task3_of_humdial_eibench_keeps_the_turn_that_is_judged(tmp_path: Path) -> None:
    turns = [
        {
            "input_emotion": emotion,
            "input_text": f"Turn {n}.",
            "response_text": f"Reply {n}.",
            "response_audio": "x.wav",
        }
        for n, emotion in enumerate(("neutral", "sad", "happy", "angry"))
    ]
    file = tmp_path / "task3.jsonl"
    file.write_text(json.dumps({"dialogue_id": "sample_001", "turns": turns}) + "\n")
    corpora.prepare("humdial_eibench", file, tmp_path / "all.jsonl")
    assert len(rows(tmp_path / "all.jsonl")) == 4
    report = corpora.prepare("humdial_eibench", file, tmp_path / "m.jsonl", protocol="task3")
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.emotion, len(row.history or [])) == ("Turn 2.", "happy", 4)
    assert report.dropped == {"not the turn that is judged": 3}


def test_emotiontalk(tmp_path: Path, recording) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "EmotionTalk" / "Audio"
    for name, emotion in (("G00001_02_001", "happy"), ("G00001_02_002", "disgusted"), ("G00001_02_003", "wistful")):
        place = folder / "json" / "G00001" / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "data": [],
            "emotion_result": emotion,
            "speaker_id": "02",
            "content": "你好",
            "file_name": f"G00001/{name}.wav",
        }
        place.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        if emotion != "wistful":
            sound = folder / "wav" / "G00001" / f"{name}.wav"
            sound.parent.mkdir(parents=True, exist_ok=True)
            recording(f"{name}.wav").rename(sound)
    report = corpora.prepare("emotiontalk", folder.parent, tmp_path / "m.jsonl")
    assert [(r.text, r.emotion, r.speaker) for r in rows(tmp_path / "m.jsonl")] == [
        ("你好", "happy", "02"), ("你好", "disgust", "02"),
    ]  # fmt: skip
    assert len(report.problems) == 2  # an unknown label, and a recording that is missing


def test_text_is_no_speech(tmp_path: Path) -> None:
    """A speech system lists the rows as dropped, with the reason."""
    (tmp_path / "ESConv.json").write_text(
        json.dumps([{"emotion_type": "anger", "dialog": [{"speaker": "seeker", "content": "No."}]}])
    )
    manifest, out = tmp_path / "m.jsonl", tmp_path / "replies.jsonl"
    assert (
        CliRunner().invoke(app, ["prepare", "esconv", "--root", str(tmp_path), "--out", str(manifest)]).exit_code == 0
    )
    found = CliRunner().invoke(app, ["respond", str(manifest), "--model", "mini:re-llm", "--out", str(out)])
    assert "could not be used" in found.output, found.output
    assert "text without a recording" in out.with_suffix(".dropped.jsonl").read_text()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "transcription",
            {"text": "transcription", "emotion": "implicit_emotion", "words_emotion": "explicit_emotion"},
        ),
        ("prompt", {"text": "prompt"}),
    ],
)
def test_listen_and_voicebench_are_read_as_datasets(tmp_path: Path, text: str, options: dict[str, str]) -> None:
    """The columns of their dataset cards, as in docs/corpora.md."""
    pytest.importorskip("datasets")
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    sound = BytesIO()
    soundfile.write(sound, 0.1 * np.sin(np.arange(16_000)), 16_000, format="WAV")
    columns = {text: ["I am fine."], "audio": [{"bytes": sound.getvalue(), "path": None}]}
    if "emotion" in options:
        columns |= {"id": ["a"], "implicit_emotion": ["sadness"], "explicit_emotion": ["happiness"]}
    kinds = {name: {"_type": "Audio"} if name == "audio" else {"_type": "Value", "dtype": "string"} for name in columns}
    about = {"huggingface": json.dumps({"info": {"features": kinds}})}
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata(about)
    pq.write_table(table, tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    corpora.prepare(
        "hf", tmp_path / "set", tmp_path / "m.jsonl", options={**options, "extract": str(tmp_path / "sounds")}
    )
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.split, row.duration) == ("I am fine.", "test", 1.0)
    both = ("sad", "happy") if "emotion" in options else (None, None)
    assert (row.emotion, row.words_emotion) == both
