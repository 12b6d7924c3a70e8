"""ESD in its genuine layout: encodings, lost tabs, Chinese labels, and splits by sentence."""

import hashlib
from pathlib import Path

import corpus_worlds as worlds
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records
from re_llm.data.corpora import esd


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.esd(tmp_path_factory.mktemp("esd"))


def rows(root: Path, out: Path, protocol: str | None = None, **kwargs) -> list[Utterance]:
    report = prepare("esd", root, out, protocol=protocol, hash=False, **kwargs)
    assert report.problems == []
    return list(read_records(out, Utterance))


def test_every_encoding_is_read(root, tmp_path):
    found = {u.key: u for u in rows(root, tmp_path / "m.jsonl")}
    assert len(found) == 250
    assert found["esd-0001_000351"].text == "第0只小猫在屋顶上睡觉。"
    for speaker in ("0011", "0012", "0016", "0018"):
        assert found[f"esd-{speaker}_000004"].text == "Café number 3 opens at nine.", speaker
    assert found["esd-0001_001401"].emotion == "surprise" and found["esd-0001_001401"].language == "zh"


@pytest.mark.parametrize("protocol", ["re-llm", "speaker-independent", "mini"])
def test_no_sentence_is_on_both_sides(root, tmp_path, protocol):
    found = rows(root, tmp_path / "m.jsonl", protocol)
    sides = {side: {u.model_extra["sentence"] for u in found if u.split == side} for side in ("train", "test")}
    assert sides["train"] and sides["test"] and not sides["train"] & sides["test"]
    for side in sides:
        emotions = [u.emotion for u in found if u.split == side]
        assert len({emotions.count(e) for e in ("neutral", "angry", "happy", "sad")}) == 1, "balanced"
    assert {u.language for u in found} == {"en"} and "surprise" not in {u.emotion for u in found}
    if protocol != "re-llm":
        assert {u.speaker for u in found if u.split == "test"} == {"0018"}
        assert "0018" not in {u.speaker for u in found if u.split == "train"}


def test_seventy_to_thirty_of_the_full_corpus():
    test = esd.test_sentences(set(range(350)), "re-llm", seed=0)
    assert len(test) == 105 and test != esd.test_sentences(set(range(350)), "re-llm", seed=1)
    # The published split: it must never change.
    assert hashlib.sha256(repr(sorted(test)).encode()).hexdigest()[:16] == "4127ff3a0d63832d"
    assert sorted(test)[:8] == [1, 9, 10, 13, 19, 22, 23, 24]


def test_mini_takes_the_last_sentences(root, tmp_path):
    found = rows(root, tmp_path / "m.jsonl", "mini")
    assert {u.model_extra["sentence"] for u in found if u.split == "test"} == {"en-007", "en-008", "en-009"}


def test_five_emotions_and_other_test_speakers(root, tmp_path):
    options = {"emotions": "5", "test_speakers": "0011,0012"}
    found = rows(root, tmp_path / "m.jsonl", "mini", options=options)
    assert {u.speaker for u in found if u.split == "test"} == {"0011", "0012"}
    assert "surprise" in {u.emotion for u in found}


def test_what_is_left_out_is_counted(root, tmp_path):
    report = prepare("esd", root, tmp_path / "m.jsonl", protocol="speaker-independent", hash=False)
    assert report.rows + sum(report.dropped.values()) == 250
    assert report.dropped["language zh"] == 50


def test_same_words_under_another_number_do_not_leak(tmp_path):
    root = worlds.esd(tmp_path / "esd", sentences=5)
    for listing in root.glob("001?/001?.txt"):
        encoding = worlds.ESD_ENCODINGS[listing.parent.name]
        text = listing.read_bytes().decode(encoding)
        listing.write_bytes(text.replace("number 0 opens", "number 4 opens").encode(encoding))
    report = prepare("esd", root, tmp_path / "m.jsonl", protocol="mini", hash=False)
    assert report.dropped["words of a test sentence under another number"] == 4 * 4
    found = list(read_records(tmp_path / "m.jsonl", Utterance))
    assert not {u.text for u in found if u.split == "train"} & {u.text for u in found if u.split == "test"}


def test_missing_and_contradicting_files_are_problems(tmp_path):
    root = worlds.esd(tmp_path / "esd", sentences=4)
    (root / "0011/Sad/0011_001051.wav").unlink()
    (root / "0011/Sad/0011_001052.wav").rename(root / "0011/Happy/0011_001052.wav")
    worlds.sound(root / "0011/Sad/stray.wav")
    report = prepare("esd", root, tmp_path / "m.jsonl", hash=False)
    told = sorted(p.what for p in report.problems)
    assert told == [
        "0011_001051 has no recording",
        "0011_001052 is called sad, its folder Happy; the folder is believed",
        "the name is not SPEAKER_NUMBER.wav",
    ]
    line = next(p.line for p in report.problems if "called" in p.what)
    assert (root / "0011/0011.txt").read_text().splitlines()[line - 1].startswith("0011_001052")


def test_lines_that_lost_their_tabs(tmp_path):
    root = worlds.esd(tmp_path / "esd", sentences=4)
    text = (root / "0011/0011.txt").read_text()
    text = text.replace("Café number 1 opens at nine.\tSad", "Café number 1 opens at nine.Sad")
    text = text.replace("0011_001053\t", "0011_001053")
    (root / "0011/0011.txt").write_text(text)
    found = {u.key: u for u in rows(root, tmp_path / "m.jsonl")}
    assert found["esd-0011_001052"].text == "Café number 1 opens at nine."
    assert found["esd-0011_001053"].text == "Café number 2 opens at nine."


def test_wrong_folder(root, tmp_path):
    with pytest.raises(RellmError, match="too deep"):
        prepare("esd", root / "0011", tmp_path / "m.jsonl")
    with pytest.raises(RellmError, match="does not look like"):
        (tmp_path / "empty").mkdir()
        prepare("esd", tmp_path / "empty", tmp_path / "m.jsonl")
