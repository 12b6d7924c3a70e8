"""Every reader, given the wrong folder: one level too high or too low, an archive, nothing."""

import zipfile
from pathlib import Path

import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.data.corpora import names

# What makes a folder that of a corpus.
FOLDERS = {
    "cmu_mosei": "Raw/Transcript/Segmented/Combined/a.txt",
    "common_voice": "clips/a.mp3 validated.tsv",
    "crema_d": "AudioWAV/1001_IEO_HAP_LO.wav",
    "deepdialogue": "dialogues_a/art_1_3.json dialogues_a/art_1_3/segments/001_LLM1_happy.wav",
    "echomind": "script_info_human.json audio/sad/id_1_sad_work_target.wav",
    "emobox": "aesdd.jsonl fold_1/aesdd_test_fold_1.jsonl",
    "emodb": "wav/03a01Fa.wav",
    "emotiontalk": "Audio/json/a.json Audio/wav/a.wav",
    "esd": "0011/0011.txt",
    "gigaspeech": "GigaSpeech.json audio/a.opus",
    "iemocap": "Session3/dialog/a.txt",
    "librispeech": "dev-clean/84/121123/84-121123.trans.txt",
    "mead": "W019/audio/neutral/level_1/020.m4a",
    "meld": "test_sent_emo.csv train/train_splits/dia0_utt0.mp4",
    "merbench": "test-labels/test1-label.csv",
    "msp_podcast": "Labels/labels_consensus.csv",
    "nemo": "data.tsv samples/EB0_anger_1.wav",
    "omg_empathy": "Training/Annotations/Subject_1_Story_2.csv Training/Videos/Subject_1_Story_2.mp4",
    "ravdess": "Actor_01/03-01-01-01-01-01-01.wav",
    "resd": "test.csv test/a.wav",
    "wenetspeech": "WenetSpeech.json audio/a.opus",
}
# Recordings that are found at any depth, or files that are given themselves.
ANY_LEVEL = {"aesdd", "cafe", "emovdb", "jl", "savee", "tess"}
# Text-only dialogues: flat folders of files.
FLAT = {"cped", "empathetic_dialogues", "esconv", "humdial_eibench", "reccon"}
FILES = {"echat", "emonet_voice", "hf", "lhotse", "peers", "speech_alpaca", "table", "webdataset"}


def built(name: str, root: Path) -> Path:
    for place in FOLDERS[name].split():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_every_reader_is_here():
    assert {*FOLDERS, *ANY_LEVEL, *FLAT, *FILES} == set(names())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_level_too_high_or_too_low_names_the_right_one(name, tmp_path):
    root = built(name, tmp_path / "far" / "above" / "corpus")
    deep = root / next(place for place in FOLDERS[name].split() if "/" in place).split("/")[0]
    nearest = root
    if name == "cmu_mosei":  # `Raw` may be given as well
        nearest, deep = root / "Raw", deep / "Transcript"
    wrong = {root.parent: "one level too high", root.parent.parent: "two levels too high", deep: "too deep"}
    for given, words in wrong.items():
        with pytest.raises(RellmError, match=f"{words}: expected .") as error:
            prepare(name, given, tmp_path / "m.jsonl")
        assert error.value.todo == f"Give --root {nearest if given == deep else root}"
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("name", sorted({*FOLDERS, *ANY_LEVEL, *FLAT, *FILES}))
def test_what_is_no_corpus_is_an_error_of_the_user(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "letter.txt").write_text("Dear reader,\n")
    with zipfile.ZipFile(tmp_path / "corpus.zip", "w") as out:
        out.writestr("a.wav", b"")
    for given in ("absent", "empty", "letter.txt", "corpus.zip"):
        with pytest.raises(RellmError) as error:
            prepare(name, tmp_path / given, tmp_path / "m.jsonl", options={})
        assert given in str(error.value), (given, error.value)
        if given == "corpus.zip" and name not in FILES | FLAT:
            assert "archive" in error.value.what or name == "emobox", error.value
    assert not (tmp_path / "m.jsonl").exists()
