"""Training an emotion encoder: a planted effect is learned, a kill costs little, nothing is mixed up."""

import json
from pathlib import Path

import emotion_world
import numpy as np
import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite
from re_llm.model.components import load_emotion_encoder
from re_llm.train.emotion import run as module
from re_llm.train.emotion.background import NUMBER, VALIDATED, background_rows, background_wave
from re_llm.train.emotion.calibration import calibrate
from re_llm.train.emotion.conditions import CONDITIONS
from re_llm.train.emotion.fit import _Training, fit
from re_llm.train.emotion.rows import NO_EMOTION, Division, read_corpora
from re_llm.train.emotion.run import train_emotion

PAIRS = (("s0", "s1"), ("s2", "s3"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_world.save_whisper(folder / "whisper")
    emotion_world.manifest(folder, speakers=6)
    return folder


def recipe(world, **changes):
    return emotion_world.recipe(world / "whisper", **changes)


def test_the_encoder_learns_what_is_there_and_says_what_it_saw(world, tmp_path):
    said = []
    report = train_emotion(
        recipe(world), [world / "toy.jsonl"], tmp_path / "out", states=world / "states", say=said.append
    )
    assert report.validation_accuracy > 0.8 and len(report.validation_speakers) == 1
    assert report.utterances == {"toy": {"sad": 18, "happy": 18, "angry": 18}}
    assert report.dimensions == {"pseudo:norms": 54}
    assert "validation UA" in said[0] and "18 sad" in report.summary()
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["validation_accuracy"] == report.validation_accuracy
    encoder = load_emotion_encoder(tmp_path / "out", torch.float32)
    assert encoder.config.emotions == ["sad", "happy", "angry"]
    assert encoder.config.label_sets == {"toy": ["sad", "happy", "angry"]}
    assert encoder.config.speech_signature
    assert (tmp_path / "out" / encoder.config.speech_encoder).resolve() == world / "whisper"


def test_folds_are_measured_on_unseen_speakers_and_go_on_after_a_kill(world, tmp_path, monkeypatch):
    tests = {"toy": {"corpus": "toy", "folds": PAIRS, "conditions": True}}
    chosen = recipe(world, tests=tests, seeds=[0, 1])
    options = {"stage": "folds", "states": world / "states"}
    whole = train_emotion(chosen, [world / "toy.jsonl"], tmp_path / "whole", **options)
    (test,) = whole.tests
    assert test.accuracy > 0.8 and test.utterances == 36
    assert set(test.by_fold) == {"toy-1", "toy-2"} and set(test.by_fold["toy-1"]) == {"0", "1"}
    assert set(test.by_speaker) == {"toy/s0", "toy/s1", "toy/s2", "toy/s3"}
    assert test.interval[0] <= test.accuracy <= test.interval[1]
    assert set(test.kept) == set(CONDITIONS) and all(0.2 < fraction <= 1 for fraction in test.kept.values())
    assert "keeps its label: x0.3" in whole.summary()

    real, calls = module._test, []

    def dies(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "_test", dies)
    with pytest.raises(KeyboardInterrupt):
        train_emotion(chosen, [world / "toy.jsonl"], tmp_path / "killed", **options)
    again = train_emotion(chosen, [world / "toy.jsonl"], tmp_path / "killed", **options)
    assert len(calls) == 5, "the two finished folds are not trained again"
    assert again.tests == whole.tests


def test_a_folder_of_another_run_is_refused(world, tmp_path):
    options = {"states": world / "states"}
    first = train_emotion(recipe(world), [world / "toy.jsonl"], tmp_path, **options)
    again = train_emotion(recipe(world), [world / "toy.jsonl"], tmp_path, **options)
    assert again.skipped and again.epochs == first.epochs
    with pytest.raises(RellmError, match=r"recipe\.name was toy, and is other now"):
        train_emotion(recipe(world, name="other"), [world / "toy.jsonl"], tmp_path, **options)
    made = train_emotion(
        recipe(world, name="other"), [world / "toy.jsonl"], tmp_path, overwrite=Overwrite.YES, **options
    )
    assert "toy" in made.remade
    with pytest.raises(RellmError, match="no stage 'finetune'"):
        train_emotion(recipe(world), [world / "toy.jsonl"], tmp_path / "b", stage="finetune", **options)


def test_corpora_with_their_own_label_sets_are_trained_together(world, tmp_path):
    other = emotion_world.manifest(tmp_path, "two", speakers=3, emotions=("sad", "angry"))
    tests = {"cross": {"corpus": "toy", "emotions": ["sad", "angry"], "folds": "corpus"}}
    report = train_emotion(
        recipe(world, tests=tests), [world / "toy.jsonl", other], tmp_path / "out", stage="folds",
        states=world / "states",
    )  # fmt: skip
    assert report.utterances["two"] == {"sad": 9, "angry": 9}
    assert report.tests[0].accuracy > 0.7 and set(report.tests[0].recall) == {"sad", "angry"}
    answers = json.loads((tmp_path / "out" / "folds" / "cross-1-seed0.json").read_text())["answers"]
    assert {answer for _, _, answer in answers} <= {"sad", "angry"}


def test_an_encoder_of_its_own_is_trained_too(world, tmp_path):
    tiny_world.save_emotion(tmp_path / "wav2vec2", normalize=False)
    encoder = {"kind": "separate", "name": str(tmp_path / "wav2vec2"), "train": "all"}
    fit = {"epochs": 2, "batch_size": 8, "utterances": 16, "lr": 1e-3}
    chosen = recipe(world, emotion_encoder=encoder, fit=fit, augment={"copies": 1})
    report = train_emotion(chosen, [world / "toy.jsonl"], tmp_path / "out")
    assert report.epochs in (1, 2) and 0 <= report.validation_accuracy <= 1
    from re_llm.model.classifier import WaveClassifier

    again = WaveClassifier.load(str(tmp_path / "out"))
    assert again.emotions == ["sad", "happy", "angry"]
    waves = [emotion_world.wave("sad", 1), emotion_world.wave("angry", 2, seconds=0.7)]
    batch = again(waves)
    for i, wave in enumerate(waves):
        torch.testing.assert_close(again([wave])[0], batch[i], atol=1e-4, rtol=1e-4)
    with pytest.raises(RellmError, match="lacks the tensor"):
        WaveClassifier.load(str(tmp_path / "wav2vec2"))


def test_held_out_speakers_are_measured_and_not_trained_on(world, tmp_path, monkeypatch):
    trained = []
    real = module.fit
    monkeypatch.setattr(
        module, "fit", lambda learner, corpora, division, *rest, **more: (
            trained.extend(corpora.speakers((*division.training, *division.validation))),
            real(learner, corpora, division, *rest, **more),
        )[1],
    )  # fmt: skip
    held = recipe(world, held_out={"toy": ["s1", "s4"], "other": ["s9"]})
    report = train_emotion(held, [world / "toy.jsonl"], tmp_path / "out", states=world / "states")
    assert set(trained) == {"toy/s0", "toy/s2", "toy/s3", "toy/s5"}
    (test,) = report.tests
    assert set(test.by_speaker) == {"toy/s1", "toy/s4"} and test.accuracy > 0.8
    with pytest.raises(RellmError, match="toy has no speaker 's8'"):
        train_emotion(
            recipe(world, held_out={"toy": ["s8"]}), [world / "toy.jsonl"], tmp_path / "b", states=world / "states"
        )


def test_background_is_no_emotion(world, tmp_path):
    fit = {**recipe(world).fit.model_dump(), "mixup": 0.0}
    unsure = {}
    for fraction in (0.25, 0.01, 0.0):  # of batches of 16: four, none, and none measured either
        chosen = recipe(world, fit={**fit, "background": fraction})
        report = train_emotion(chosen, [world / "toy.jsonl"], tmp_path / str(fraction), states=world / "states")
        unsure[fraction] = report.background_unsure
    assert unsure[0.25] > 0.5 > unsure[0.01] and unsure[0.0] is None
    rows = background_rows(tmp_path / "background", 8)
    assert {row.emotion for row in rows} == {NO_EMOTION} and len({Path(row.audio).stat().st_size for row in rows}) == 8
    for number in range(8):
        wave = background_wave(number)
        assert (
            np.array_equal(wave, background_wave(number)) and np.isfinite(wave).all() and 1 <= len(wave) / 16_000 <= 6
        )


def test_the_last_background_recordings_are_not_trained_on(world, tmp_path, monkeypatch):
    drawn = set()
    real = module.SharedLearner.forward
    monkeypatch.setattr(
        module.SharedLearner, "forward", lambda self, rows, *rest: (
            drawn.update(row.key for row in rows if row.emotion == NO_EMOTION), real(self, rows, *rest)
        )[1],
    )  # fmt: skip
    train_emotion(recipe(world), [world / "toy.jsonl"], tmp_path / "out", states=world / "states")
    last = NUMBER - VALIDATED
    assert len(drawn) > 50 and max(int(key.rpartition("/")[2]) for key in drawn) < last


def test_calibration_softens_what_is_too_sure(world, tmp_path):
    from re_llm.train.emotion.rows import read_corpora

    corpora = read_corpora([world / "toy.jsonl"], tuple(emotion_world.PITCH))
    labels = [row.emotion for row in corpora.rows]
    draw = np.random.default_rng(0)
    found = [label if draw.random() < 0.6 else (label + 1) % 3 for label in labels]
    logits = 8.0 * torch.nn.functional.one_hot(torch.tensor(found), 3).float()
    assert calibrate(corpora, range(len(labels)), logits).logit_scale < 0.4
    assert calibrate(corpora, range(len(labels)), logits / 16).logit_scale > 1


class Shifted:
    """A linear learner of two features, the second of which a disturbed copy changes."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = torch.nn.Linear(2, 3)

    def start(self, training, rng):
        pass

    def forward(self, rows, copies, mix, rng):
        given = torch.tensor(
            [[row.emotion - 1.0, row.emotion - 1.0 + copy] for row, copy in zip(rows, copies, strict=True)]
        )
        return self.module(given if mix is None else mix.of(given)), None

    def apart(self, rows):
        with torch.no_grad():
            likely = [self.forward(rows, [copy] * len(rows), None, None)[0].log_softmax(1) for copy in (0, 1)]
        there = torch.nn.functional.kl_div(likely[0], likely[1], log_target=True, reduction="batchmean")
        return (there + torch.nn.functional.kl_div(likely[1], likely[0], log_target=True, reduction="batchmean")) / 2


def test_with_consistency_a_copy_is_heard_as_its_recording(world):
    corpora = read_corpora([world / "toy.jsonl"], ("sad", "happy", "angry"))
    division = Division(tuple(range(len(corpora.rows))), ())
    found = []
    for weight in (0.0, 10.0):
        learner, options = (
            Shifted(),
            recipe(world).fit.model_copy(update={"consistency": weight, "mixup": 0.0, "lr": 1e-2}),
        )
        fit(learner, corpora, division, options, 0, copies=1, epochs=20)
        found.append(learner.apart(corpora.rows))
    assert found[1] < 0.5 * found[0]
    training = _Training(learner, corpora, options, 1, 1, np.random.default_rng(0), None)
    rows = corpora.rows[:6]
    apart = training._apart(rows, [0, 1, 1, 0, 1, 0], torch.from_numpy(corpora.masks(rows)))
    torch.testing.assert_close(apart, learner.apart([rows[1], rows[2], rows[4]]))
    assert training._apart(rows, [0] * 6, torch.ones(6, 3, dtype=torch.bool)) is None


def test_an_encoder_learns_with_consistency(world, tmp_path):
    chosen = recipe(world, fit={**recipe(world).fit.model_dump(), "consistency": 0.3})
    report = train_emotion(chosen, [world / "toy.jsonl"], tmp_path / "out", states=world / "states")
    assert report.validation_accuracy > 0.8
    with pytest.raises(RellmError, match="consistency"):  # another product
        train_emotion(recipe(world), [world / "toy.jsonl"], tmp_path / "out", states=world / "states")
