"""Reading labelled corpora and dividing them by speaker."""

import emotion_world
import pytest

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records, write_records
from re_llm.recipe.emotion import EMOBOX_FOLDS, FoldOptions
from re_llm.train.emotion.fit import balance
from re_llm.train.emotion.rows import divide, folds, read_corpora

EMOTIONS = tuple(emotion_world.PITCH)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return emotion_world.manifest(tmp_path_factory.mktemp("toy"), speakers=6, each=1)


def test_speakers_are_on_one_side_only(toy):
    corpora = read_corpora([toy], EMOTIONS)
    every = range(len(corpora.rows))
    division = divide(corpora, every, 0.34, seed=0)
    assert len(corpora.speakers(division.validation)) == 2
    assert not set(corpora.speakers(division.training)) & set(corpora.speakers(division.validation))
    assert sorted([*division.training, *division.validation]) == list(every)
    assert divide(corpora, every, 0.34, seed=0) == division
    assert any(divide(corpora, every, 0.34, seed=s) != division for s in range(1, 6))


def test_a_manifest_keeps_its_own_splits(tmp_path):
    splits = {"s0": "train", "s1": "train", "s2": "dev", "s3": "test"}
    path = emotion_world.manifest(tmp_path, speakers=4, each=1, splits=splits)
    corpora = read_corpora([path], EMOTIONS)
    division = divide(corpora, range(len(corpora.rows)), 0.2, seed=0)
    assert corpora.speakers(division.training) == ["toy/s0", "toy/s1"]
    assert corpora.speakers(division.validation) == ["toy/s2"]
    (fold,), _ = folds(corpora, "own", FoldOptions(corpus="toy", folds="split"))
    assert corpora.speakers(fold.test) == ["toy/s3"]


def test_a_speaker_on_both_sides_is_refused(tmp_path):
    path = emotion_world.manifest(tmp_path, speakers=3, each=1, splits={"s0": "train", "s1": "dev", "s2": "test"})
    rows = list(read_records(path, Utterance))
    mixed = [row.model_copy(update={"speaker": "s1"}) if row.key.startswith("toy-0") else row for row in rows]
    write_records(path, mixed)
    corpora = read_corpora([path], EMOTIONS)
    with pytest.raises(RellmError, match=r"training and in the validation: toy/s1"):
        divide(corpora, range(len(corpora.rows)), 0.2, seed=0)


def test_what_cannot_be_used_is_counted_or_named(tmp_path, toy):
    corpora = read_corpora([toy], ("sad", "angry"))
    assert corpora.dropped == {"toy: happy": 6}
    with pytest.raises(RellmError, match="occurs twice"):
        read_corpora([toy, toy], EMOTIONS)
    with pytest.raises(RellmError, match="no utterance"):
        read_corpora([toy], ("calm", "fear"))
    rows = [row.model_copy(update={"speaker": None}) for row in read_records(toy, Utterance)]
    write_records(tmp_path / "x.jsonl", rows)
    with pytest.raises(RellmError, match=r"x.jsonl:1: no speaker"):
        read_corpora([tmp_path / "x.jsonl"], EMOTIONS)


def test_folds_leave_their_speakers_out(toy):
    corpora = read_corpora([toy], EMOTIONS)
    made, notes = folds(corpora, "pairs", FoldOptions(corpus="toy", folds=(("s0", "s1"), ("s4",))))
    assert [corpora.speakers(fold.test) for fold in made] == [["toy/s0", "toy/s1"], ["toy/s4"]] and not notes
    for fold in made:
        assert not set(corpora.speakers(fold.test)) & set(corpora.speakers(fold.rest))
    some, _ = folds(corpora, "some", FoldOptions(corpus="toy", emotions=("sad", "angry"), folds=(("s0",),)))
    assert {corpora.rows[i].emotion for i in some[0].test} == {0, 2}
    with pytest.raises(RellmError, match="no speaker 's9'"):
        folds(corpora, "pairs", FoldOptions(corpus="toy", folds=(("s9",),)))
    with pytest.raises(RellmError, match="no manifest holds"):
        folds(corpora, "other", FoldOptions(corpus="other", folds="corpus"))


def test_emoboxs_folds_are_every_actor_once_and_absent_ones_are_told(tmp_path):
    actors = [speaker for fold in EMOBOX_FOLDS["ravdess"] for speaker in fold]
    assert sorted(actors) == [f"{n:02}" for n in range(1, 25)]
    path = emotion_world.manifest(tmp_path, "ravdess", speakers=3, each=1)
    rows = [row.model_copy(update={"speaker": f"0{4 + int(row.speaker[1])}"}) for row in read_records(path, Utterance)]
    write_records(path, rows)  # actors 04, 05, 06
    corpora = read_corpora([path], EMOTIONS)
    made, notes = folds(corpora, "emobox", FoldOptions(corpus="ravdess", folds="emobox"))
    assert [fold.name for fold in made] == ["emobox-2", "emobox-4", "emobox-6"]
    assert "fold 1: none of its speakers" in notes[0] and len(notes) == 3
    with pytest.raises(ValueError, match="not known here"):
        FoldOptions(corpus="toy", folds="emobox")


def test_small_classes_and_corpora_are_drawn_more_often_than_they_occur(tmp_path, toy):
    other = emotion_world.manifest(tmp_path, "small", speakers=1, each=1)
    corpora = read_corpora([toy, other], EMOTIONS)
    weights = balance(corpora, range(len(corpora.rows)))
    small = sum(w for w, row in zip(weights, corpora.rows, strict=True) if row.corpus == "small")
    assert 3 / 21 < small < 0.5 and abs(weights.sum() - 1) < 1e-9
