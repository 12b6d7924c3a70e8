"""Benchmarks of others and the corpora beside them: fixtures in the layout of each release, with its oddities."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from corpus_worlds import prepare, sound, write
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Score, Utterance, read_records

CPED = """TV_ID,Dialogue_ID,Utterance_ID,Speaker,Gender,Age,Neuroticism,Extraversion,Openness,Agreeableness,\
Conscientiousness,Scene,FacePosition_LU,FacePosition_RD,Sentiment,Emotion,DA,Utterance
27,27_000,27_000_000,林风,female,young,low,high,high,high,high,car,488_14,654_204,positive,grateful,thanking,多谢你呀
27,27_000,27_000_001,林风,female,young,low,high,high,high,high,car,481_47,613_244,negative,depress,question,车坏了 完了
27,27_000,27_000_002,周海,male,young,high,low,high,high,high,car,129_41,304_264,neutral,neutral,answer,我看看
27,27_000,27_000_003,林风,female,young,low,high,high,high,high,car,420_29,594_204,negative,astonished,question,你会修
27,27_001,27_001_000,其他,unknown,unknown,unknown,unknown,unknown,unknown,unknown,home,0_0,0_0,negative,gloomy,other,喂
27,27_001,27_001_001,其他
"""


def rows(path: Path) -> list[Utterance]:
    return list(read_records(path, Utterance))


def extra(row: Utterance) -> dict[str, object]:
    return row.model_extra or {}


def test_cped(tmp_path: Path) -> None:
    for part, series in (("train", "1"), ("test", "27")):
        write(tmp_path / "CPED" / f"{part}_split.csv", CPED.replace("27_", f"{series}_"), "utf-8-sig")
    report = prepare("cped", tmp_path / "CPED", tmp_path / "m.jsonl")
    assert report.by_split == {"train": 3, "test": 3}
    assert [(found.file, found.line) for found in report.problems] == [
        ("test_split.csv", 6), ("test_split.csv", 7), ("train_split.csv", 6), ("train_split.csv", 7),
        ("valid_split.csv", None),
    ]  # fmt: skip
    first, second, other = rows(tmp_path / "m.jsonl")[:3]
    assert (first.text, first.emotion, first.emotion_raw) == ("多谢你呀 车坏了 完了", "sad", "depress")
    assert (second.emotion, second.speaker, second.language) == ("surprise", "林风", "zh")
    assert [(each.role, each.text) for each in second.history or []] == [
        ("user", "多谢你呀 车坏了 完了"), ("assistant", "我看看"),
    ]  # fmt: skip
    assert extra(first) == {"gender": "female", "age": "young"} and extra(other) == {}
    assert (other.text, other.emotion, other.emotion_raw) == ("喂", None, "gloomy")


def dialogue(folder: Path, name: str, turns: list[tuple[str, str, str]], voices: list[str]) -> None:
    """A dialogue of DeepDialogue: (speaker, text, emotion) of its turns, and the emotions of the voices."""
    about = {
        "domain": name.split("_")[0], "timestamp": "2025-03-18 09:45:36", "model1": "/hub/a", "model2": "/hub/b",
        "conversation": [{"speaker": who, "text": text, "emotion": emotion} for who, text, emotion in turns],
    }  # fmt: skip
    write(folder / f"{name}.json", json.dumps(about, indent=2))
    sound(folder / name / f"{name}_full.wav")
    for number, ((who, *_), voice) in enumerate(zip(turns, voices, strict=False), start=1):
        sound(folder / name / "segments" / f"{number:03}_{who}_{voice}.wav")


def test_deepdialogue(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "dialogues_qwen2.5-72B"
    turns = [("LLM1", "Look at this kiln!", "excited"), ("LLM2", "Is it hot?", "curious"), ("LLM1", "Very.", "calm")]
    dialogue(folder, "art_22_3", turns, ["happy", "surprised", "calm"])
    dialogue(folder, "art_22_4", turns, ["fearful"])
    write(folder / "art_9_9.json", '{"domain": "art"}')
    report = prepare("deepdialogue", tmp_path / "data", tmp_path / "m.jsonl")
    found = rows(tmp_path / "m.jsonl")
    assert [row.emotion for row in found] == ["happy", "surprise", "calm", "fear"]
    assert (found[1].text, found[1].speaker, found[1].turn) == (
        "Is it hot?", "dialogues_qwen2.5-72B-art_22_3-LLM2", 2,
    )  # fmt: skip
    assert found[0].dialogue == found[2].dialogue != found[3].dialogue and found[1].emotion_raw == "surprised"
    assert extra(found[1]) == {"dialogue_emotion": "curious", "domain": "art"}
    assert [problem.what for problem in report.problems] == [
        "no recording 002_LLM2_*", "no recording 003_LLM1_*", "KeyError 'conversation'",
    ]  # fmt: skip
    for part, name in (("train", "001_LLM1_happy"), ("val", "002_LLM2_surprised"), ("test", "003_LLM1_calm")):
        line = f"dialogues_qwen2.5-72B/art_22_3/segments/{name}.wav,{name.split('_')[2]}"
        write(tmp_path / "ser" / f"{part}.csv", f"segment_id,emotion\n{line}\n")
    options = {"splits": str(tmp_path / "ser")}
    split = prepare("deepdialogue", tmp_path / "data", tmp_path / "s.jsonl", options=options)
    assert split.by_split == {"train": 1, "dev": 1, "test": 1} and split.dropped == {"not in the tables of `splits`": 1}


def test_the_dialogues_of_deepdialogue_are_cut_as_any_others(tmp_path: Path) -> None:
    from re_llm.data.dialogues import write_dialogues

    turns = [("LLM1", "The kiln cracked.", "sad"), ("LLM2", "Oh no.", "sad"), ("LLM1", "It is fine.", "happy")]
    dialogue(tmp_path / "data" / "dialogues_a", "art_1_3", turns, ["sad", "sad", "happy"])
    prepare("deepdialogue", tmp_path / "data", tmp_path / "m.jsonl")
    write_dialogues(tmp_path / "m.jsonl", tmp_path / "d.jsonl", turns=2)
    (row,) = rows(tmp_path / "d.jsonl")
    assert (row.text, row.emotion) == ("It is fine.", "happy")
    assert [(each.role, each.emotion) for each in row.history or []] == [("user", "sad"), ("assistant", "sad")]


def test_omg_empathy(tmp_path: Path) -> None:
    root = tmp_path / "OMG"
    valence = ["valence", *["0.5"] * 250, *["-1"] * 50, *["0"] * 10]
    write(root / "Training" / "Annotations" / "Subject_3_Story_2.csv", "\n".join(valence))
    write(root / "Training" / "Videos" / "Subject_3_Story_2.mp4", "the recording beside it is taken")
    sound(root / "Training" / "Audios" / "Subject_3_Story_2.mp4.wav", 12.5)
    write(root / "Validation" / "Annotations" / "Subject_3_Story_1.csv", "valence\n" + "0.1\nhigh\n" * 30)
    write(root / "Validation" / "Annotations" / "notes.csv", "valence\n0\n")
    write(root / "Validation" / "Annotations" / "Subject_4_Story_1.csv", "valence\n0\n")
    sound(root / "Validation" / "Videos" / "Subject_3_Story_1.wav", 2.4)
    report = prepare("omg_empathy", root, tmp_path / "m.jsonl")
    first, second, other = rows(tmp_path / "m.jsonl")
    assert (first.valence, first.start, first.duration, first.split) == (0.75, 0.0, 10.0, "train")
    assert (second.start, second.duration) == (10.0, 2.4)
    assert second.valence == pytest.approx((50 * 0.0 + 10 * 0.5) / 60)
    assert (second.speaker, extra(second), second.vad_source) == (
        "Subject_3", {"story": "Story_2", "vad_range": [-1.0, 1.0]}, "annotated",
    )  # fmt: skip
    assert (other.split, other.valence, other.arousal) == ("dev", pytest.approx(0.55), None)
    lines = [found.line for found in report.problems if found.what == "valence 'high' is no number"]
    assert lines == list(range(3, 62, 2))
    assert {found.what for found in report.problems[30:]} == {
        "the name is not Subject_N_Story_N", "no recording Subject_4_Story_1",
    }  # fmt: skip
    half = prepare("omg_empathy", root, tmp_path / "h.jsonl", options={"window": 5})
    assert half.rows == 4 and half.dropped == {}
    with pytest.raises(RellmError, match=r"window=0\.5"):
        prepare("omg_empathy", root, tmp_path / "x.jsonl", options={"window": 0.5})


def test_omg_empathy_rejects_a_rating_off_its_scale(tmp_path: Path) -> None:
    write(tmp_path / "Test" / "Annotations" / "Subject_1_Story_3.csv", "valence\n" + "1.5\n" * 30)
    sound(tmp_path / "Test" / "Videos" / "Subject_1_Story_3.wav", 1.2)
    report = prepare("omg_empathy", tmp_path, tmp_path / "out" / "m.jsonl")
    (row,) = rows(tmp_path / "out" / "m.jsonl")
    assert (row.split, row.valence) == ("test", None) and "1.5 is outside" in report.problems[0].what


def test_echat(tmp_path: Path) -> None:
    sound(tmp_path / "data" / "wav" / "a.wav", 2.0)
    chat = "<S2TCHAT> <TEXT2TOKEN> <THINK>"
    about = {"age": "<ADULT>", "gender": "<FEMALE>", "think_str": "...", "question": "我的伞丢了", "speech_token": [1]}
    lines = [
        {"key": "1_a", "txt": "<SAD>别着急。", "wav": "./wav/a.wav", "extra": about, "task": chat},
        {"key": "1_b", "txt": "好的。", "wav": "wav/a.wav", "start": 0.5, "end": 1.5,
         "extra": json.dumps(about | {"gender": "<NONE>"}), "task": "<S2TCHAT>"},
        {"key": "1_c", "txt": "你好", "wav": "wav/a.wav", "extra": {}, "task": "<TRANSCRIBE>"},
        {"key": "1_d", "txt": "你好", "wav": "wav/a.wav", "extra": {}, "task": chat},
        {"key": "1_e", "txt": "你好", "wav": "wav/a.wav", "extra": "{", "task": chat},
    ]  # fmt: skip
    file = write(tmp_path / "data" / "data.list", "\n".join(json.dumps(line) for line in lines))
    report = prepare("echat", file, tmp_path / "m.jsonl", options={"default_split": "test"})
    first, second = rows(tmp_path / "m.jsonl")
    assert (first.key, first.text, first.reference) == ("echat-1_a", "我的伞丢了", "别着急。")
    assert (first.split, first.language, first.emotion, extra(first)) == ("test", "zh", None, {"gender": "female"})
    assert (second.start, second.duration, second.reference, extra(second)) == (0.5, 1.0, "好的。", {"gender": "none"})
    assert report.dropped == {"task <TRANSCRIBE>": 1}
    assert [(found.file, found.line) for found in report.problems] == [("data.list", 4), ("data.list", 5)]


def echomind(root: Path) -> Path:
    """Two cases, one of a sad voice and one of a speaker's age, which has no neutral voice."""
    cases = []
    for name, conveyed, folder, voices in (
        ("id_854", "sad-toned expressive voice", "sad", ("target", "neutral", "alternative")),
        ("id_355", "elderly", "elderly", ("target", "alternative")),
    ):
        case: dict[str, object] = {"case_id": name, "topic": "school", "spoken_info": conveyed, "words": "I am home."}
        for voice in voices:
            place = f"{folder}/{name}_{folder}_school_{voice}.wav"
            case[f"{voice}_audio_info"] = {f"{voice}_input_audio_file": place}
            sound(root / "audio" / place)
        cases.append(case)
    write(root / "script_info_synthesis.json", json.dumps([*cases, {"case_id": "id_1"}], indent=4))
    return root


