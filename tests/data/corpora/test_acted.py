"""Corpora whose labels are in the names of their files: genuine names, odd ones, and such as do not belong."""

import os
from pathlib import Path

import corpus_worlds as worlds
import pytest
import soundfile
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.data.corpora.files import recordings

CASES = {
    # corpus: {path: (emotion, speaker, text)}; None: a problem
    "ravdess": {
        "Actor_12/03-01-06-01-02-01-12.wav": ("fear", "12", "Dogs are sitting by the door."),
        "Actor_12/03-01-02-02-01-02-12.flac": ("calm", "12", "Kids are talking by the door."),
        "Actor_12/03-01-08-02-01-02-11.wav": None,
        "Actor_12/notes.wav": None,
    },
    "crema_d": {
        "AudioWAV/1001_IEO_HAP_LO.wav": ("happy", "1001", "It's eleven o'clock."),
        "AudioWAV/1002_WSI_NEU_XX.wav": ("neutral", "1002", "We'll stop in a couple of minutes."),
        "AudioWAV/1002_ABC_NEU_XX.wav": None,
    },
    "emodb": {
        "wav/03a01Fa.wav": ("happy", "03", "Der Lappen liegt auf dem Eisschrank."),
        "wav/16b10Lb.wav": ("bored", "16", "Die wird auf dem Platz sein, wo wir sie immer hinlegen."),
        "wav/03a01Xa.wav": None,
    },
    "jl": {
        "male2_anxious_9a_2.wav": ("anxious", "male2", "They sailed at noon."),
        "deep/er/female1_encouraging_10b_1.wav": ("other", "female1", None),
        "male2_grumpy_9a_2.wav": None,
    },
    "tess": {
        "OAF_disgust/OAF_pool_disgust.wav": ("disgust", "OAF", "Say the word pool."),
        "OAF_neutral/OA_bite_neutral.wav": ("neutral", "OAF", "Say the word bite."),
        "YAF_pleasant_surprised/YAF_dog_ps.wav": ("surprise", "YAF", "Say the word dog."),
        "readme.wav": None,
    },
    "savee": {
        "JE_n23.wav": ("neutral", "JE", None),
        "AudioData/DC/sa01.wav": ("sad", "DC", None),
        "AudioData/XX/su01.wav": None,
    },
    "emovdb": {
        "bea/Neutral/neutral_253-280_0257.wav": ("neutral", "bea", "A sentence with that number."),
        "sam_Amused/amused_1-15_0001.wav": ("happy", "sam", None),
        "josh/Sleepy/sleepiness_1-28_0600.wav": ("other", "josh", None),
        "nobody/Neutral/neutral_1-28_0002.wav": None,
    },
    "cafe": {
        "CaFE_48k/Peur/Fort/08-P-2-1.wav": ("fear", "08", None),
        "CaFE_48k/Col\u0160re/Faible/01-C-1-3.wav": ("angry", "01", None),
        "CaFE_48k/Neutre/08-N-1-9.wav": None,
    },
    "aesdd": {
        "anger/a06 (5)b.wav": ("angry", "5", None),
        "fear/f13 (01).wav": ("fear", "1", None),
        "fear/f13.wav": None,
    },
    "mead": {
        "W019/audio/neutral/level_1/020.wav": ("neutral", "W019", None),
        "M003/audio/disgusted/level_3/001.flac": ("disgust", "M003", None),
        "M003/audio/sad/extra/level_3/001.wav": None,
    },
}


def world(name: str, root: Path) -> Path:
    for path in CASES[name]:
        worlds.sound(root / path, 0.1)
    (root / "__MACOSX").mkdir()
    worlds.write(root / "__MACOSX" / Path(next(iter(CASES[name]))).name, "not a sound")
    if name == "jl":
        worlds.write(root / "male2_anxious_9a_2.txt", "They sailed at noon.\n")
    if name == "emovdb":
        worlds.write(root / "cmuarctic.data", '( arctic_a0257 "A sentence with that number." )\n')
    return root


