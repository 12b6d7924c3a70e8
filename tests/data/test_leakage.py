"""What training and test data have in common."""

import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records
from re_llm.data.leakage import find_leakage, is_test, leakage, leakage_against, sentence


def row(key: str, **fields) -> Utterance:
    return Utterance(**{"key": key, "corpus": "own", "split": "train", "audio": f"{key}.wav", **fields})


def test_each_kind():
    train = [
        row("a", sha256="11", speaker="ann", text="The kettle is on the stove."),
        row("b", sha256="22", speaker="ann", text="Yes."),
        row("c", sha256="33", start=2.0, speaker="ben"),
    ]
    test = [
        row("x", sha256="11", speaker="cid", text="Nothing like it was said before."),
        row("y", sha256="33", start=4.0, speaker="ann", text="Yes."),
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


def test_nothing_in_common():
    assert not find_leakage([row("a", sha256="1", speaker="s")], [row("b", sha256="2", speaker="t")]).any


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
    found = leakage_against([acted, mixed], mixed, ["dev", "test1"])
    assert found.overlaps["speaker"].examples == [("own:s", "a", "c")] and found.train_rows == 2
    assert leakage_against([mixed], acted, ["all"]).test_rows == 1, "without test rows, all are compared"
    with pytest.raises(RellmError, match=r"nothing in .* can be trained on"):
        leakage_against([only_test], mixed, ["dev", "test1"])