def test_echomind(tmp_path: Path) -> None:
    root = echomind(tmp_path / "data_synthesis")
    report = prepare("echomind", root, tmp_path / "m.jsonl", options={"text": "words"})
    found = {row.key: row for row in rows(tmp_path / "m.jsonl")}
    assert {key: row.emotion for key, row in found.items()} == {
        "echomind-id_854-target": "sad", "echomind-id_854-neutral": "neutral", "echomind-id_854-alternative": None,
        "echomind-id_355-target": None, "echomind-id_355-alternative": None,
    }  # fmt: skip
    elderly = found["echomind-id_355-target"]
    assert (elderly.emotion_raw, elderly.text, elderly.split) == ("elderly", "I am home.", "test")
    assert extra(elderly) == {"voice": "target", "topic": "school"}
    assert report.dropped == {"no neutral voice": 1}
    assert [problem.what for problem in report.problems] == ["case 2: KeyError 'spoken_info'"]
    prepare("echomind", root, tmp_path / "t.jsonl", options={"voices": "target"})
    assert [row.text for row in rows(tmp_path / "t.jsonl")] == [None, None]
    told = prepare("echomind", root, tmp_path / "u.jsonl", options={"text": "script"})
    without = [problem.what for problem in told.problems if "without 'script'" in problem.what]
    assert without == ["cases without 'script', the field that the option text names"]
    with pytest.raises(RellmError, match="voices=loud"):
        prepare("echomind", root, tmp_path / "v.jsonl", options={"voices": "loud"})