@pytest.mark.parametrize("name", CASES)
def test_labels_are_read_from_the_names(tmp_path, name):
    root = world(name, tmp_path / "corpus")
    report = prepare(name, root, tmp_path / "m.jsonl", hash=False)
    wanted = {path: labels for path, labels in CASES[name].items() if labels is not None}
    found = {
        u.audio.removeprefix("corpus/"): (u.emotion, u.speaker, u.text)
        for u in read_records(tmp_path / "m.jsonl", Utterance)
    }
    assert found == wanted
    assert sorted(p.file for p in report.problems) == sorted(p for p, labels in CASES[name].items() if labels is None)


@pytest.mark.parametrize("name", ["ravdess", "crema_d", "emodb", "mead"])
def test_wrong_level(tmp_path, name):
    root = world(name, tmp_path / "above" / "corpus")
    with pytest.raises(RellmError, match="one level too high") as error:
        prepare(name, root.parent, tmp_path / "m.jsonl")
    assert error.value.todo == f"Give --root {root}"


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in CASES:
        with pytest.raises(RellmError, match="does not look like this corpus"):
            prepare(name, tmp_path / "empty", tmp_path / "m.jsonl")
        with pytest.raises(RellmError, match="no such folder"):
            prepare(name, tmp_path / "absent", tmp_path / "m.jsonl")


def test_ravdess_leaves_songs_out_and_has_five_classes_in_blsp_emo(tmp_path):
    root = tmp_path / "ravdess"
    for emotion in range(1, 9):
        worlds.sound(root / f"Actor_01/03-01-{emotion:02}-01-01-01-01.wav", 0.1)
    worlds.sound(root / "Actor_01/03-02-03-01-01-01-01.wav", 0.1)
    worlds.sound(root / "Actor_01/01-01-03-01-01-01-01.wav", 0.1)
    report = prepare("ravdess", root, tmp_path / "m.jsonl", protocol="blsp-emo")
    assert set(report.by_emotion) == {"neutral", "happy", "sad", "angry", "surprise"}
    assert report.dropped == {"song": 1, "video": 1, "emotion calm": 1, "emotion fear": 1, "emotion disgust": 1}
    assert report.by_split == {"test": 5}


@pytest.mark.parametrize(
    ("name", "path", "again"),
    [
        ("ravdess", "Actor_01", "audio_speech_actors_01-24/Actor_01"),
        ("tess", "OAF_Sad", "TESS Toronto emotional speech set data/OAF_Sad"),
    ],
)
def test_copies_of_kaggle_hold_everything_twice(tmp_path, name, path, again):
    file = {"ravdess": "03-01-05-01-01-01-01.wav", "tess": "OAF_pool_sad.wav"}[name]
    first = worlds.sound(tmp_path / name / path / file, 0.1)
    second = tmp_path / name / again / file
    second.parent.mkdir(parents=True)
    second.write_bytes(first.read_bytes())
    report = prepare(name, tmp_path / name, tmp_path / "m.jsonl", strict=True)
    assert report.rows == 1 and report.dropped == {"second copy of a recording": 1}
    worlds.sound(second, 0.2)
    report = prepare(name, tmp_path / name, tmp_path / "m.jsonl")
    assert report.rows == 1 and "occurs twice" in report.problems[0].what, "another recording of that name"


def test_cafe_at_two_rates(tmp_path):
    for folder in ("CaFE_48k", "CaFE_192k"):
        worlds.sound(tmp_path / f"cafe/{folder}/Peur/Fort/08-P-2-1.wav", 0.1)
    report = prepare("cafe", tmp_path / "cafe", tmp_path / "m.jsonl", strict=True)
    assert report.dropped == {"copy at 192 kHz": 1}
    assert "48k" in next(read_records(tmp_path / "m.jsonl", Utterance)).audio


