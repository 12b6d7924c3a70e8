"""Manifests: summaries and checks of rows and recordings."""

import json

import numpy as np
import pytest
import soundfile

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records
from re_llm.data import manifest


def row(number: int, **fields) -> Utterance:
    values = {"key": f"k{number}", "corpus": "own", "split": "train", "audio": f"{number}.wav", "duration": 0.5}
    return Utterance(**{**values, "sample_rate": 16_000, "emotion": "sad", **fields})


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", rng.uniform(-0.4, 0.4, 8000), 16_000)
    return tmp_path


def written(folder, rows):
    write_records(folder / "manifest.jsonl", rows)
    return folder / "manifest.jsonl"


def told(report):
    return {(p.line, p.what) for p in report.problems}


def test_a_good_manifest(folder):
    path = written(folder, [row(n) for n in range(8)])
    report = manifest.check(path, workers=2)
    assert report.ok and report.summary.rows == 8 and report.duplicates == [] and report.leakage is None


def test_every_wrong_recording_is_told_with_its_line(folder):
    soundfile.write(folder / "1.wav", np.zeros(8000), 16_000)
    soundfile.write(folder / "2.wav", np.sign(np.sin(np.arange(8000) / 9)), 16_000)
    (folder / "3.wav").unlink()
    nan = np.full(8000, 0.1)
    nan[5] = np.nan
    soundfile.write(folder / "4.wav", nan, 16_000, subtype="FLOAT")
    rows = [row(n) for n in range(5)] + [row(5, sample_rate=8000), row(6, duration=0.3), row(7, duration=0.9)]
    for workers in (1, 2):
        report = manifest.check(written(folder, rows), workers=workers)
        found = dict(sorted(told(report)))
        assert set(found) == {2, 3, 4, 5, 6, 7, 8}
        for line, words in {
            2: "k1: silent",
            3: "clipped",
            4: "no such file",
            5: "not finite",
            6: "says 8000 Hz, the file 16000 Hz",
            7: "says 0.30 s, the file holds 0.50 s",
            8: "runs over the end",
        }.items():
            assert words in found[line]
    assert manifest.check(written(folder, rows), decode=False).ok, "rows alone are in order"


def test_a_recording_that_was_exchanged(folder):
    hashed = waveform.sha256(folder / "0.wav")
    path = written(folder, [row(0, sha256=hashed), row(1, sha256=hashed)])
    assert told(manifest.check(path)) == {(2, "k1: the recording is not the one that was hashed")}


def test_segments_of_one_recording_are_in_order(folder):
    rows = [row(0, duration=0.2), row(1, audio="0.wav", start=0.2, duration=0.3)]
    report = manifest.check(written(folder, rows))
    assert report.ok and report.duplicates == []


def test_every_wrong_row_is_told_with_its_line(folder):
    rows = [
        row(0),
        row(0),
        row(2, emotion="gloomy"),
        row(3, valence=0.5, arousal=0.5, vad_source="annotated"),
        row(4, valence=0.5, arousal=0.5, dominance=0.1),
        row(5, text=" "),
    ]
    path = written(folder, rows)
    with path.open("a") as out:
        out.write(
            "\n{broken\n" + json.dumps({"key": "k9", "corpus": "own", "split": "x", "audio": "a", "valence": 7}) + "\n"
        )
    found = dict(told(manifest.check(path, decode=False)))
    assert found.pop(8).startswith("not a valid Utterance record: Invalid JSON")
    assert "valence" in found.pop(9)
    assert found == {
        2: "k0: the key occurs twice",
        3: "k2: unknown emotion 'gloomy'",
        4: "k3: only valence, arousal of valence, arousal, dominance",
        5: "k4: dimensions without vad_source: annotated or pseudo:MODEL",
        6: "k5: the text is blank",
    }


def test_labels_of_a_recipe(folder):
    report = manifest.check(written(folder, [row(0), row(1, emotion="happy")]), emotions=["happy"], decode=False)
    assert told(report) == {(1, "k0: unknown emotion 'sad'")}


def test_duplicates_by_content(folder):
    (folder / "3.wav").write_bytes((folder / "1.wav").read_bytes())
    report = manifest.check(written(folder, [row(n) for n in range(4)]))
    assert report.duplicates == [["k1", "k3"]] and report.ok and not report.spotless


def test_leakage_inside_of_a_manifest(folder):
    rows = [row(0, speaker="ann"), row(1, speaker="ben"), row(2, speaker="ann", split="test")]
    report = manifest.check(written(folder, rows), decode=False)
    assert report.leakage is not None and report.leakage.overlaps["speaker"].shared == 1
    assert report.ok and not report.spotless, "a protocol can mean it so; --strict does not"


def test_a_recording_on_both_sides_is_wrong(folder):
    (folder / "3.wav").write_bytes((folder / "1.wav").read_bytes())
    path = written(folder, [row(1), row(3, split="test")])
    report = manifest.check(path)
    assert report.problems == [] and not report.ok, "told by its content, although no row is hashed"
    assert report.leakage.overlaps["audio"].examples[0][1:] == ("k1", "k3")
    assert manifest.check(path, decode=False).ok, "rows alone do not tell"


def test_no_rows(folder):
    with pytest.raises(RellmError, match="holds no utterance"):
        manifest.check(written(folder, []))


def test_summary(folder):
    rows = [row(n, speaker=f"s{n % 2}", language="en", valence=n / 8, vad_source="annotated") for n in range(8)]
    rows += [row(8, split="test", emotion=None, duration=1.6)]
    summary = manifest.summarize(written(folder, rows))
    assert summary.rows == 9 and summary.seconds == pytest.approx(5.6)
    assert summary.splits == {"train": 8, "test": 1}
    assert summary.emotions == {("train", "sad"): 8, ("test", "none"): 1}
    assert summary.number_of_speakers() == 2 and summary.number_of_speakers("test") == 0
    assert summary.durations == {1: 8, 3: 1} and (summary.shortest, summary.longest) == (0.5, 1.6)
    assert summary.dimensions["valence", 0] == 1 and sum(summary.dimensions.values()) == 8
    assert summary.sources == {"annotated": 8, "none": 1}


def test_ordered_map_keeps_order_and_passes_errors_on():
    assert list(manifest.ordered_map(lambda x: x * x, range(200), 3)) == [x * x for x in range(200)]

    def fail(value):
        raise ValueError(value)

    with pytest.raises(ValueError, match="0"):
        list(manifest.ordered_map(fail, range(5), 2))