def parquet(folder: Path, columns: dict[str, list[object]], audio: str = "audio", part: str = "test") -> Path:
    """A dataset of Hugging Face with recordings in the column `audio`, as bytes."""
    pytest.importorskip("datasets")
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile

    size = len(next(iter(columns.values())))
    sounds = []
    for number in range(size):
        data = BytesIO()
        soundfile.write(data, 0.1 * np.sin((0.1 + 0.01 * number) * np.arange(16_000)), 16_000, format="WAV")
        sounds.append({"bytes": data.getvalue(), "path": None})
    table = pa.table({**columns, audio: sounds})
    kinds = {n: {"_type": "Audio"} if n == audio else {"_type": "Value", "dtype": "string"} for n in table.column_names}
    (folder / "data").mkdir(parents=True)
    about = {"huggingface": json.dumps({"info": {"features": kinds}})}
    pq.write_table(table.replace_schema_metadata(about), folder / "data" / f"{part}-00000-of-00001.parquet")
    return folder


def test_emonet_voice(tmp_path: Path) -> None:
    labels: list[object] = [
        "[{'human-1': {'Sadness': 1}}, {'human-4': {'Sadness': 2}}]",
        "[{'human-1': {'Astonishment': 2}}, {'human-2': {'Astonishment': 0}}]",
        "[{'human-1': {'Impatience%20and%20Irritability': 1}}, {'human-3': {'Impatience%20and%20Irritability': 1}}]",
        "[{'human-1': {'Shame': 1}}, {'human-4': {'Pride': 2}}]",
        "[{'human-1': {'Shame': 3}}]",
        "__import__('os')",
    ]
    root = parquet(tmp_path / "emonet-voice-bench", {"label": labels}, "audioId", "train")
    options: dict[str, object] = {"extract": str(tmp_path / "sounds")}
    report = prepare("emonet_voice", root, tmp_path / "m.jsonl", options=options)
    assert [(row.emotion, row.emotion_raw, row.split) for row in rows(tmp_path / "m.jsonl")] == [
        ("sad", "Sadness", "test"), (None, "Astonishment", "test"), (None, "Impatience and Irritability", "test"),
    ]  # fmt: skip
    assert extra(rows(tmp_path / "m.jsonl")[0])["ratings"] == {"human-1": 1, "human-4": 2}
    assert [found.line for found in report.problems] == [3, 4, 5]
    agreed = prepare("emonet_voice", root, tmp_path / "a.jsonl", protocol="agreed", options=options)
    assert agreed.rows == 2 and agreed.dropped == {"an expert did not hear the emotion": 1}
    own = {**options, "label_set": "sadness,impatience and irritability"}
    prepare("emonet_voice", root, tmp_path / "o.jsonl", protocol="agreed", options=own)
    assert [row.emotion for row in rows(tmp_path / "o.jsonl")] == ["sadness", "impatience and irritability"]


