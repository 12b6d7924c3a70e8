"""Stored states of recordings and their disturbed copies."""

import emotion_world
import numpy as np
import pytest
import tiny_world
import torch

from re_llm.model.speech_layers import SpeechLayers
from re_llm.train.emotion.augment import augmented, surrounded, trimmed
from re_llm.train.emotion.conditions import CONDITIONS, under
from re_llm.train.emotion.rows import read_corpora
from re_llm.train.emotion.states import Encoding, StateStore


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_world.save_whisper(folder / "whisper")
    path = emotion_world.manifest(folder, speakers=2, each=2)
    recipe = emotion_world.recipe(folder / "whisper")
    hearing = SpeechLayers.load(folder / "whisper", "trimmed")
    return read_corpora([path], recipe.emotions).rows, Encoding(recipe.emotion_encoder, recipe.augment, hearing)


def store(folder, world):
    return StateStore(folder, world[1], 16)


def test_windows_are_those_of_the_recording_whatever_the_batch(world, tmp_path):
    rows, encoding = world
    kept = store(tmp_path, world)
    kept.fill(rows, (0, 1), progress=False)
    both = kept.batch([rows[3].key, rows[0].key], [0, 1])
    ((alone, states),) = encoding.windows([encoding.wave(rows[3], kept.names[rows[3].key], 0)])
    np.testing.assert_allclose(both.statistics[0, : len(alone)].numpy(), alone, atol=2e-3)
    assert both.counts[0].sum() == states == 20 and kept.length(rows[3].key) == len(alone) == 4
    assert not both.statistics[0][both.counts[0] == 0].any()
    first, second = (kept.batch([rows[0].key], [copy]).statistics[:, :3] for copy in (0, 1))
    assert not torch.equal(first, second)


def test_a_torn_store_goes_on_and_ends_the_same(world, tmp_path):
    rows, _ = world
    whole = store(tmp_path / "whole", world)
    whole.fill(rows, (0, 1), progress=False)
    torn = store(tmp_path / "torn", world)
    torn.fill(rows[:5], (0, 1), progress=False)
    with (torn.folder / "index.jsonl").open("ab") as index:
        index.write(b'["cut o')
    with (torn.folder / "states.bin").open("ab") as states:
        states.write(b"\1" * 77)
    again = store(tmp_path / "torn", world)
    held = len(again.places)
    again.fill(rows, (0, 1), progress=False)
    assert held == 10 and len(again.places) == 24
    for row in rows:
        for copy in (0, 1):
            mine, theirs = (each.batch([row.key], [copy]).statistics for each in (again, whole))
            torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=0)


def test_what_is_there_is_not_encoded_again(world, tmp_path, monkeypatch):
    rows, encoding = world
    store(tmp_path, world).fill(rows, (0, "x3"), progress=False)
    monkeypatch.setattr(type(encoding), "windows", lambda *given: pytest.fail("encoded again"))
    store(tmp_path, world).fill(rows, (0, "x3"), progress=False)


def test_another_encoder_or_augmentation_has_a_store_of_its_own(world):
    _, encoding = world
    other = Encoding(encoding.options, encoding.augment.model_copy(update={"silence": 1.0}), encoding.hearing)
    more = Encoding(encoding.options, encoding.augment.model_copy(update={"copies": 9}), encoding.hearing)
    assert other.digest() != encoding.digest() == more.digest()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions_change_the_sound_and_keep_it_whole(condition):
    wave = emotion_world.wave("happy", 3, seconds=1.0)
    changed = under(condition, wave, np.random.default_rng(0))
    assert changed.dtype == np.float32 and np.isfinite(changed).all() and np.abs(changed).max() <= 1.5
    assert len(changed) - len(wave) == (32_000 if "silence" in condition else 0)
    assert not np.array_equal(changed[: len(wave)], wave) or "behind" in condition


def test_copies_differ_from_each_other_and_are_the_same_every_time():
    recipe, wave = emotion_world.recipe("whisper"), emotion_world.wave("sad", 3, seconds=1.0)
    copies = [augmented(wave, recipe.augment, np.random.default_rng(seed)) for seed in (1, 2, 1)]
    assert np.array_equal(copies[0], copies[2])
    assert len(copies[0]) != len(copies[1]) or not np.allclose(copies[0], copies[1])
    assert all(copy.dtype == np.float32 and np.isfinite(copy).all() for copy in copies)


def test_silence_is_cut_off_and_put_around():
    sound = np.concatenate([np.zeros(8000), emotion_world.wave("happy", 1, seconds=0.5), np.zeros(8000)])
    kept = trimmed(sound.astype(np.float32), 30)
    assert 8000 <= len(kept) <= 8000 + 10 * 320
    quiet = np.zeros(16_000, np.float32)
    assert len(trimmed(quiet, 30)) == len(quiet)
    longer = surrounded(kept, 2.0, np.random.default_rng(0))
    assert len(kept) < len(longer) <= len(kept) + 4 * 16_000


def test_two_processes_encode_every_recording_once(world, tmp_path):
    rows, _ = world
    first, second = store(tmp_path, world), store(tmp_path, world)
    first.fill(rows, (0, 1), progress=False)
    second.fill(rows, (0, 1), progress=False)
    assert len((first.folder / "index.jsonl").read_text().splitlines()) == 24
    for row in rows:
        assert torch.equal(first.batch([row.key], [1]).statistics, second.batch([row.key], [1]).statistics)
