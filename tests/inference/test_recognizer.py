"""An emotion encoder alone: `re-llm recognize --model FOLDER`, and the classifier of a cascade."""

import json

import emotion_world
import numpy as np
import pytest
import soundfile
import tiny_world
import torch
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, read_records
from re_llm.inference.recognizer import EmotionRecognizer
from re_llm.inference.reply_records import is_recognizer
from re_llm.train.emotion.background import background_wave
from re_llm.train.emotion.run import train_emotion


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    tiny_world.save_whisper(folder / "whisper")
    manifest = emotion_world.manifest(folder, speakers=4)
    recipe = emotion_world.recipe(folder / "whisper")
    fit = {**recipe.fit.model_dump(), "mixup": 0.0, "background": 0.25}
    train_emotion(recipe.model_copy(update={"fit": type(recipe.fit)(**fit)}), [manifest], folder / "encoder")
    return folder


def test_an_estimate_is_right_and_does_not_depend_on_its_batch(world):
    recognizer = EmotionRecognizer.load(str(world / "encoder"), dtype="float32")
    waves = [emotion_world.wave(e, 90 + i, seconds=0.3 + 0.1 * i) for i, e in enumerate(emotion_world.PITCH)]
    found = recognizer.recognize(waves, batch_size=3)
    assert [each.emotion for each in found] == list(emotion_world.PITCH)
    for wave, estimate in zip(waves, found, strict=True):
        (alone,) = recognizer.recognize([wave])
        assert alone.probabilities == pytest.approx(estimate.probabilities, abs=1e-4)
        assert alone.valence == pytest.approx(estimate.valence, abs=1e-4) and 0 <= alone.arousal <= 1
        assert sum(estimate.probabilities.values()) == pytest.approx(1.0)


def test_categories_may_be_fewer(world):
    recognizer = EmotionRecognizer.load(str(world / "encoder"), only=("happy", "sad"))
    (estimate,) = recognizer.recognize([emotion_world.wave("angry", 5)])
    assert set(estimate.probabilities) == {"happy", "sad"}
    with pytest.raises(RellmError, match="does not know the emotion 'calm'"):
        EmotionRecognizer.load(str(world / "encoder"), only=("calm",))


def test_calibration_is_applied(world):
    config = json.loads((world / "encoder" / "config.json").read_text())
    sharp = EmotionRecognizer.load(str(world / "encoder"))
    plain = EmotionRecognizer(sharp.encode, sharp.emotions, "plain", torch.float32)
    wave = emotion_world.wave("happy", 3)
    ratio = [np.log(each.probabilities["happy"] / each.probabilities["sad"]) for each in (
        sharp.recognize([wave])[0], plain.recognize([wave])[0],
    )]  # fmt: skip
    assert ratio[0] == pytest.approx(config["logit_scale"] * ratio[1], rel=1e-3)


def test_it_is_unsure_where_no_category_at_all_is_likely(world):
    trained = EmotionRecognizer.load(str(world / "encoder"))
    limit = json.loads((world / "encoder" / "config.json").read_text())["unsure_below"]
    assert 1 / 3 < limit < 1
    waves = [emotion_world.wave(e, 60 + i) for i, e in enumerate(("happy", "sad") * 2)] + [background_wave(1000)]
    found = trained.recognize(waves)
    assert [each.unsure for each in found] == [max(each.probabilities.values()) < limit for each in found]
    few = EmotionRecognizer.load(str(world / "encoder"), only=("happy", "sad")).recognize(waves)
    assert [each.unsure for each in few] == [each.unsure for each in found]
    for below, unsure in ((1.0, True), (0.3, False), (0.0, None)):
        limited = EmotionRecognizer(trained.encode, trained.emotions, "it", torch.float32, unsure_below=below)
        assert {each.unsure for each in limited.recognize(waves)} == {unsure}


def test_the_folder_may_move_and_another_whisper_is_refused(world, tmp_path):
    import shutil

    shutil.copytree(world / "encoder", tmp_path / "a" / "encoder")
    shutil.copytree(world / "whisper", tmp_path / "a" / "whisper")
    assert EmotionRecognizer.load(str(tmp_path / "a" / "encoder")).emotions == tuple(emotion_world.PITCH)
    tiny_world.save_whisper(tmp_path / "a" / "whisper", seed=9)
    with pytest.raises(RellmError, match="another Whisper"):
        EmotionRecognizer.load(str(tmp_path / "a" / "encoder"))


def test_the_command_recognises_files_and_manifests_without_an_llm(world, tmp_path):
    soundfile.write(tmp_path / "a.wav", emotion_world.wave("sad", 8), 16_000)
    model = ["--model", str(world / "encoder"), "--json"]
    done = CliRunner().invoke(app, ["recognize", str(tmp_path / "a.wav"), *model])
    assert done.exit_code == 0, done.output
    (reply,) = json.loads(done.stdout)
    assert reply["predicted_emotion"] == "sad" and "answer" not in reply and reply["response"] == ""
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(app, ["recognize", str(world / "toy.jsonl"), *model, "--out", str(out)])
    assert done.exit_code == 0, done.output
    records = list(read_records(out, ReplyRecord))
    right = sum(record.predicted_emotion == record.emotion for record in records)
    assert len(records) == 36 and right > 30


def test_what_is_an_emotion_encoder(world, tmp_path):
    assert is_recognizer(str(world / "encoder"))
    assert not is_recognizer(str(world / "whisper")) and not is_recognizer("mini:re-llm")
    assert not is_recognizer(str(tmp_path / "nothing"))
