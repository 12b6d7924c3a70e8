"""A stage that hears disturbed copies of its recordings: which, how often, the same ones again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_resume import same

from re_llm.audio import waveform
from re_llm.recipe.emotion import AugmentOptions
from re_llm.recipe.stages import StageOptions, ValidationOptions
from re_llm.train import setup
from re_llm.train.copies import Copies
from re_llm.train.data import load_examples
from re_llm.train.features import build_features
from re_llm.train.identity import segment_ids
from re_llm.train.plan import Plan, build_model
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train

Dies = Callable[[Plan, Path, int], None]
NOISY = AugmentOptions(copies=2, silence_fraction=0, trim_fraction=0)


def augmented(plan: Plan, options: AugmentOptions = NOISY, **changes: object) -> Plan:
    return replace(plan, stage=plan.stage.model_copy(update={"augment": options, **changes}))


def test_a_copy_is_the_same_in_every_run_and_another_one_with_other_options() -> None:
    copies, wave = Copies(NOISY), np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    assert copies.wave(wave, "a" * 32, 0) is wave and copies.id("a" * 32, 0) == "a" * 32
    first, second = copies.wave(wave, "a" * 32, 1), copies.wave(wave, "a" * 32, 2)
    assert np.array_equal(first, Copies(NOISY).wave(wave, "a" * 32, 1)) and not np.array_equal(first, second)
    ids = {copies.id("a" * 32, 1), copies.id("a" * 32, 2), copies.id("b" * 32, 1)}
    ids.add(Copies(NOISY.model_copy(update={"speed": (0.9, 1.1)})).id("a" * 32, 1))
    assert len(ids) == 4 and all(len(each) == 32 for each in ids)
    more = Copies(NOISY.model_copy(update={"copies": 3}))
    assert more.id("a" * 32, 1) == copies.id("a" * 32, 1)  # what is encoded serves a run with more of them


def test_rows_hear_each_copy_as_often(plan: Plan) -> None:
    _, processor = build_model(plan)
    examples = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer).examples
    maker = RowMaker(processor.tokenizer, plan.stage)
    rows = TrainingRows(examples, maker, seed=1, copies=2)
    heard = [rows[epoch, place].copy for epoch in range(50) for place in range(len(rows))]
    assert all(0.25 < heard.count(number) / len(heard) < 0.42 for number in (0, 1, 2))
    again = TrainingRows(examples, maker, seed=1, copies=2)
    assert [again[epoch, place].copy for epoch in range(50) for place in range(len(rows))] == heard
    plain = TrainingRows(examples, maker, seed=1)
    for epoch in range(3):  # nothing else is drawn in another way
        assert [replace(rows[epoch, place], copy=0) for place in range(12)] == [
            plain[epoch, place] for place in range(12)
        ]


def test_states_of_copies_are_those_of_their_waves_and_are_encoded_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = build_model(plan)
    examples = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer).examples
    ids, copies = segment_ids(examples, tmp_path), Copies(NOISY)
    build_features(tmp_path, examples, ids, model.eval(), processor, progress=False)
    store = build_features(tmp_path, examples, ids, model, processor, copies=copies, progress=False)
    assert len(store.speech) == 3 * 12
    example = examples[3]
    wave = copies.wave(waveform.load(example.audio), ids[example.key], 2)
    with torch.no_grad():
        fresh = model.encode_audio(**processor.audio_inputs([wave]))
    cached = store.batch([example.key], None, [2])
    assert cached.speech_lengths.tolist() == fresh.speech_lengths.tolist()
    assert torch.allclose(cached.speech_states, fresh.speech_states, atol=2e-2)
    assert not torch.allclose(cached.speech_states[:, :20], store.batch([example.key]).speech_states[:, :20], atol=2e-2)
    monkeypatch.setattr("re_llm.train.features.encode_part", None)
    build_features(tmp_path, examples, ids, model, processor, copies=copies, progress=False)


def test_a_run_hears_them_and_a_killed_one_goes_on_with_the_same(plan: Plan, tmp_path: Path, killed: Dies) -> None:
    train(augmented(plan), tmp_path / "whole", progress=False)
    train(plan, tmp_path / "plain", progress=False)
    assert not same(tmp_path / "whole", tmp_path / "plain")
    killed(augmented(plan), tmp_path / "killed", 5)
    train(augmented(plan), tmp_path / "killed", progress=False)
    assert same(tmp_path / "whole", tmp_path / "killed")


def test_without_a_store_the_same_number_of_copies_is_heard(plan: Plan, tmp_path: Path) -> None:
    report = train(augmented(plan, features="none", max_steps=2), tmp_path / "out", progress=False)
    assert report.steps == 2 and not list((tmp_path / "out").glob("features/speech-*"))


def test_a_plan_without_copies_is_told_as_before_there_were_any(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "out", progress=False)
    about = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert "augment" not in about["settings"]["stage"]
    report = train(augmented(plan), tmp_path / "other", progress=False)
    told = json.loads((report.out / "provenance.json").read_text())["settings"]["stage"]["augment"]
    assert told["copies"] == 2 and "opus" not in told["disturbance"]


def test_validation_hears_the_recordings_themselves(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    real = setup.TrainingRows
    monkeypatch.setattr(
        setup,
        "TrainingRows",
        lambda *given, copies=0, **more: made.append(copies) or real(*given, copies=copies, **more),
    )
    train(
        augmented(plan, validation=ValidationOptions(fraction=0.25, by="row", every=4)),
        tmp_path / "out",
        progress=False,
    )
    assert sorted(made) == [0, 2]


def test_the_option_is_read_from_a_recipe() -> None:
    stage = StageOptions.model_validate(
        {"losses": {"response_ce": 1}, "lr": 1e-3, "augment": {"copies": 1, "disturbance": {"opus": 0.5}}}
    )
    assert stage.augment is not None and stage.augment.disturbance.opus == 0.5
