"""What training and test data have in common."""

import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records
from re_llm.data.check import check
from re_llm.data.identity import corpus_identity, sentence, speaker_identity
from re_llm.data.leakage import find_leakage, is_test, leakage


def row(key: str, **fields) -> Utterance:
    return Utterance(**{"key": key, "corpus": "own", "split": "train", "audio": f"{key}.wav", **fields})


def test_each_kind():
    train = [
        row("a", sha256="11", speaker="ann", text="The kettle is on the stove."),
        row("b", sha256="22", speaker="ann", text="Yes."),
        row("c", sha256="33", start=2.0, duration=2.0, speaker="ben"),
    ]
    test = [
        row("x", sha256="11", speaker="cid", text="Nothing like it was said before."),
        row("y", sha256="33", start=4.0, duration=1.0, speaker="ann", text="Yes."),
        row("z", text="the KETTLE is on the stove!"),
        row("w", speaker="ann", corpus="other"),
    ]
    found = find_leakage(train, test)
    assert found.any and (found.train_rows, found.test_rows) == (3, 4)
    audio, speaker, words = (found.overlaps[k] for k in ("audio", "speaker", "sentence"))
    # Another segment of the same file, and a speaker of that name in another corpus, are not the same.
    assert (audio.shared, audio.train_rows, audio.test_rows, audio.unknown) == (1, 1, 1, 2)
    assert (speaker.shared, speaker.train_rows, speaker.test_rows, speaker.unknown) == (1, 2, 1, 1)
    assert (words.shared, words.test_rows, words.unknown) == (1, 1, 2), "short answers are no sign of a leak"
    assert words.examples == [("the kettle is on the stove", "a", "z")]


def test_nothing_in_common_and_what_could_not_be_compared():
    words = "nobody said this before"
    train = [row("a", sha256="1", speaker="s", text=words), row("c", sha256="4")]
    found = find_leakage(train, [row("b", sha256="2", speaker="t", text=f"{words} you"), row("d", sha256="3")])
    assert not found.any
    assert found.not_compared() == [
        "speaker: 1 of 2 test rows and 1 of 2 training rows could not be compared",
        "sentence: 1 of 2 test rows and 1 of 2 training rows could not be compared",
        "audio: compared by hashes alone; copies in another format are not found",
    ]
    nameless = find_leakage([row("a")], [row("b")])
    assert [s.split(":")[0] for s in nameless.not_compared()] == ["audio", "speaker", "sentence", "audio"]


def test_segments_of_one_file_that_overlap():
    train = [row(f"a{n}", sha256="1", audio="long.wav", start=10.0 * n, duration=10.0) for n in range(3)]
    test = [
        row("inside", sha256="1", audio="long.wav", start=12.0, duration=1.0),
        row("across", sha256="1", audio="long.wav", start=8.0, duration=4.0),
        row("behind", sha256="1", audio="long.wav", start=29.97, duration=5.0),
        row("unhashed", audio="long.wav", start=25.0, duration=9.0),
        row("elsewhere", audio="other.wav", start=12.0, duration=1.0),
    ]
    audio = find_leakage(train, test).overlaps["audio"]
    assert (audio.shared, audio.train_rows, audio.test_rows) == (2, 3, 3), "one stretch of 0 to 20 s, one of 20 to 30 s"
    assert audio.examples == [("the same file", "a1", "inside"), ("the same file", "a2", "unhashed")]


def test_a_file_under_two_paths_of_one_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_records(tmp_path / f"{name}/m.jsonl", [row(name, audio="../clips/x.wav", split="train")])
    assert leakage([tmp_path / "a/m.jsonl"], tmp_path / "b/m.jsonl").overlaps["audio"].shared == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("crema_d", "1001"), ("cremad", "1001"), True),
        (("CREMA-D", "1001"), ("crema_d_test", "1001"), True),
        (("ravdess", "01"), ("RAVDESS speech", "Actor_01"), True),
        (("emodb", "03"), ("emodb", "3"), True),
        (("mine_train", "ann"), ("mine_test", "Ann "), True),
        (("jl", "male2"), ("jl", "female2"), False),
        (("ravdess", "01"), ("emodb", "01"), False),
        (("msp_podcast", "17"), ("msppodcast", "17"), True),
        (("mead", "M003"), ("meld", "M003"), False),
        (("test", "1"), ("train", "1"), False),
    ],
)
def test_speakers_are_those_of_the_corpus_whoever_wrote_the_rows(one, other, same):
    assert (speaker_identity(*one) == speaker_identity(*other)) is same
    rows = [row("a", corpus=one[0], speaker=one[1])], [row("b", corpus=other[0], speaker=other[1])]
    assert (find_leakage(*rows).overlaps["speaker"].shared == 1) is same


def test_corpora_have_one_name():
    names = ["IEMOCAP", "iemocap_full_release", "IEMOCAP-test"]
    assert {corpus_identity(name) for name in names} == {"iemocap"}
    assert corpus_identity("my_iemocaps") == "myiemocaps" and corpus_identity("all") == "all"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Well, DON'T you dare!", "well dont you dare"),
        ("No, never.", None),
        (None, None),
        ("...", None),
        ("小猫在屋顶。", "小猫在屋顶"),
        ("小猫", None),
    ],
)
def test_sentence(text, words):
    assert sentence(text) == words


def test_manifests_and_splits(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_records(one, [row("a", speaker="s"), row("b", speaker="t", split="test")])
    write_records(two, [row("c", speaker="s", split="test")])
    assert leakage([one], two).overlaps["speaker"].shared == 1
    assert not leakage([one], one, train_splits=["train"], test_splits=["test"]).any
    with pytest.raises(RellmError, match="training side of the leakage check has no rows of split dev"):
        leakage([one, two], two, train_splits=["dev"])
    with pytest.raises(RellmError, match="no such file"):
        leakage([tmp_path / "three.jsonl"], two)


def test_splits_for_testing():
    assert all(is_test(split) for split in ("test", "Test1", "test-clean", "evaluation"))
    assert not any(is_test(split) for split in ("train", "dev", "all", "train-other"))


def test_against_what_can_be_trained_on(tmp_path):
    acted, mixed, only_test = (tmp_path / f"{name}.jsonl" for name in ("acted", "mixed", "test"))
    write_records(acted, [row("a", speaker="s", split="all")])
    write_records(mixed, [row("b", speaker="t", split="dev"), row("c", speaker="s", split="test1")])
    write_records(only_test, [row("d", speaker="s", split="test")])
    found = check(mixed, decode=False, against=[acted, mixed]).against
    assert found.overlaps["speaker"].examples == [("own:s", "a", "c")] and found.train_rows == 2
    assert check(acted, decode=False, against=[mixed]).against.test_rows == 1, "without test rows, all are compared"
    with pytest.raises(RellmError, match=r"nothing in .* can be trained on"):
        check(mixed, decode=False, against=[only_test])
