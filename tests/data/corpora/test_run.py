"""What `prepare` does for every corpus: options, filters, segments, pseudo labels, problems, repeatability."""

import json

import corpus_worlds as worlds
import numpy as np
import pytest
from corpus_worlds import prepare

from re_llm.core.errors import RellmError
from re_llm.core.norms import norm
from re_llm.core.records import Utterance, read_records
from re_llm.data import corpora
from re_llm.data.corpora import run


def rows(path):
    return list(read_records(path, Utterance))


@pytest.fixture
def table(tmp_path):
    """Six recordings of 0.1 to 0.6 s by three speakers."""
    lines = ["audio,text,speaker,emotion"]
    for number in range(6):
        worlds.sound(tmp_path / "clips" / f"{number}.wav", 0.1 * (number + 1))
        lines.append(f"clips/{number}.wav,{'word ' * number},s{number % 3},sad")
    return worlds.write(tmp_path / "table.csv", "\n".join(lines) + "\n")


def test_every_description_is_complete():
    infos = corpora.infos()
    own = {name for info in infos for name in info.options} - {
        "test_speakers"
    }  # which some readers split by themselves
    assert not own & run.COMMON_OPTIONS.keys()
    assert [i.name for i in infos] == corpora.names() and len(infos) >= 25
    for info in infos:
        assert info.title and info.licence and info.get and info.root, info.name
        assert info.citation or not info.utterances, info.name
        assert set(info.filters) | set(info.published) <= set(info.protocols), info.name
        assert set(info.emotions) <= set(corpora.base.CANONICAL), info.name
        assert corpora.get(info.name.replace("_", "-").upper())[0] is info


def test_mistakes_name_what_is_allowed(table, tmp_path):
    out = tmp_path / "m.jsonl"
    with pytest.raises(RellmError, match="Did you mean iemocap"):
        prepare("iemocup", tmp_path, out)
    with pytest.raises(RellmError, match="table has no protocol 'x'"):
        prepare("table", table, out, protocol="x")
    with pytest.raises(RellmError, match=r"no option 'min_word'.*min_words"):
        prepare("table", table, out, options={"min_word": 3})
    with pytest.raises(RellmError, match="option min_words='many'"):
        prepare("table", table, out, options={"min_words": "many"})
    with pytest.raises(RellmError, match="keeps nothing"):
        prepare("table", table, out, options={"min_seconds": 3, "max_seconds": 1})
    with pytest.raises(RellmError, match="workers=0"):
        prepare("table", table, out, workers=0)
    assert not out.exists()


def test_the_sizes_of_the_papers_stand_beside_those_here(tmp_path):
    for actor in (1, 2):
        worlds.sound(tmp_path / f"R/Actor_{actor:02}/03-01-03-01-01-01-{actor:02}.wav", 1.0)
    report = prepare("ravdess", tmp_path / "R", tmp_path / "m.jsonl", protocol="blsp-emo")
    assert report.published == {"test": 864} and report.differing() == {"test": (2, 864)}
    report.by_split["test"] = report.published["test"]
    assert report.differing() == {}
    assert not prepare("ravdess", tmp_path / "R", tmp_path / "m.jsonl").published
    limited = prepare("ravdess", tmp_path / "R", tmp_path / "m.jsonl", protocol="blsp-emo", options={"limit": 1})
    assert not limited.published, "a selection of one's own has nothing to be compared with"


def test_filters_are_counted_by_reason(table, tmp_path):
    options = {"min_seconds": "0.15", "max_seconds": "0.45", "min_words": "2"}
    report = prepare("table", table, tmp_path / "m.jsonl", options=options)
    assert report.rows == 2
    assert report.dropped == {"fewer than 2 words": 2, "longer than 0.45 s": 2}
    assert report.seconds == pytest.approx(0.7)


def test_emotions_that_are_kept(table, tmp_path):
    whole = prepare("table", table, tmp_path / "whole.jsonl").by_emotion
    kept = sorted(whole)[:1]
    report = prepare("table", table, tmp_path / "m.jsonl", options={"keep_emotions": f"{kept[0]}, fear"})
    assert report.by_emotion == {kept[0]: whole[kept[0]]}
    assert sum(report.dropped.values()) == sum(whole.values()) - whole[kept[0]]
    with pytest.raises(RellmError, match=r"option keep_emotions: unknown emotion 'joyful'.*neutral"):
        prepare("table", table, tmp_path / "other.jsonl", options={"keep_emotions": "joyful"})


def test_limit(table, tmp_path):
    assert prepare("table", table, tmp_path / "m.jsonl", options={"limit": "2"}).rows == 2


def test_speakers_as_test_set(table, tmp_path):
    report = prepare("table", table, tmp_path / "m.jsonl", options={"test_speakers": "s1, s9"})
    assert {u.speaker for u in rows(tmp_path / "m.jsonl") if u.split == "test"} == {"s1"}
    assert report.by_split == {"train": 4, "test": 2}
    assert [p.what for p in report.problems] == ["the speaker s9 of test_speakers does not occur"]


def test_workers_and_runs_give_the_same_bytes(table, tmp_path):
    for name, workers in (("a", 1), ("b", 4), ("c", 1)):
        prepare("table", table, tmp_path / f"{name}.jsonl", workers=workers)
    assert (
        (tmp_path / "a.jsonl").read_bytes()
        == (tmp_path / "b.jsonl").read_bytes()
        == (tmp_path / "c.jsonl").read_bytes()
    )


