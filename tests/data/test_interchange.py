"""Out into the formats of others and back again."""

import gzip
import io
import json

import numpy as np
import pytest
import soundfile
from corpus_worlds import prepare

from re_llm.audio import waveform
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.records import Continuation, Utterance, read_records, write_records
from re_llm.data import interchange


@pytest.fixture
def manifest(tmp_path):
    """Two whole recordings and a segment of a third."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        path = tmp_path / "data" / "clips" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.3, 0.3, 8000), 16_000)
        values = {"valence": 0.25, "arousal": 0.5, "dominance": 1.0, "vad_source": "annotated"} if number else {}
        start = {"start": 0.1, "duration": 0.2} if number == 2 else {"duration": 0.5}
        rows.append(
            Utterance(
                key=f"k{number}",
                corpus="own",
                split="test" if number == 2 else "train",
                audio=f"clips/{number}.wav",
                text=f"words of {number}",
                language="en",
                speaker=f"s{number}",
                emotion="sad",
                **start,
                **values,
            )
        )
    write_records(tmp_path / "data" / "manifest.jsonl", rows)
    return tmp_path / "data" / "manifest.jsonl"


def back(kind, root, out, **options):
    report = prepare(kind, root, out, options=options)
    assert report.problems == []
    return list(read_records(out, Utterance))


def heard(manifest, utterance):
    return waveform.load(utterance.audio, start=utterance.start, duration=utterance.duration, root=manifest.parent)


def assert_same(manifest, out, found, *, keys=True, atol=1e-7):
    for row, original in zip(found, read_records(manifest, Utterance), strict=True):
        names = ("text", "emotion", "valence", "arousal", "dominance") + (
            ("key", "split", "speaker", "language") if keys else ()
        )
        assert {n: getattr(row, n) for n in names} == {n: getattr(original, n) for n in names}
        np.testing.assert_allclose(heard(out, row), heard(manifest, original), atol=atol)


def test_lhotse(manifest, tmp_path):
    out = tmp_path / "x" / "cuts.jsonl"
    assert interchange.export(manifest, out, "lhotse") == 3
    assert_same(manifest, tmp_path / "b.jsonl", back("lhotse", out, tmp_path / "b.jsonl"))
    packed = tmp_path / "cuts.jsonl.gz"
    assert interchange.export(manifest, packed, "lhotse") == 3
    assert gzip.decompress(packed.read_bytes()) == out.read_bytes()
    assert len(back("lhotse", packed, tmp_path / "b.jsonl")) == 3
    packed.write_bytes(gzip.compress(out.read_bytes())[:-40])
    with pytest.raises(RellmError, match="cannot read"):
        prepare("lhotse", packed, tmp_path / "b.jsonl")


VAD = {"valence": 0.1, "arousal": 0.2, "dominance": 1.0}
EVERY_FIELD = {
    "text": "Éa - 你好\n\"so\"", "language": "fr", "speaker": "s 1", "dialogue": "d/1", "turn": 3, "emotion": "sad",
    "emotion_raw": "SAD!", "split": "test-clean", "corpus": "my_corpus", "gender": "female", "intensity": 2,
    "votes": {"sad": 2, "neutral": [1, None]}, "vad_range": [1.0, 7.0], "vad_source": "annotated", **VAD,
}  # fmt: skip
ROWS = {
    "every field": EVERY_FIELD,
    "pseudo": {"emotion": "happy", "vad_source": "pseudo:mini:emotion", **VAD},
    "estimated beside a label of another set": {
        "emotion": "joyful", "emotion_raw": "Joyful", "label_set": "empathetic_dialogues", "vad_source": "pseudo:m",
        **VAD,
    },
    "annotated without a range": {"vad_source": "annotated", **VAD},
    "one dimension": {"valence": 0.5},
    "nothing": {},
    "no label, but a raw one": {"emotion_raw": "xxx"},
    "no speaker in a corpus that EmoBox knows": {"corpus": "ravdess"},
}  # fmt: skip
NOT_COMPARED = set(interchange.LOCATION) - {"start", "duration"}  # of another file


@pytest.mark.parametrize("kind", ["peers", "emobox", "lhotse", "webdataset", "hf"])
def test_no_field_is_lost(kind, tmp_path):
    if kind == "hf":
        pytest.importorskip("datasets", reason="the extra `data` is not installed")
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    rows = []
    for number, fields in enumerate(ROWS.values()):
        soundfile.write(tmp_path / f"data/{number}.wav", rng.uniform(-0.3, 0.3, 16_000), 16_000)
        segment = {"start": 0.25, "duration": 0.5} if number % 2 and kind != "peers" else {"duration": 1.0}
        row = {"key": f"ravdess-{number}-18", "corpus": "own", "split": "train", "audio": f"{number}.wav", **segment}
        rows.append(Utterance(**{**row, **fields}))
    rows.append(rows[0].model_copy(update={"key": "beginning", "duration": 0.5 if kind != "peers" else 1.0}))
    write_records(tmp_path / "data/m.jsonl", rows)
    out = tmp_path / ("out" if kind in ("webdataset", "hf") else "out.jsonl")
    assert interchange.export(tmp_path / "data/m.jsonl", out, kind) == len(rows)
    options = {"scale": "1..5"}  # of ratings of other people: those of an export are on 0..1
    options = {"audio_root": str(tmp_path)} if kind == "emobox" else options
    options |= {"extract": str(tmp_path / "sounds")} if kind == "hf" else {}
    report = prepare(kind, out, tmp_path / "back.jsonl", options=options)
    assert report.problems == [] and report.notes == [] and report.dropped == {}
    found = {row.key: row for row in read_records(tmp_path / "back.jsonl", Utterance)}
    assert len(found) == len(rows)
    cut = kind in ("webdataset", "hf")  # segments become files
    for row in rows:
        left_out = NOT_COMPARED | ({"start", "duration"} if cut else set())
        assert found[row.key].model_dump(exclude=left_out) == row.model_dump(exclude=left_out)
        assert found[row.key].duration == pytest.approx(row.duration)
        np.testing.assert_allclose(
            heard(tmp_path / "back.jsonl", found[row.key]), heard(tmp_path / "data/m.jsonl", row), atol=2 / 32768
        )


@pytest.mark.parametrize("broken", ["[1]", '"x"', '{"turn": "x"}', '{"key": ""}', '"' + "[" * 5000 + '"'])
def test_fields_that_were_damaged_are_a_problem(broken, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 8000), 16_000)
    (tmp_path / "p.jsonl").write_text(f'{{"audio": "a.wav"}}\n{{"audio": "a.wav", "re_llm": {broken}}}\n')
    report = prepare("peers", tmp_path / "p.jsonl", tmp_path / "b.jsonl")
    assert report.rows == 1 and [p.line for p in report.problems] == [2]


def test_lhotse_cuts_with_several_supervisions(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 64_000), 16_000)
    supervisions = [
        {"id": "s1", "start": -0.5, "duration": 1.0, "text": "one", "speaker": "ann", "custom": {"emotion": "sad"}},
        {"id": "s2", "start": 1.0, "duration": 0.75, "text": "two", "speaker": "ben", "custom": {"split": "test"}},
        {"id": "s3", "start": 1.5, "duration": 2.0, "text": "three"},
    ]
    recording = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a.wav"}]}
    cut = {"id": "c", "start": 1.0, "duration": 2.5, "channel": 0, "type": "MonoCut", "recording": recording}
    (tmp_path / "cuts.jsonl").write_text(json.dumps({**cut, "supervisions": supervisions}) + "\n")
    found = [(u.key, u.start, u.duration, u.text, u.speaker, u.emotion, u.split) for u in
             back("lhotse", tmp_path / "cuts.jsonl", tmp_path / "b.jsonl")]  # fmt: skip
    assert found == [
        ("s1", 1.0, 0.5, "one", "ann", "sad", "all"),
        ("s2", 2.0, 0.75, "two", "ben", None, "test"),
        ("s3", 2.5, 1.0, "three", None, None, "all"),
    ]
    (tmp_path / "cuts.jsonl").write_text(json.dumps({**cut, "supervisions": supervisions[1:2]}) + "\n")
    (only,) = back("lhotse", tmp_path / "cuts.jsonl", tmp_path / "b.jsonl")
    assert (only.key, only.start, only.duration) == ("c", 1.0, 2.5), "the cut of a single one is the utterance"


def test_lhotse_cuts_that_are_no_files(manifest, tmp_path):
    out = tmp_path / "cuts.jsonl"
    interchange.export(manifest, out, "lhotse")
    good = out.read_text()
    out.write_text(good + '{"id": "m", "type": "MixedCut"}\n{"id": "n", "recording": {"sources": [{"type": "url"}]}}\n')
    report = prepare("lhotse", out, tmp_path / "b.jsonl")
    assert report.rows == 3 and [p.line for p in report.problems] == [4, 5]


def test_webdataset(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(interchange, "PER_SHARD", 2)
    out = tmp_path / "shards"
    assert interchange.export(manifest, out, "webdataset") == 3
    assert sorted(p.name for p in out.iterdir()) == ["000000.tar", "000001.tar"]
    found = back("webdataset", out, tmp_path / "b.jsonl")
    assert all(".tar:" in u.audio for u in found)
    assert_same(manifest, tmp_path / "b.jsonl", found, atol=2 / 32768)
    assert [p.name for p in out.iterdir() if p.suffix != ".tar"] == []
    with pytest.raises(RellmError, match="shards is there already and not empty"):
        interchange.export(manifest, out, "webdataset")
    (out / "000002.tar").write_bytes(b"no archive" * 100)
    assert [p.file for p in prepare("webdataset", out, tmp_path / "b.jsonl").problems] == ["000002.tar"]


def test_webdataset_by_other_people(tmp_path):
    import tarfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).uniform(-0.1, 0.1, 4000), 16_000, format="FLAC")
    members = {
        "a/x.flac": buffer.getvalue(),
        "a/x.txt": b"hello",
        "a/x.cls": b"joy",
        "a/y.txt": b"alone",
        "a/z.json": b"[1]",
    }
    with tarfile.open(tmp_path / "t.tar", "w") as shard:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    report = prepare("webdataset", tmp_path / "t.tar", tmp_path / "m.jsonl")
    row = next(read_records(tmp_path / "m.jsonl", Utterance))
    assert (row.key, row.text, row.emotion) == ("a-x", "hello", "happy")
    assert {p.what for p in report.problems} == {"the sample a/y has no recording", "a/z.json: not a JSON object"}


def test_emobox(manifest, tmp_path):
    out = tmp_path / "own.jsonl"
    assert interchange.export(manifest, out, "emobox") == 3
    found = back("emobox", out, tmp_path / "b.jsonl", audio_root=str(tmp_path))
    assert [(u.key, u.emotion, u.speaker, u.start) for u in found] == [
        ("k0", "sad", "s0", 0.0),
        ("k1", "sad", "s1", 0.0),
        ("k2", "sad", "s2", 0.1),
    ]
    assert found[2].duration == pytest.approx(0.2)
    first = next(read_records(manifest, Utterance)).model_copy(update={"emotion": None})
    write_records(manifest, [first])
    out.unlink()
    assert interchange.export(manifest, out, "emobox") == 1, "a row without a label is not lost"
    assert back("emobox", out, tmp_path / "b.jsonl", audio_root=str(tmp_path))[0].emotion is None


@pytest.mark.parametrize("kind", interchange.EXPORTS)
def test_nothing_is_written_over(manifest, tmp_path, kind):
    """Neither another file nor the manifest itself; a folder of shards would keep those of the last time."""
    before = manifest.read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("my own work")
    for out in (manifest, tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(RellmError, match="is there already and not empty"):
            interchange.export(manifest, out, kind)
    assert manifest.read_bytes() == before and (tmp_path / "mine" / "notes.txt").read_text() == "my own work"


def test_peers(manifest, tmp_path):
    with pytest.raises(RellmError, match=r"k2 is a part of clips/2\.wav.*webdataset"):
        interchange.export(manifest, tmp_path / "p.jsonl", "peers")
    whole = list(read_records(manifest, Utterance))[:2]
    write_records(manifest, whole)
    assert interchange.export(manifest, tmp_path / "p.jsonl", "peers") == 2
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows[1]["avd_ans"] == [0.5, 0.25, 1.0], "arousal, valence, dominance"
    found = back("peers", tmp_path / "p.jsonl", tmp_path / "b.jsonl")
    assert_same(manifest, tmp_path / "b.jsonl", found, keys=False)


def test_peers_on_the_scale_of_iemocap(manifest, tmp_path):
    row = {"audio": "data/clips/0.wav", "text": "t", "emotion": "sad", "avd_ans": [1, 3, 5]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    (found,) = back("peers", tmp_path / "p.jsonl", tmp_path / "b.jsonl", scale="1..5")
    assert (found.arousal, found.valence, found.dominance) == (0.0, 0.5, 1.0)


def test_continuations_of_the_peers(tmp_path):
    row = {
        "audio": "a/b.wav", "text": "t", "instruction": "Continue: ", "emotion": "sad", "output": "Oh.",
        "early_stop": True, "avd_ans": [1, 3, 5],
    }  # fmt: skip
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "deep" / "c.jsonl"
    assert interchange.continuations_from_peers(tmp_path / "p.jsonl", out, llm="some-llm", scale=(1, 5)) == 1
    record = next(read_records(out, Continuation))
    assert (record.key, record.audio, record.llm, record.early_stop) == ("p-b", "../a/b.wav", "some-llm", True)
    assert record.dimensions() == (0.5, 0.0, 1.0)
    assert interchange.continuations_to_peers(out, tmp_path / "q.jsonl") == 1
    again = json.loads((tmp_path / "q.jsonl").read_text())
    assert again == {**row, "avd_ans": [0.0, 0.5, 1.0]}
    (tmp_path / "p.jsonl").write_text('{"audio": "a.wav"}\n')
    with pytest.raises(RellmError, match=r"p\.jsonl:1: not a continuation"):
        interchange.continuations_from_peers(tmp_path / "p.jsonl", tmp_path / "new.jsonl", llm="x")
    for same in (lambda: interchange.continuations_from_peers(out, out, llm="x"),
                 lambda: interchange.continuations_to_peers(out, out)):  # fmt: skip
        with pytest.raises(RellmError, match="is there already and not empty"):
            same()


def test_unknown_format(manifest, tmp_path):
    with pytest.raises(RellmError, match="Allowed: peers, emobox, lhotse, webdataset, hf"):
        interchange.export(manifest, tmp_path / "x", "kaldi")


def test_hf_names_its_extra(manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"re-llm\[data\]"):
        interchange.export(manifest, tmp_path / "x", "hf")
    with pytest.raises(MissingExtra, match=r"re-llm\[data\]"):
        prepare("hf", tmp_path, tmp_path / "b.jsonl")


def test_hf(manifest, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    out = tmp_path / "dataset"
    assert interchange.export(manifest, out, "hf") == 3
    with pytest.raises(RellmError, match="extract=FOLDER"):
        prepare("hf", out, tmp_path / "b.jsonl")
    found = sorted(back("hf", out, tmp_path / "b.jsonl", extract=str(tmp_path / "sounds")), key=lambda u: u.key)
    assert_same(manifest, tmp_path / "b.jsonl", found, atol=2 / 32768)
    # Parquet files with class numbers, as on the hub.
    import pyarrow.parquet

    features = datasets.Features(
        {"audio": datasets.Audio(decode=False), "label": datasets.ClassLabel(names=["joy", "anger"])}
    )
    files = sorted((manifest.parent / "clips").iterdir())
    rows = [{"audio": {"bytes": f.read_bytes(), "path": None}, "label": 1} for f in files]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, tmp_path / "hub/data/test-00000-of-00001.parquet")
    found = back("hf", tmp_path / "hub", tmp_path / "b.jsonl", extract=str(tmp_path / "sounds2"))
    assert [(u.emotion, u.split) for u in found] == [("angry", "test")] * 3


def test_hf_datasets_see_what_was_exported(manifest, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    interchange.export(manifest, tmp_path / "dataset", "hf")
    loaded = datasets.load_from_disk(str(tmp_path / "dataset"))
    assert {split: part.num_rows for split, part in loaded.items()} == {"train": 2, "test": 1}
    assert isinstance(loaded["test"].features["audio"], datasets.Audio)
    row = loaded["test"].cast_column("audio", datasets.Audio(decode=False))[0]
    samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
    original = list(read_records(manifest, Utterance))[2]
    np.testing.assert_allclose(samples, heard(manifest, original), atol=2 / 32768)
    assert rate == 16_000 and row["emotion"] == "sad" and row["valence"] == 0.25 and row["split"] == "test"


def test_hf_folder_of_parquet(manifest, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    # As `Dataset.to_parquet` writes it.
    interchange.export(manifest, tmp_path / "dataset", "hf")
    for split, part in datasets.load_from_disk(str(tmp_path / "dataset")).items():
        part.cast_column("audio", datasets.Audio(decode=False)).to_parquet(
            str(tmp_path / f"hub/data/{split}-0.parquet")
        )
    found = back("hf", tmp_path / "hub", tmp_path / "b.jsonl", extract=str(tmp_path / "sounds"))
    assert {(u.key, u.split, u.valence) for u in found} == {
        ("k0", "train", None), ("k1", "train", 0.25), ("k2", "test", 0.25)
    }  # fmt: skip
