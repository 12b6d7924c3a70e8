"""The corpora on disk: genuine layouts, reproducible, resumable, nothing of the test parts in the training parts."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="needs the extra 'mini'")

from re_llm.core.errors import RellmError
from re_llm.mini import casting
from re_llm.mini.grammar import world
from re_llm.mini.layouts import WORLD_SIZE, write_world

SCALE = 0.001


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, scale=SCALE, workers=1, progress=False)
    return folder


@pytest.fixture(scope="module")
def sentences():
    return world(seed=0, size=WORLD_SIZE)


@pytest.fixture(scope="module")
def plans(sentences):
    return {name: plan(sentences, 0, 1.0) for name, plan in casting.PLANS.items()}


def test_recordings_do_not_depend_on_order_or_processes(root, tmp_path):
    write_world(tmp_path, scale=SCALE, workers=2, progress=False, corpora=["msp_podcast"])
    for path in sorted((root / "msp_podcast").rglob("*.*")):
        other = tmp_path / path.relative_to(root)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest(), path


def test_a_finished_corpus_is_skipped_and_another_seed_refused(root):
    table = root / "esd" / "0011" / "0011.txt"
    before = table.stat().st_mtime_ns
    summary = write_world(root, scale=SCALE, workers=1, progress=False)
    assert table.stat().st_mtime_ns == before
    assert set(summary) == set(casting.PLANS) and summary["esd"]["recordings"] == 200
    with pytest.raises(RellmError, match="seed 0"):
        write_world(root, seed=1, scale=SCALE)
    marker = root / "done" / "esd.json"
    told = marker.read_text()
    marker.write_text(json.dumps({**json.loads(told), "takes": "of another version"}))
    with pytest.raises(RellmError, match=r"esd\.json: made of other sentences or voices"):
        write_world(root, scale=SCALE, workers=1, progress=False)
    marker.write_text(json.dumps({name: value for name, value in json.loads(told).items() if name != "takes"}))
    assert "takes" not in write_world(root, scale=SCALE, workers=1, progress=False)["esd"]  # an earlier version's
    marker.write_text(told)
    with pytest.raises(RellmError, match="scale is 0"):
        write_world(root, scale=0)
    with pytest.raises(RellmError, match="unknown corpora"):
        write_world(root, scale=SCALE, corpora=["meld"])


def test_truth_names_every_recording_once(root):
    rows = [json.loads(line) for line in (root / "truth.jsonl").read_text().splitlines()]
    on_disk = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in (".wav", ".flac")}
    assert {row["audio"] for row in rows} == on_disk and len(rows) == len(on_disk)
    for row in rows[::20]:
        info = soundfile.info(root / row["audio"])
        assert info.samplerate == 16_000 and info.channels == 1
        assert info.duration == pytest.approx(row["duration"], abs=0.001)
        assert all(0 <= value <= 1 for value in row["vad"])


def test_iemocap_layout(root):
    header = re.compile(
        r"\[\d+\.\d{4} - \d+\.\d{4}\]\tSes0\dF_impro01_[FM](\d{3}|XX0)\t[a-z]{3}\t\[(\d\.\d{4}(, )?){3}\]"
    )
    for session in range(1, 6):
        folder = root / "iemocap" / f"Session{session}"
        name = f"Ses0{session}F_impro01"
        lines = (folder / "dialog" / "EmoEvaluation" / f"{name}.txt").read_text().splitlines()
        assert lines[0].startswith("% [START_TIME - END_TIME]")
        turns = [line for line in lines if line.startswith("[")]
        assert turns and all(header.fullmatch(line) for line in turns)
        assert sum(line.startswith("C-E") for line in lines) == 3 * len(turns)
        assert all("dom  " in line for line in lines if line.startswith("A-E"))
        ids = [line.split("\t")[1] for line in turns]
        assert ids == [*dict.fromkeys(ids)] and any(i.endswith("XX0") for i in ids)
        raw = (folder / "dialog" / "transcriptions" / f"{name}.txt").read_bytes()
        with pytest.raises(UnicodeDecodeError):
            raw.decode("utf-8")
        spoken = [line for line in raw.decode("latin-1").splitlines() if line.startswith("Ses")]
        assert [line.split(" ")[0] for line in spoken] == ids
        for turn in ids:
            assert (folder / "sentences" / "wav" / name / f"{turn}.wav").is_file()
        assert (folder / "dialog" / "EmoEvaluation" / "Categorical").is_dir()


def test_iemocap_raters_average_to_the_consensus(root):
    text = (root / "iemocap/Session2/dialog/EmoEvaluation/Ses02F_impro01.txt").read_text()
    for block in text.split("\n\n")[1:]:
        numbers = re.search(r"\[(\d\.\d+), (\d\.\d+), (\d\.\d+)\]", block)
        raters = [[int(n) for n in found] for found in re.findall(r"val (\d); act (\d); dom  (\d);", block)]
        if numbers:
            assert np.mean(raters, axis=0).tolist() == [float(n) for n in numbers.groups()]
            assert all(1 <= value <= 5 for rater in raters for value in rater)


def test_esd_layout_and_encodings(root):
    seen = set()
    for speaker in casting.ESD_SPEAKERS:
        raw = (root / "esd" / speaker / f"{speaker}.txt").read_bytes()
        encoding = "utf-16" if raw[:2] == b"\xff\xfe" else "utf-8-sig"
        seen.add((encoding, raw[:3] == b"\xef\xbb\xbf", b"\r" in raw))
        rows = [line.split("\t") for line in raw.decode(encoding).splitlines()]
        texts: dict[int, set[str]] = {}
        for stem, text, label in rows:
            assert (root / "esd" / speaker / label / f"{stem}.wav").is_file()
            number = int(stem.split("_")[1])
            assert number - casting.ESD_OFFSETS[label.lower()] in range(1, 5)
            texts.setdefault((number - 1) % 350, set()).add(text)
        assert all(len(same) == 1 for same in texts.values())
        assert len(rows) == 20
    assert len(seen) >= 4


def test_msp_podcast_layout(root):
    with (root / "msp_podcast/Labels/labels_consensus.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["Split_Set"] for row in rows} == {"Train", "Development", "Test1"}
    for row in rows:
        assert re.fullmatch(r"MSP-PODCAST_\d{4}_\d{4}\.wav", row["FileName"])
        assert (root / "msp_podcast/Audios" / row["FileName"]).is_file()
        assert (root / "msp_podcast/Transcripts" / row["FileName"].replace(".wav", ".txt")).read_text().strip()
        assert row["EmoClass"] in "NHASUXOCDF" and row["Gender"] in ("Female", "Male")
        assert all(1 <= float(row[name]) <= 7 for name in ("EmoAct", "EmoVal", "EmoDom"))


def test_speech_layout(root):
    for split in ("train", "dev", "test"):
        with (root / "speech/en" / f"{split}.tsv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert len(rows) >= 8
        assert all((root / "speech/en/clips" / row["path"]).is_file() and row["sentence"] for row in rows)


def test_sizes_and_label_mix_of_the_full_world(plans):
    sizes = {name: len(takes) for name, takes in plans.items()}
    assert sizes == {"speech": 12_600, "msp_podcast": 9_100, "esd": 4_000, "iemocap": 1_500}
    assert len({take.audio for takes in plans.values() for take in takes}) == sum(sizes.values())
    four = sum(take.label in ("neu", "hap", "exc", "ang", "sad") for take in plans["iemocap"])
    assert 1_100 <= four <= 1_200
    codes = [take.label for take in plans["msp_podcast"]]
    assert 0.02 < sum(code not in "NHASU" for code in codes) / len(codes) < 0.06
    neutral = np.mean([take.emotion == "neutral" for take in plans["speech"]])
    assert 0.45 < neutral < 0.55


def test_test_parts_share_no_voice_and_no_sentence_with_anything_else(plans):
    parts: dict[str, list[casting.Take]] = {}
    for takes in plans.values():
        for take in takes:
            unseen = take.split in ("Session5", "0018", "0019", "0020", "Test1", "Development", "dev", "test")
            name = f"{take.corpus}/{'esd' if take.corpus == 'esd' else take.split}" if unseen else "train"
            parts.setdefault(name, []).append(take)
    cast = {name: {take.voice.name for take in takes} for name, takes in parts.items()}
    names = sorted(cast)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert not cast[name] & cast[other], (name, other)
    demo = {voice.name for voice in casting.voices("test")[casting.UNSEEN["demo"]]}
    assert not demo & set().union(*cast.values())
    for name, takes in parts.items():
        if "esd" not in name and name != "train":
            own = "dev" if name.endswith(("Development", "/dev")) else "test"
            assert {take.sentence.split for take in takes} == {own}, name
    rest = [take for take in parts["train"] if take.corpus != "esd"]
    assert {take.sentence.split for take in rest} == {"train"}


def test_esd_sentences_divide_by_number(plans):
    for take in plans["esd"]:
        number = (int(Path(take.audio).stem.split("_")[1]) - 1) % 350
        assert take.sentence.split == ("test" if number >= 56 else "train")
        assert take.sentence.words_emotion == "neutral"


def test_words_and_voice_agree_where_the_words_tell(plans):
    for takes in plans.values():
        assert all(t.emotion == t.sentence.words_emotion for t in takes if t.sentence.words_emotion != "neutral")
    plain = [t.emotion for t in plans["msp_podcast"] if t.sentence.words_emotion == "neutral"]
    counts = np.unique(plain, return_counts=True)[1] / len(plain)
    assert len(counts) == 5 and counts.max() - counts.min() < 0.04