def test_hashes_are_an_option(table, tmp_path):
    prepare("table", table, tmp_path / "m.jsonl", hash=False)
    assert {u.sha256 for u in rows(tmp_path / "m.jsonl")} == {None}
    prepare("table", table, tmp_path / "m.jsonl")
    assert len({u.sha256 for u in rows(tmp_path / "m.jsonl")}) == 6


def test_problems_are_listed_beside_the_manifest_and_go_away(table, tmp_path):
    broken = tmp_path / "clips/2.wav"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    out = tmp_path / "deep/er/m.jsonl"
    report = prepare("table", table, out)
    assert report.rows == 5 and report.problems_file == out.with_name("m.problems.jsonl")
    assert json.loads(report.problems_file.read_text())["file"].endswith("clips/2.wav")
    assert rows(out)[0].audio == "../../clips/0.wav"
    with pytest.raises(RellmError, match=r"clips/2\.wav is empty"):
        prepare("table", table, out, strict=True)
    broken.write_bytes(good)
    report = prepare("table", table, out)
    assert report.problems_file is None and not out.with_name("m.problems.jsonl").exists()


def test_a_strict_failure_leaves_the_old_manifest(table, tmp_path):
    out = tmp_path / "m.jsonl"
    prepare("table", table, out)
    before = out.read_bytes()
    (tmp_path / "clips/5.wav").unlink()
    with pytest.raises(RellmError, match="no such file"):
        prepare("table", table, out, strict=True)
    left = {p.name for p in tmp_path.iterdir()} - {"clips", "table.csv"}
    assert out.read_bytes() == before and left == {"m.jsonl", "m.provenance.json", ".m.jsonl.hashes"}
    prepare("table", table, out)
    assert not (tmp_path / ".m.jsonl.hashes").exists()


def test_an_older_manifest_keeps_its_problems(table, tmp_path):
    out = tmp_path / "m.jsonl"
    (tmp_path / "clips/5.wav").unlink()
    listed = prepare("table", table, out).problems_file.read_bytes()
    with pytest.raises(RellmError):
        prepare("table", table, out, strict=True)
    assert (tmp_path / "m.problems.jsonl").read_bytes() == listed


def test_nothing_usable_says_why(table, tmp_path):
    for clip in (tmp_path / "clips").iterdir():
        clip.unlink()
    with pytest.raises(RellmError, match=r"no utterance of table .*6 problems, the first: .*no such file"):
        prepare("table", table, tmp_path / "m.jsonl")
    assert len((tmp_path / "m.problems.jsonl").read_text().splitlines()) == 6


def test_keys_are_unique(tmp_path):
    worlds.sound(tmp_path / "a.wav", 0.2)
    worlds.write(tmp_path / "t.csv", "audio,key\na.wav,k\na.wav,k\n")
    report = prepare("table", tmp_path / "t.csv", tmp_path / "m.jsonl")
    assert report.rows == 1 and "the key k occurs twice" in report.problems[0].what


class Estimator:
    name = "a-model"

    def __init__(self):
        self.heard = []

    def __call__(self, waves):
        self.heard += [len(w) for w in waves]
        return [(0.25, 1.25, -0.5)] * len(waves)


def test_pseudo_labels_where_there_are_none(tmp_path):
    worlds.sound(tmp_path / "a.wav", 0.5, rate=8_000)
    silent = np.zeros(1000, np.float32)
    silent[3] = np.nan
    import soundfile

    soundfile.write(tmp_path / "nan.wav", silent, 8000, subtype="FLOAT")
    worlds.write(
        tmp_path / "t.csv",
        "audio,key,start,end,valence,arousal,dominance\na.wav,k1,0,0.2,,,\na.wav,k2,0.2,0.5,0.1,0.2,0.3\nnan.wav,k3,,,,,\n",
    )
    estimator = Estimator()
    report = prepare("table", tmp_path / "t.csv", tmp_path / "m.jsonl", pseudo_vad=estimator)
    first, second = rows(tmp_path / "m.jsonl")
    assert estimator.heard == [3200], "16 kHz, the segment alone, and only where it is needed"
    assert first.dimensions() == (0.25, 1.0, 0.0) and first.vad_source == "pseudo:a-model"
    assert second.dimensions() == (0.1, 0.2, 0.3) and second.vad_source == "annotated"
    assert len(report.problems) == 1 and "not finite" in report.problems[0].what


def test_norms_of_emotion_words_fill_in_missing_dimensions(tmp_path):
    worlds.sound(tmp_path / "a.wav", 0.5, rate=8_000)
    lines = ("audio,key,start,end,emotion,valence,arousal,dominance", "a.wav,k1,0,0.2,angry,,,")
    table = "\n".join((*lines, "a.wav,k2,0.2,0.5,sad,0.1,0.2,0.3", ""))
    worlds.write(tmp_path / "t.csv", table)
    prepare("table", tmp_path / "t.csv", tmp_path / "m.jsonl", pseudo_vad="norms")
    first, second = rows(tmp_path / "m.jsonl")
    assert first.dimensions() == norm("angry") and first.vad_source == "pseudo:norms"
    assert second.dimensions() == (0.1, 0.2, 0.3) and second.vad_source == "annotated"