@pytest.mark.parametrize("given", [".", "EmoV-DB/bea", "EmoV-DB/bea/Sleepy"])
def test_emovdb_from_any_level(tmp_path, given):
    worlds.sound(tmp_path / "EmoV-DB/bea/Sleepy/Sleepiness_1-28_0012.wav", 0.1)
    prepare("emovdb", tmp_path / given, tmp_path / "m.jsonl", strict=True)
    (row,) = read_records(tmp_path / "m.jsonl", Utterance)
    assert (row.speaker, row.emotion, row.emotion_raw) == ("bea", "other", "Sleepy")


def test_crema_d_perceived(tmp_path):
    root = tmp_path / "crema"
    names = ["1001_IEO_HAP_LO", "1001_IEO_SAD_LO", "1001_IEO_ANG_LO"]
    for name in names:
        worlds.sound(root / "AudioWAV" / f"{name}.wav", 0.1)
    votes = '"","FileName","VoiceVote"\n"1","1001_IEO_HAP_LO","N"\n"2","1001_IEO_SAD_LO","N:S"\n'
    worlds.write(root / "processedResults" / "summaryTable.csv", votes)
    report = prepare("crema_d", root, tmp_path / "m.jsonl", protocol="perceived")
    assert report.by_emotion == {"neutral": 1} and report.dropped == {"tie between listeners": 1}
    assert [p.what for p in report.problems] == ["no votes for 1001_IEO_ANG_LO"]


def test_nemo(tmp_path):
    root = tmp_path / "nemo"
    worlds.sound(root / "samples" / "EB0_anger_1.wav", 0.1)
    header = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"
    worlds.write(
        root / "data.tsv",
        f'{header}\nEB0_anger_1.wav\tanger\t"To" jest zdanie.\tto jest zdanie\t        EB0\tfemale\t40\n',
    )
    assert prepare("nemo", root, tmp_path / "m.jsonl").problems == []
    row = next(read_records(tmp_path / "m.jsonl", Utterance))
    assert (row.emotion, row.speaker, row.text) == ("angry", "EB0", '"To" jest zdanie.')
    worlds.sound(root / "samples" / "EB0_fear_1.wav", 0.1)
    dropped = prepare("nemo", root, tmp_path / "m.jsonl").dropped
    assert dropped == {"recording in samples without a row in data.tsv, such as EB0_fear_1.wav": 1}


def test_mead_needs_transcripts_for_its_protocol(tmp_path):
    root = world("mead", tmp_path / "mead")
    texts = worlds.write(
        tmp_path / "texts.jsonl", '{"key": "mead-W019-neutral-1-020", "text": "five words are said here"}\n'
    )
    options = {"transcripts": str(texts)}
    report = prepare("mead", root, tmp_path / "m.jsonl", protocol="blsp-emo", options=options)
    assert report.rows == 1 and next(read_records(tmp_path / "m.jsonl", Utterance)).text == "five words are said here"
    with pytest.raises(RellmError, match=r"no utterance of mead .* 1 x fewer than 5 words"):
        prepare("mead", root, tmp_path / "m.jsonl", protocol="blsp-emo")


CONVERTED = {
    "iemocap": lambda root: worlds.iemocap(root),
    "esd": lambda root: worlds.esd(root, sentences=2),
    "msp_podcast": lambda root: worlds.msp_podcast(root),
    "common_voice": lambda root: worlds.common_voice(root),
    **{name: (lambda root, name=name: world(name, root)) for name in CASES},
}


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
@pytest.mark.parametrize("name", CONVERTED)
def test_recordings_converted_to_another_format_are_found(tmp_path, name, suffix):
    root = CONVERTED[name](tmp_path / name)
    before = prepare(name, root, tmp_path / "before.jsonl", hash=False)
    for path in list(recordings(root)):
        if path.suffix != suffix:
            samples, rate = soundfile.read(path)
            soundfile.write(path.with_suffix(suffix), samples, rate)
            path.unlink()
    after = prepare(name, root, tmp_path / "after.jsonl", hash=False)
    assert (after.rows, after.by_emotion, after.dropped) == (before.rows, before.by_emotion, before.dropped)
    assert {p.what for p in after.problems} == {p.what for p in before.problems}
    first, second = ([u.model_dump(exclude={"audio", "duration"}) for u in read_records(tmp_path / f, Utterance)]
                     for f in ("before.jsonl", "after.jsonl"))  # fmt: skip
    assert first == second