def test_the_reference_of_a_benchmark_stays_in_its_row(tmp_path: Path) -> None:
    """VoiceBench's openbookqa, by the columns of its dataset card."""
    columns: dict[str, list[object]] = {"prompt": ["Which is a metal? A. iron B. wood"], "reference": ["A"]}
    root = parquet(tmp_path / "openbookqa", columns)
    options = {"text": "prompt", "extract": str(tmp_path / "sounds")}
    prepare("hf", root, tmp_path / "m.jsonl", options=options)
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row.text, row.reference, row.split) == ("Which is a metal? A. iron B. wood", "A", "test")


def choices(folder: Path) -> tuple[str, Path, dict[str, str]]:
    questions: list[object] = [f"What is number {n}? A. iron B. wood C. glass D. wool" for n in range(3)]
    references: list[object] = ["A", "B", "C"]
    root = parquet(folder / "openbookqa", {"prompt": questions, "reference": references})
    return "hf", root, {"text": "prompt", "extract": str(folder / "sounds")}


def written_replies(folder: Path) -> tuple[str, Path, dict[str, str]]:
    sound(folder / "wav" / "a.wav", 1.5)
    line = {"key": "1", "txt": "Oh no, I am sorry.", "wav": "wav/a.wav", "extra": {"question": "It broke."}}
    file = write(folder / "data.list", json.dumps({**line, "task": "<S2TCHAT>"}))
    return "echat", file, {"default_language": "en"}


