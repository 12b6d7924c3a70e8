"""Recipes of emotion encoders, and emotion encoders in the recipes of a RE-LLM."""

import pytest

from re_llm.core.errors import RellmError
from re_llm.recipe.emotion import EmotionRecipe
from re_llm.recipe.files import find_recipe, load_any, load_recipe, parse_any, parse_recipe

RE_LLM = """\
name: t
title: T
components: {llm: a, speech_encoder: b, emotion_encoder: c}
stages: {tune: {losses: {response_ce: 1.0}, lr: 1.0e-4}}
"""
TEXT = """\
kind: emotion
name: e
title: E
emotion_encoder: {kind: shared, speech_encoder: w, layers: [1, 2]}
emotions: [sad, happy]
tests:
  one: {corpus: ravdess, folds: emobox}
"""


def test_the_shipped_recipe_is_one_and_begins_with_its_command():
    recipe = load_any("emotion")
    assert isinstance(recipe, EmotionRecipe) and recipe.emotion_encoder.kind == "shared"
    assert set(recipe.tests) == {"ravdess", "nemo", "ravdess-unseen", "nemo-unseen", "emodb-unseen"}
    assert find_recipe("emotion").read_text().startswith("# re-llm train recipes/emotion.yaml --data ")
    with pytest.raises(RellmError, match="trains an emotion encoder"):
        load_recipe("emotion")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("kind: shared, speech_encoder: w", "kind: other, speech_encoder: w", "emotion_encoder"),
        ("layers: [1, 2]", "depth: 3", "depth"),
        ("[sad, happy]", "[sad, merry]", "unknown emotion 'merry'"),
        ("[sad, happy]", "[sad]", "at least two"),
        ("corpus: ravdess", "corpus: iemocap", "EmoBox's folds of 'iemocap'"),
        ("folds: emobox", "folds: emobox, emotions: [angry]", "tells 'angry' apart"),
        ("tests:", "fit: {mixup: -1}\ntests:", "mixup"),
        ("tests:", "augment: {speed: [1.2, 0.9]}\ntests:", "no range"),
    ],
)
def test_contradictions_are_told(before, after, message):
    assert isinstance(parse_any(TEXT), EmotionRecipe)
    with pytest.raises(RellmError, match=message):
        parse_any(TEXT.replace(before, after))


def test_an_encoder_of_its_own_and_overrides():
    own = TEXT.replace("{kind: shared, speech_encoder: w, layers: [1, 2]}", "{kind: separate, name: a/b}")
    assert parse_any(own).emotion_encoder.train == "all"
    changed = parse_any(TEXT, overrides={"fit.epochs": 3, "augment.disturbance.noise": 0.9})
    assert changed.fit.epochs == 3 and changed.augment.disturbance.noise == 0.9


def test_the_recipe_of_a_re_llm_may_say_the_kind():
    recipe = parse_recipe(RE_LLM.replace("emotion_encoder: c", "emotion_encoder: {kind: shared, name: c}"))
    assert recipe.components.emotion_encoder == "c" and recipe.components.emotion_kind == "shared"
    assert parse_recipe(RE_LLM).components.emotion_kind is None
    for wrong in ("{kind: shared}", "{kind: odd, name: c}"):
        with pytest.raises(RellmError, match="emotion_"):
            parse_recipe(RE_LLM.replace("emotion_encoder: c", f"emotion_encoder: {wrong}"))
