"""Numbers of the papers, from label files and names as many as the releases have (the recordings are not opened)."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from re_llm.core.records import Utterance
from re_llm.data import corpora
from re_llm.data.corpora.base import Filters, Scan

# Utterances of IEMOCAP by session and label; fru, xxx and the rarer ones are not told by session.
IEMOCAP = {
    1: {"ang": 229, "hap": 135, "exc": 143, "neu": 384, "sad": 194},
    2: {"ang": 137, "hap": 117, "exc": 210, "neu": 362, "sad": 197},
    3: {"ang": 240, "hap": 135, "exc": 151, "neu": 320, "sad": 305},
    4: {"ang": 327, "hap": 65, "exc": 238, "neu": 258, "sad": 143},
    5: {"ang": 170, "hap": 143, "exc": 299, "neu": 384, "sad": 245, "xxx": 2507, "fru": 1849, "sur": 107, "fea": 40}
    | {"oth": 3, "dis": 2},
}


def selected(name: str, root: Path, protocol: str | None = None, **options) -> list[Utterance]:
    """What a protocol selects by its rows, without looking at the recordings."""
    info, read = corpora.get(name)
    scan = Scan(root, protocol=protocol, seed=options.pop("seed", 0), options=options)
    filters = info.filters.get(protocol or "", Filters())
    return [utterance for utterance in read(scan) if filters.refuses_row(utterance) is None]


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_iemocap_has_5531_utterances_of_four_classes(tmp_path):
    for session, labels in IEMOCAP.items():
        dialogue = f"Ses{session:02}M_impro01"
        folder = tmp_path / f"Session{session}/dialog"
        turns = [label for label, count in labels.items() for _ in range(count)]
        lines = [f"[{n}.0 - {n}.5]\t{dialogue}_F{n:04}\t{label}\t[2.5, 2.5, 2.5]" for n, label in enumerate(turns)]
        words = [f"{dialogue}_F{n:04} [{n}.0-{n}.5]: these are some words of turn {n}" for n in range(len(turns))]
        for name, text in (("EmoEvaluation", lines), ("transcriptions", words)):
            (folder / name).mkdir(parents=True)
            (folder / name / f"{dialogue}.txt").write_text("\n".join(text) + "\n")
    assert len(selected("iemocap", tmp_path)) == 10_039
    found = selected("iemocap", tmp_path, "re-llm")
    assert Counter(u.split for u in found) == {"train": 4_290, "test": 1_241}
    assert Counter(u.emotion for u in found) == {"neutral": 1_708, "happy": 1_636, "angry": 1_103, "sad": 1_084}
    # 942 is the whole of session 5, so BLSP-Emo left short transcripts out of the training set alone (2,610 of 3,548).
    found = selected("iemocap", tmp_path, "blsp-emo")
    assert Counter(u.split for u in found) == {"train": 4_490 - 942, "test": 942}
    assert Counter(u.emotion for u in found) == {"neutral": 1_708, "happy": 595, "angry": 1_103, "sad": 1_084}
    for session in (4, 5):
        words = next((tmp_path / f"Session{session}/dialog/transcriptions").iterdir())
        words.write_text(words.read_text().replace("these are some words of turn", "turn"))
    assert Counter(u.split for u in selected("iemocap", tmp_path, "blsp-emo"))["test"] == 942
    assert Counter(u.split for u in selected("iemocap", tmp_path, "blsp-emo"))["train"] == 4_490 - 942 - 793


def test_esd_divides_its_350_sentences_seven_to_three(tmp_path):
    emotions = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
    for speaker in (f"{number:04}" for number in range(11, 21)):
        lines = []
        for number in range(1_750):
            key, emotion = f"{speaker}_{number + 1:06}", emotions[number // 350]
            touch(tmp_path / speaker / emotion / f"{key}.wav")
            lines.append(f"{key}\tThis is sentence number {number % 350}.\t{emotion}")
        (tmp_path / speaker / f"{speaker}.txt").write_text("\n".join(lines) + "\n")
    found = selected("esd", tmp_path, "re-llm")
    assert Counter((u.split, u.emotion) for u in found) == {
        (split, emotion.lower()): size
        for split, size in (("train", 2_450), ("test", 1_050))
        for emotion in emotions[:4]
    }
    sides = [{u.text for u in found if u.split == split} for split in ("train", "test")]
    assert [len(side) for side in sides] == [245, 105] and not sides[0] & sides[1]
    assert len(selected("esd", tmp_path)) == 17_500


def test_msp_podcast_draws_4290_and_1245_the_same_every_time(tmp_path):
    sizes = {"Train": 7_000, "Test1": 2_500, "Development": 300}
    rows = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    for split, size in sizes.items():
        rows += [f"MSP_{split}_{n:05}.wav,{'NHASUX'[n % 6]},4.0,4.0,4.0,{n % 90},Male,{split}" for n in range(size)]
    (tmp_path / "Labels").mkdir()
    table = tmp_path / "Labels/labels_consensus.csv"
    table.write_text("\n".join(rows) + "\n")
    found = selected("msp_podcast", tmp_path, "re-llm")
    assert Counter(u.split for u in found) == {"train": 4_290, "test": 1_245}
    assert {u.emotion for u in found} == {"neutral", "happy", "angry", "sad"}
    keys = sorted(u.key for u in found)
    # The sample of seed 0 must never change.
    assert hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16] == "c465597c012b5fbf"
    assert sorted(u.key for u in selected("msp_podcast", tmp_path, "re-llm", seed=1)) != keys
    table.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    assert sorted(u.key for u in selected("msp_podcast", tmp_path, "re-llm")) == keys, "whatever the order of the rows"


def test_ravdess_has_1440_clips_and_864_of_five_classes(tmp_path):
    for actor in range(1, 25):
        for emotion in range(1, 9):
            for rest in range(16 if emotion > 1 else 8):
                intensity, statement, repetition = rest // 4 // 2 + 1, rest // 2 % 2 + 1, rest % 2 + 1
                if rest % 8 < 4:
                    code = f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}"
                    touch(tmp_path / f"Actor_{actor:02}/{code}.wav")
    found = selected("ravdess", tmp_path)
    counts = Counter(u.emotion for u in found)
    assert len(found) == 1_440 and counts.pop("neutral") == 96 and set(counts.values()) == {192} and len(counts) == 7
    assert Counter(u.text for u in found) == {
        "Kids are talking by the door.": 720, "Dogs are sitting by the door.": 720
    }  # fmt: skip
    assert {u.model_extra["gender"] for u in found if int(u.speaker) % 2} == {"male"}
    assert len(selected("ravdess", tmp_path, "blsp-emo")) == 864


def test_cafe_has_936_and_648_of_five_classes(tmp_path):
    for actor in range(1, 13):
        for emotion in "CDJNPST":
            for intensity in (1, 2) if emotion != "N" else (1,):
                for sentence in range(1, 7):
                    touch(tmp_path / f"{emotion}/{actor:02}-{emotion}-{intensity}-{sentence}.wav")
    assert len(selected("cafe", tmp_path)) == 936 and len(selected("cafe", tmp_path, "blsp-emo")) == 648


def test_savee_has_480_and_tess_2800(tmp_path):
    sizes = {"a": 15, "d": 15, "f": 15, "h": 15, "n": 30, "sa": 15, "su": 15}
    for speaker in ("DC", "JE", "JK", "KL"):
        for emotion, size in sizes.items():
            for number in range(1, size + 1):
                touch(tmp_path / f"savee/AudioData/{speaker}/{emotion}{number:02}.wav")
    assert Counter(u.emotion for u in selected("savee", tmp_path / "savee"))["neutral"] == 120
    assert len(selected("savee", tmp_path / "savee")) == 480
    for speaker in ("OAF", "YAF"):
        for emotion in ("angry", "disgust", "fear", "happy", "neutral", "ps", "sad"):
            for word in range(200):
                touch(tmp_path / f"tess/{speaker}_{'w' + chr(97 + word // 26) + chr(97 + word % 26)}_{emotion}.wav")
    found = selected("tess", tmp_path / "tess")
    assert len(found) == 2_800 and set(Counter(u.emotion for u in found).values()) == {400}


def test_blsp_emo_wants_five_words_or_characters():
    rows = [
        ("They all left before noon.", "en", True), ("They all left early.", "en", False),
        ("- well ... no -", "en", False), ("今天天气好", "zh", True), ("今天。天气", "zh", False),
    ]  # fmt: skip
    for text, language, kept in rows:
        row = Utterance(key="k", corpus="c", split="train", audio="a", text=text, language=language, emotion="sad")
        assert (corpora.base.BLSP_EMO.refuses_row(row) is None) == kept, text


@pytest.mark.parametrize(("seconds", "kept"), [(0.99, False), (1.0, True), (30.0, True), (30.01, False)])
def test_one_to_thirty_seconds(seconds, kept):
    row = Utterance(key="k", corpus="c", split="train", audio="a", duration=seconds)
    assert (Filters(min_seconds=1, max_seconds=30).refuses_length(row) is None) == kept