def cases(folder: Path) -> tuple[str, Path, dict[str, str]]:
    return "echomind", echomind(folder / "data_synthesis"), {"text": "words"}


def listeners(folder: Path) -> tuple[str, Path, dict[str, str]]:
    valence = [str(round(0.01 * frame % 1, 2)) for frame in range(100)]
    write(folder / "Validation" / "Annotations" / "Subject_1_Story_1.csv", "\n".join(["valence", *valence]))
    sound(folder / "Validation" / "Videos" / "Subject_1_Story_1.wav", 4.0)
    return "omg_empathy", folder, {"window": "1"}


def ratings(folder: Path) -> tuple[str, Path, dict[str, str]]:
    heard: list[object] = [f"[{{'human-1': {{'{name}': 2}}}}]" for name in ("Sadness", "Anger", "Elation")]
    root = parquet(folder / "emonet-voice-bench", {"label": heard}, "audioId", "train")
    return "emonet_voice", root, {"extract": str(folder / "sounds")}


@pytest.mark.parametrize(
    ("world", "metrics"),
    [
        (choices, {"CHOICE"}),
        (written_replies, {"ROUGE_L", "ER"}),
        (cases, {"UA", "ER", "EX"}),
        (listeners, {"CCC_VALENCE"}),
        (ratings, {"UA", "HEAD_UA"}),
    ],
)
def test_from_the_files_of_a_benchmark_to_its_figures(
    world: Callable[[Path], tuple[str, Path, dict[str, str]]], metrics: set[str], tmp_path: Path
) -> None:
    """The commands of docs/corpora.md, with the miniature; killed after the first replies, they go on."""
    name, root, options = world(tmp_path / "world")
    manifest, replies, scores = (tmp_path / f"{stage}.jsonl" for stage in ("manifest", "replies", "scores"))
    given = [part for option, value in options.items() for part in ("--option", f"{option}={value}")]
    model = ["--model", "mini:re-llm", "--recognize", "--max-new-tokens", "12", "--out", str(replies)]
    for command in (
        ["prepare", name, "--root", str(root), *given, "--out", str(manifest)],
        ["prepare", "check", str(manifest)],
        ["respond", str(manifest), *model],
        ["score", str(replies), "--out", str(scores)],
        ["report", str(scores), "--replies", str(replies), "--out", str(tmp_path / "report"), "--format", "json"],
    ):
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, (command, found.output)
    every = list(read_records(scores, Score))
    assert metrics <= {row.metric for row in every if row.key == "*"}
    answered = list(read_records(replies, ReplyRecord))
    assert [(row.key, row.reference) for row in answered] == [(row.key, row.reference) for row in rows(manifest)]
    replies.write_bytes(replies.read_bytes().splitlines(keepends=True)[0])
    again = CliRunner().invoke(app, ["respond", str(manifest), *model])
    # The rest is answered in a batch of its own, whose last digits may be others.
    kept = list(read_records(replies, ReplyRecord))
    assert again.exit_code == 0 and [row.key for row in kept] == [row.key for row in answered], again.output
    assert kept[0] == answered[0] and all(row.response for row in kept)