def test_recordings_in_two_formats_are_read_once(tmp_path):
    path = worlds.sound(tmp_path / "emodb/wav/03a01Fa.wav", 0.1)
    worlds.sound(path.with_suffix(".flac"), 0.1)
    report = prepare("emodb", tmp_path / "emodb", tmp_path / "m.jsonl", strict=True)
    assert report.rows == 1 and report.dropped == {"recording in another format as well": 1}


@pytest.mark.parametrize(("name", "protocol", "folds"), [("emodb", "10-fold", 10), ("nemo", "9-fold", 9)])
def test_folds_of_speakers(tmp_path, name, protocol, folds):
    root, lines = tmp_path / name, ["file_id\temotion\traw_text\tspeaker_id\tgender"]
    for number, speaker in enumerate(("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")[:folds]):
        worlds.sound(root / f"wav/{speaker}a01Fa.wav", 0.1)
        worlds.sound(root / f"samples/S{number}_sadness_1.wav", 0.1)
        lines.append(f"S{number}_sadness_1.wav\tsadness\ttak\t    S{number}\tmale")
    worlds.write(root / "data.tsv", "\n".join(lines))
    tested, developed = [], []
    for fold in range(1, folds + 1):
        prepare(name, root, tmp_path / "m.jsonl", protocol=protocol, options={"fold": fold}, hash=False)
        found = list(read_records(tmp_path / "m.jsonl", Utterance))
        tested += [u.speaker for u in found if u.split == "test"]
        developed += [u.speaker for u in found if u.split == "dev"]
        assert sum(u.split == "train" for u in found) == folds - 2
    assert sorted(tested) == sorted(developed) == sorted(u.speaker for u in found) and tested != developed


REAL = Path(os.environ.get("RE_LLM_RAVDESS", "../shared/data/ravdess"))


@pytest.mark.skipif(not REAL.is_dir(), reason="RAVDESS is not here (set RE_LLM_RAVDESS to its folder)")
def test_the_real_ravdess(tmp_path):
    from re_llm.data.check import check

    report = prepare("ravdess", REAL, tmp_path / "m.jsonl", protocol="blsp-emo", workers=2)
    actors = len(list(REAL.glob("Actor_*")))
    assert report.problems == [] and report.rows == 36 * actors
    found = check(tmp_path / "m.jsonl", decode=False)
    assert [sorted(k[-10:] for k in keys) for keys in found.duplicates] == [["1-02-01-07", "1-02-02-07"]] or actors < 20


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="RAVDESS is not here (set RE_LLM_RAVDESS to its folder)")
def test_sentences_of_other_actors_and_other_takes_are_not_the_same_recording(tmp_path):
    from re_llm.data.check import check

    actors = sorted(path.name[-2:] for path in REAL.glob("Actor_*"))
    prepare("ravdess", REAL, tmp_path / "m.jsonl", options={"test_speakers": ",".join(actors[::3])}, workers=2)
    found = check(tmp_path / "m.jsonl", workers=2).leakage
    assert found.decoded and found.overlaps["audio"].shared == found.overlaps["speaker"].shared == 0
    assert found.overlaps["sentence"].shared == 2
    # The same actors on both sides: the takes of one sentence in one emotion are two recordings.
    rows = list(read_records(tmp_path / "m.jsonl", Utterance))
    for row in rows:
        row.split = "test" if row.model_extra["repetition"] == 2 else "train"
    write_records(tmp_path / "m.jsonl", [row for row in rows if row.speaker != "07"])  # who has one recording twice
    found = check(tmp_path / "m.jsonl", workers=2).leakage
    assert found.overlaps["audio"].shared == 0 and found.overlaps["speaker"].shared == len(actors) - ("07" in actors)
