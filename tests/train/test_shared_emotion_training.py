"""A RE-LLM is trained over an emotion encoder that reads its speech encoder's layers."""

import dataclasses

import pytest
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.shared_emotion import SharedEmotionEncoder, save
from re_llm.model.shared_emotion_config import SharedEmotionConfig
from re_llm.train.run import train


@pytest.fixture
def shared(plan, tmp_path):
    """The plan of the other tests with such an encoder."""
    torch.manual_seed(0)
    config = SharedEmotionConfig(speech_width=16, layers=[1, 2], pool=4, attention_size=4, hidden_size=12)
    save(SharedEmotionEncoder(config), tmp_path / "emotion")
    given = {**plan.components.model_dump(), "emotion_encoder": {"kind": "shared", "name": str(tmp_path / "emotion")}}
    del given["emotion_kind"]
    return dataclasses.replace(plan, components=type(plan.components).model_validate(given))


def test_it_trains_on_cached_states_and_hears_the_same_afterwards(shared, tmp_path):
    report = train(shared, tmp_path / "out", progress=False)
    assert report.steps == 8
    model = ReLlmForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.shares_speech_encoder and model.config.emotion_width == 12
    before = SharedEmotionEncoder(model.config.emotion_config)
    assert not any(p.requires_grad for p in model.emotion_encoder.parameters())
    again = ReLlmForConditionalGeneration.from_components(
        str(shared.components.llm), str(shared.components.speech_encoder), shared.components.emotion_encoder,
        speech_window="trimmed", adapter=model.config.adapter,
    )  # fmt: skip
    for name, tensor in again.emotion_encoder.state_dict().items():
        torch.testing.assert_close(model.emotion_encoder.state_dict()[name], tensor)
    assert before.config.speech_encoder is None


def test_another_kind_than_the_recipe_says_is_refused(plan, tmp_path):
    given = {**plan.components.model_dump(), "emotion_kind": "shared"}
    wrong = dataclasses.replace(plan, components=type(plan.components).model_validate(given))
    with pytest.raises(RellmError, match="not of the kind 'shared'"):
        train(wrong, tmp_path / "out", progress=False)
    assert tiny_world.WINDOW_STATES == 50
