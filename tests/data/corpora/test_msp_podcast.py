"""MSP-Podcast: three generations of label files, the random sample of RE-LLM."""

import json
from pathlib import Path

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records

SMALL = {"train": 3, "test": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.msp_podcast(tmp_path_factory.mktemp("msp"))


def rows(root: Path, out: Path, **kwargs) -> list[Utterance]:
    report = prepare("msp_podcast", root, out, hash=False, **kwargs)
    assert report.problems == []
    return list(read_records(out, Utterance))


def test_everything(root, tmp_path):
    found = rows(root, tmp_path / "m.jsonl")
    assert len(found) == 24 and {u.split for u in found} == {"train", "dev", "test1"}
    assert found[1].speaker is None and found[2].speaker == "32"
    assert [u.emotion for u in found if u.emotion_raw == "X"] == [None, None]
    assert found[6].arousal == 1.0 - 1.0 * (6 % 7 != 6), "the scale is 1..7"
    assert found[6].valence == 0.5 and found[6].dominance == 0.25
    assert found[0].text == "and then story number 0 went on" and found[0].model_extra["gender"] == "male"


def test_sample_is_repeatable_and_of_the_wanted_size(root, tmp_path):
    first = [u.key for u in rows(root, tmp_path / "a.jsonl", protocol="re-llm", options=SMALL)]
    again = [u.key for u in rows(root, tmp_path / "b.jsonl", protocol="re-llm", options=SMALL)]
    other = [u.key for u in rows(root, tmp_path / "c.jsonl", protocol="re-llm", options=SMALL, seed=5)]
    assert len(first) == 5 and first == again and first != other
    found = list(read_records(tmp_path / "a.jsonl", Utterance))
    assert [u.split for u in found].count("test") == 2
    assert {u.emotion for u in found} <= {"neutral", "happy", "angry", "sad"}


def test_a_sample_larger_than_the_corpus_is_refused(root, tmp_path):
    with pytest.raises(RellmError, match="4290 utterances of train, but there are"):
        prepare("msp_podcast", root, tmp_path / "m.jsonl", protocol="re-llm")


def relabelled(root: Path, folder: Path) -> Path:
    """The same corpus with an empty label folder."""
    folder.mkdir()
    (folder / "Labels").mkdir()
    (folder / "Audio").symlink_to(root / "Audios")
    (folder / "Transcripts").symlink_to(root / "Transcripts")
    return folder


def test_older_json_and_text_labels_say_the_same(root, tmp_path):
    wanted = [(u.key, u.emotion, u.split, u.speaker, u.valence) for u in rows(root, tmp_path / "m.jsonl")]
    table = worlds.msp_rows()

    older = relabelled(root, tmp_path / "json")
    by_name = {row["FileName"]: {k: v for k, v in row.items() if k != "FileName"} for row in table}
    worlds.write(older / "Labels/labels_concensus.json", json.dumps(by_name))
    found = rows(older, tmp_path / "j.jsonl")
    assert [(u.key, u.emotion, u.split, u.speaker, u.valence) for u in found] == wanted

    oldest = relabelled(root, tmp_path / "text")
    lines = []
    for row in table:
        ratings = f"A:{row['EmoAct']}; V:{row['EmoVal']}; D:{row['EmoDom']};"
        lines += [
            f"{row['FileName']}; {row['EmoClass']}; {ratings}",
            "WORKER00001; Neutral; Neutral,Concerned; A:4; V:4; D:4;",
            "",
        ]
    worlds.write(oldest / "Labels/Labels.txt", "\n".join(lines))
    worlds.write(oldest / "Labels/Speaker_ids.txt", "\n".join(f"{r['FileName']}; {r['SpkrID']}" for r in table))
    worlds.write(oldest / "Labels/Partitions.txt", "\n".join(f"{r['Split_Set']}; {r['FileName']}" for r in table))
    found = rows(oldest, tmp_path / "t.jsonl")
    assert [(u.key, u.emotion, u.split, u.speaker, u.valence) for u in found] == wanted


def test_broken_rows_are_listed(tmp_path):
    root = worlds.msp_podcast(tmp_path / "msp")
    table = root / "Labels/labels_consensus.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace("Train", "Test9")
    lines[2] = lines[2].replace("4.0", "four")
    lines[3] += ",surplus"
    lines[4] = lines[4].replace(",H,", ",Q,")
    table.write_text("\n".join(lines) + "\n")
    (root / "Transcripts/MSP-PODCAST_0001_0010.txt").unlink()
    report = prepare("msp_podcast", root, tmp_path / "m.jsonl")
    assert report.rows == 21
    lines_told = {p.line: p.what for p in report.problems if p.file.endswith(".csv")}
    assert set(lines_told) == {2, 3, 4, 5} and "'Q'" in lines_told[5] and "'Test9'" in lines_told[2]
    assert [p.what for p in report.problems if p.file.endswith(".txt")] == ["the transcript is missing"]


def test_recordings_without_a_label_are_counted(tmp_path):
    root = worlds.msp_podcast(tmp_path / "msp")
    worlds.sound(root / "Audios/MSP-PODCAST_test3_0001.wav")
    report = prepare("msp_podcast", root, tmp_path / "m.jsonl", protocol="re-llm", options=SMALL, strict=True)
    (why,) = (why for why in report.dropped if "without a row" in why)
    assert report.dropped[why] == 1 and "MSP-PODCAST_test3_0001.wav" in why


def test_a_table_without_a_column_names_it(tmp_path):
    root = worlds.msp_podcast(tmp_path / "msp")
    table = root / "Labels/labels_consensus.csv"
    table.write_text(table.read_text().replace("EmoDom", "Dominance"))
    with pytest.raises(RellmError, match=r"labels_consensus.csv:1: no column EmoDom"):
        prepare("msp_podcast", root, tmp_path / "m.jsonl")
