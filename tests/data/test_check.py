"""Checks of rows and recordings; summaries."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from re_llm.audio import waveform
from re_llm.cluster.work import ordered_map
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, write_records
from re_llm.data import manifest
from re_llm.data.check import check

RECORDINGS = Path(__file__).parents[2] / "re_llm/mini/assets/recordings"


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
    report = check(path, workers=2)
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
        report = check(written(folder, rows), workers=workers)
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
    assert check(written(folder, rows), decode=False).ok, "rows alone are in order"


def test_a_recording_that_was_exchanged(folder):
    hashed = waveform.sha256(folder / "0.wav")
    path = written(folder, [row(0, sha256=hashed), row(1, sha256=hashed)])
    assert told(check(path)) == {(2, "k1: the recording is not the one that was hashed")}


def test_segments_of_one_recording_are_in_order(folder):
    rows = [row(0, duration=0.2), row(1, audio="0.wav", start=0.2, duration=0.3)]
    report = check(written(folder, rows))
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
    found = dict(told(check(path, decode=False)))
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
    report = check(written(folder, [row(0), row(1, emotion="happy")]), emotions=["happy"], decode=False)
    assert told(report) == {(1, "k0: unknown emotion 'sad'")}


def test_duplicates_by_content(folder):
    (folder / "3.wav").write_bytes((folder / "1.wav").read_bytes())
    report = check(written(folder, [row(n) for n in range(4)]))
    assert report.duplicates == [["k1", "k3"]] and report.ok and not report.spotless


def copies(path: Path, folder: Path) -> dict[str, Path]:
    """The recording as others would keep it."""
    samples, rate = soundfile.read(path, dtype="float32")
    made = {}

    def keep(name: str, wave: np.ndarray, hertz: int = rate, **options: object) -> None:
        made[name] = folder / name
        soundfile.write(made[name], wave, hertz, **options)

    keep("flac.flac", samples)
    keep("deep.wav", samples, subtype="PCM_24")
    keep("extensible.wav", samples, format="WAVEX")
    keep("vorbis.ogg", samples, compression_level=0.9)
    keep("layer3.mp3", samples)
    keep("telephone.wav", waveform.resample(waveform.resample(samples, rate, 8000), 8000, rate))
    keep("rate.flac", waveform.resample(samples, rate, 44_100), 44_100)
    keep("quiet.wav", 0.2 * samples)
    keep("trimmed.wav", samples[int(0.137 * rate) : -int(0.21 * rate)])
    keep("everything.ogg", 0.3 * waveform.resample(samples, rate, 11_025)[1111:], 11_025, compression_level=0.8)
    return made


def test_copies_of_a_recording_are_found_and_other_takes_are_not(folder):
    spoken = sorted(RECORDINGS.glob("001[89]-*.flac"))  # one sentence, by two voices, in five emotions each
    original = folder / "original.wav"
    samples, rate = soundfile.read(spoken[0])
    soundfile.write(original, samples, rate)
    made = copies(original, folder)
    soundfile.write(folder / "flac.flac", samples, rate)
    rows = [row(n, key=path.stem, audio=str(path), duration=None, split="test") for n, path in enumerate(spoken[1:])]
    rows += [
        row(20 + n, key=name, audio=name, duration=None, split="test", sample_rate=None) for n, name in enumerate(made)
    ]
    rows.append(row(99, key="original", audio="original.wav", duration=None, sample_rate=None))
    for n in range(0, len(spoken), 3):
        rows.append(row(50 + n, key=f"train-{n}", audio=str(spoken[n]), duration=None))
    report = check(written(folder, rows), workers=2)
    audio = report.leakage.overlaps["audio"]
    train = {f"train-{n}" for n in range(0, len(spoken), 3)}
    same = {key for _, _, key in audio.examples}
    assert report.leakage.decoded and report.leakage.not_compared()[0].startswith("speaker")
    # Every copy of the original, and the three recordings that are in the training rows under another key.
    assert audio.test_rows == len(made) + 3 and audio.shared == 4, (audio, same, train)
    assert audio.unknown == audio.train_unknown == 0
    alone = check(written(folder, rows), decode=False).leakage
    assert alone.overlaps["audio"].test_rows == 3, "by paths"
    assert "audio: compared by hashes alone; copies in another format are not found" in alone.not_compared()


def test_copies_are_found_in_other_manifests(folder, tmp_path):
    original = folder / "original.wav"
    soundfile.write(original, *soundfile.read(RECORDINGS / "0018-sad.flac"))
    other = tmp_path / "other"
    other.mkdir()
    made = copies(original, other)
    rows = [row(n, key=name, audio=name, duration=None, sample_rate=None) for n, name in enumerate(made)]
    rows.append(row(98, key="held-out", audio="quiet.wav", split="test", duration=None, sample_rate=None))
    write_records(other / "train.jsonl", rows)
    path = written(folder, [row(0, key="original", audio="original.wav", duration=None, split="all")])
    report = check(path, against=[other / "train.jsonl"])
    audio = report.against.overlaps["audio"]
    assert report.leakage is None and audio.test_rows == 1 and audio.train_rows == len(made)
    assert audio.examples == [("the same samples", "flac.flac", "original")]
    assert check(path, decode=False, against=[other / "train.jsonl"]).against.any is False
    (other / "quiet.wav").unlink()
    report = check(path, against=[other / "train.jsonl"])
    assert report.against.overlaps["audio"].train_unknown == 1, "what cannot be read is not compared"


def test_a_recording_with_two_labels(folder):
    samples, rate = soundfile.read(folder / "1.wav")
    soundfile.write(folder / "again.flac", samples, rate)
    (folder / "3.wav").write_bytes((folder / "2.wav").read_bytes())
    rows = [
        row(0),
        row(1),
        row(8, audio="again.flac", emotion="happy"),
        row(2),
        row(3),
        row(9, audio="2.wav", emotion=None),
    ]
    report = check(written(folder, rows))
    assert report.duplicates == [["k1", "k8"], ["k2", "k3", "k9"]]
    assert told(report) == {(3, "k8: labelled happy, the same recording as k1, labelled sad")} and not report.ok


def test_leakage_inside_of_a_manifest(folder):
    rows = [row(0, speaker="ann"), row(1, speaker="ben"), row(2, speaker="ann", split="test")]
    report = check(written(folder, rows), decode=False)
    assert report.leakage is not None and report.leakage.overlaps["speaker"].shared == 1
    assert report.ok and not report.spotless, "a protocol can mean it so; --strict does not"


def test_a_recording_on_both_sides_is_wrong(folder):
    (folder / "3.wav").write_bytes((folder / "1.wav").read_bytes())
    path = written(folder, [row(1), row(3, split="test")])
    report = check(path)
    assert report.problems == [] and not report.ok, "told by its content, although no row is hashed"
    assert report.leakage.overlaps["audio"].examples[0][1:] == ("k1", "k3")
    assert check(path, decode=False).ok, "rows alone do not tell"


def test_no_rows(folder):
    with pytest.raises(RellmError, match="holds no utterance"):
        check(written(folder, []))


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
    assert list(ordered_map(lambda x: x * x, range(200), 3)) == [x * x for x in range(200)]

    def fail(value):
        raise ValueError(value)

    with pytest.raises(ValueError, match="0"):
        list(ordered_map(fail, range(5), 2))
