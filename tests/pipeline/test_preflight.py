"""What would stop a run after hours is found in its first second."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_world
from safetensors.torch import save_file
from test_convert import ranks, small_qwen

from re_llm.core.errors import RellmError
from re_llm.model.components import speech_config
from re_llm.pipeline import room
from re_llm.pipeline.conversions import convert_all
from re_llm.pipeline.preflight import Preflight, preflight
from re_llm.recipe.config import Recipe
from re_llm.recipe.stages import StageOptions

__all__ = ["ranks"]  # a fixture
EMOTIONS = ["neutral", "sad", "angry", "happy"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """llm, whisper, emotion and a checkpoint over them, in one folder."""
    root = tmp_path_factory.mktemp("preflight")
    for name in ("llm", "whisper", "emotion"):
        shutil.copytree(tiny_checkpoint.parent / name, root / name)
    shutil.copytree(tiny_checkpoint, root / "checkpoint")
    return root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    lines = ["audio,text,emotion,split"]
    for number, emotion in enumerate(EMOTIONS * 2):
        soundfile.write(root / f"{number}.wav", tiny_world.wave(1.0, number), 16_000)
        lines.append(f"{number}.wav,words {number},{emotion},{'train' if number < 4 else 'test'}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return root


def recipe(parts: Path, corpus: Path, **changes: object) -> Recipe:
    given = {
        "name": "tiny",
        "title": "Tiny",
        "components": {"llm": str(parts / "llm"), "speech_encoder": str(parts / "whisper"),
                       "emotion_encoder": str(parts / "emotion")},
        "model": {"speech_window": "trimmed", "adapter": {"bottleneck": 16}, "lora": {"r": 4}},
        "corpora": {"mine": {"reader": "table", "root": str(corpus)}},
        "stages": {"finetune": {"start": str(parts / "checkpoint"), "losses": {"response_ce": 1.0}, "lr": 1e-3}},
        "systems": {"re-llm": {"kind": "speech", "stage": "finetune", "per_corpus": True}},
        **changes,
    }  # fmt: skip
    return Recipe.model_validate(given)


def found(given: Recipe, **options: object) -> Preflight:
    return preflight(given, **options)[1]  # type: ignore[arg-type]


def said(given: Recipe) -> str:
    return "\n".join(map(str, found(given).findings))


def test_a_recipe_that_can_run(parts: Path, corpus: Path) -> None:
    result = found(recipe(parts, corpus))
    assert result.findings == [] and result.rows == {"mine": {"train": 4, "test": 4}}
    assert result.notes == ["ER, Ex and IP by the small scorer, which is not the paper's RoBERTa bi-encoder"]
    result.check()


def test_everything_that_is_missing_is_named_at_once(parts: Path, corpus: Path, tmp_path: Path) -> None:
    given = recipe(
        parts,
        tmp_path / "nowhere",
        components={
            "llm": "some/llm",
            "speech_encoder": str(tmp_path / "w"),
            "emotion_encoder": str(parts / "emotion"),
        },
        stages={"finetune": {"start": "checkpoints/blsp", "losses": {"response_ce": 1.0}, "lr": 1e-3}},
        scorer=str(tmp_path / "roberta"),
    )
    lines = said(given)
    assert "llm: some/llm is not on this machine; get it with: hf download some/llm" in lines
    assert "speech_encoder: " in lines and "re-llm convert DOWNLOAD checkpoints/blsp" in lines
    assert "corpus mine: no folder" in lines and "--set corpora.mine.root=FOLDER" in lines
    assert "scorer: no such empathy scorer" in lines and "re-llm score train" in lines
    with pytest.raises(RellmError, match="cannot run here"):
        found(given).check()


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("llm/tokenizer.json", "llm: .*tokenizer"),
        ("llm/model.safetensors", "llm: .*weights"),
        ("whisper/preprocessor_config.json", "speech_encoder: .*preprocessor_config"),
        ("checkpoint/model.safetensors", "stage finetune: .*weights"),
        ("checkpoint/config.json", "stage finetune: .*no checkpoint of re-llm"),
    ],
)
def test_a_part_that_lacks_a_file_is_named(parts: Path, corpus: Path, tmp_path: Path, broken: str, named: str) -> None:
    copy = shutil.copytree(parts, tmp_path / "parts")
    (copy / broken).unlink()
    assert re.search(named, said(recipe(copy, corpus))), said(recipe(copy, corpus))


def test_a_truncated_weight_file_is_found(parts: Path, corpus: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(parts, tmp_path / "parts")
    weights = copy / "whisper" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "speech_encoder: " in said(recipe(copy, corpus))


def test_a_checkpoint_over_another_llm_is_found(parts: Path, corpus: Path, tmp_path: Path) -> None:
    wide = tiny_world.save_llm(tmp_path / "wide", width=64)
    components = {"llm": str(wide), "speech_encoder": str(parts / "whisper"), "emotion_encoder": str(parts / "emotion")}
    assert "was made for a LLM of width 32, the recipe's has 64" in said(recipe(parts, corpus, components=components))
    assert "has LoRA of rank 4, the recipe's has 8" in said(recipe(parts, corpus, model={"lora": {"r": 8}}))
    assert "knows the emotions" in said(recipe(parts, corpus, emotions=["neutral", "sad"]))


def test_a_corpus_that_is_not_one_and_a_missing_test_split(parts: Path, corpus: Path, tmp_path: Path) -> None:
    esd = {"mine": {"reader": "esd", "root": str(corpus)}}
    assert "corpus mine: " in said(recipe(parts, corpus, corpora=esd))
    only = tmp_path / "only.csv"
    only.write_text("audio,text,emotion,split\n0.wav,words,sad,test1\n")
    shutil.copy(corpus / "0.wav", tmp_path / "0.wav")
    named = {"mine": {"reader": "table", "root": str(only)}}
    lines = said(recipe(parts, corpus, corpora=named))
    assert "has no split `test` (it has test1); set corpora.mine.test_splits" in lines
    assert "is trained on by system re-llm, but has no split `train` (it has test1)" in lines
    named["mine"]["test_splits"] = ["test1"]
    assert "`test`" not in said(recipe(parts, corpus, corpora=named))


def test_emotions_of_a_test_set_that_no_system_can_name_are_told(parts: Path, corpus: Path) -> None:
    few = {"emotions": EMOTIONS[:3]}
    (note,) = (each for each in found(recipe(parts, corpus, **few)).notes if "mine" in each)
    assert "1 of 4 utterances" in note and "(happy)" in note
    assert 'corpora.mine.options.keep_emotions="neutral, sad, angry"' in note
    for changes in ({"options": {"keep_emotions": "neutral, sad, angry"}}, {"ask": "reply"}, {"evaluate": False}):
        own = {"mine": {"reader": "table", "root": str(corpus), **changes}}
        given = recipe(parts, corpus, corpora=own, systems={}, **few)
        assert not any("mine" in each for each in found(given).notes)


def test_speakers_that_an_option_holds_out_are_the_test_split(parts: Path, corpus: Path, tmp_path: Path) -> None:
    rows = [f"{corpus}/{number}.wav,words {number},sad,{'ab'[number % 2]}" for number in range(4)]
    (tmp_path / "people.csv").write_text("\n".join(["audio,text,emotion,speaker", *rows]) + "\n")
    named = {"mine": {"reader": "table", "root": str(tmp_path / "people.csv")}}
    assert "has no split `test`" in said(recipe(parts, corpus, corpora=named))
    named["mine"]["options"] = {"test_speakers": "b"}
    assert "has no split" not in said(recipe(parts, corpus, corpora=named))
    assert found(recipe(parts, corpus, corpora=named)).rows["mine"] == {"train": 2, "test": 2}


def test_a_split_that_is_held_out_must_be_there(parts: Path, corpus: Path) -> None:
    stage = {"start": str(parts / "checkpoint"), "losses": {"response_ce": 1.0}, "lr": 1e-3}
    stages = {"finetune": {**stage, "validation": {"split": "dev"}}}
    line = "is held out by system re-llm, but has no split `dev` (it has train, test); set the stage's validation.split"
    assert line in said(recipe(parts, corpus, stages=stages))


def test_the_size_of_the_encoder_states_is_told(parts: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SECONDS", 1e6)
    stage = {"start": str(parts / "checkpoint"), "losses": {"response_ce": 1.0}, "lr": 1e-3}
    monkeypatch.setattr(room, "_free", lambda out: 10**12)
    width = 4 * 1e6 * room.STATES * room.STATE_BYTES / 1e9  # four utterances, GB for each column
    states = width * speech_config(parts / "whisper").d_model
    assert f"encoder states take about {states:.1f} GB of disk" in found(recipe(parts, corpus)).notes[-1]
    without = recipe(parts, corpus, stages={"finetune": {**stage, "features": "none"}})
    assert f"`features: none` spares about {states:.1f} GB of disk" in found(without).notes[-1]


def test_too_little_memory_or_disk(parts: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = recipe(parts, corpus)
    monkeypatch.setattr(room, "_memory", lambda device: (1000, "memory"))
    assert "stage finetune: about 0.8 GB of memory to train, 0.0 GB here" in said(given)  # two workers of 0.4
    monkeypatch.setattr(room, "_free", lambda out: 10)
    assert "disk: about 2.0 GB to write" in said(given)


def test_memory_counts_frozen_parts_in_two_bytes_and_trained_ones_in_sixteen() -> None:
    sizes = {"llm": 7_000_000_000, "speech_encoder": 600_000_000, "adapter": 30_000_000, "lora": 10_000_000}
    stage = StageOptions(losses={"response_ce": 1.0}, lr=1e-3)
    expected = 7_600_000_000 * 2 + 40_000_000 * 16 + room.BESIDE
    assert room.training_bytes(sizes, stage) == expected


def test_a_qwen_of_version_one_is_converted_when_asked(
    parts: Path, corpus: Path, tmp_path: Path, ranks: dict[bytes, int]
) -> None:
    source = tmp_path / "Qwen-7B-Chat"
    tensors, _ = small_qwen(ranks, source)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source / "model.safetensors")
    components = {"llm": str(source), "speech_encoder": str(parts / "whisper")}
    given = recipe(parts, corpus, components=components, model={"fusion": "none", "lora": None},
                   stages={"s": {"losses": {"response_ce": 1.0}, "lr": 1e-3, "train": ["adapter"]}},
                   systems={"text": {"kind": "text"}})  # fmt: skip
    assert "is a Qwen of version 1; convert it with --convert" in said(given)
    changed, result = preflight(given, tmp_path / "run", convert=True)
    assert result.findings == [] and Path(changed.components.llm).is_relative_to(tmp_path / "run" / "converted")
    lines: list[str] = []
    again, _ = preflight(given, tmp_path / "run", convert=True, say=lines.append)
    assert again == changed and lines == []
    save_file({name: tensor.contiguous() + 1 for name, tensor in tensors.items()}, source / "model.safetensors")
    preflight(given, tmp_path / "run", convert=True, say=lines.append)
    assert lines[0] == f"converting {source}", "another model under the same name"
    config = Path(changed.components.llm) / "config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(RellmError, match="was changed after it was written"):
        preflight(given, tmp_path / "run", convert=True)


def test_a_conversion_is_known_by_content_and_not_by_dates(
    parts: Path, corpus: Path, tmp_path: Path, ranks: dict[bytes, int]
) -> None:
    """Other weights with the size and the dates of the old ones; and the same weights, copied anew."""
    source = tmp_path / "Qwen-7B-Chat"
    tensors, _ = small_qwen(ranks, source)
    weights = source / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    lines: list[str] = []
    convert_all({"Qwen-7B-Chat": source}, tmp_path / "run", lines.append)
    dates = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    shutil.copy(weights, tmp_path / "copy")
    shutil.move(tmp_path / "copy", weights)
    convert_all({"Qwen-7B-Chat": source}, tmp_path / "run", lines.append)
    assert len(lines) == 2  # the one conversion: its start and its summary
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=dates)
    convert_all({"Qwen-7B-Chat": source}, tmp_path / "run", lines.append)
    assert lines[2] == "converting Qwen-7B-Chat"


def test_recordings_are_not_decoded(parts: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from re_llm.audio import waveform

    monkeypatch.setattr(waveform, "load", lambda *a, **k: pytest.fail("decoded"))
    assert found(recipe(parts, corpus)).findings == []
    assert np.isfinite(tiny_world.wave(0.1)).all()
