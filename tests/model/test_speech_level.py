"""`speech_level`: what a model makes of a recording does not depend on the gain it was recorded with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_world
import torch

from re_llm.audio.speech import at_level, frame_levels, speech_frames
from re_llm.core.errors import RellmError
from re_llm.model import ReLlmProcessor


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    root = tmp_path_factory.mktemp("parts")
    return (
        tiny_world.save_llm(root / "llm"),
        tiny_world.save_whisper(root / "whisper"),
        tiny_world.save_emotion(root / "emotion"),
    )


def test_the_speech_has_the_level_whatever_stands_around_it() -> None:
    wave = tiny_world.wave(2.0, 1).astype(np.float32)
    quiet = np.zeros(16_000, np.float32)
    for given in (wave, 0.01 * wave, 3 * wave, np.concatenate([quiet, wave, quiet])):
        found = at_level(given, -26)
        speech = frame_levels(found)[speech_frames(found)]
        assert 20 * np.log10(np.sqrt(np.mean(speech**2))) == pytest.approx(-26, abs=0.01)
        assert found.dtype == np.float32 and len(found) == len(given)
    assert not at_level(quiet, -26).any()


@pytest.mark.parametrize("gain", [0.1, 0.3, 3.0])
def test_no_gain_changes_the_input_of_either_encoder(parts: tuple[Path, ...], gain: float) -> None:
    wave = tiny_world.wave(2.0, 1).astype(np.float32)
    with_level = ReLlmProcessor.from_components(*parts, adapter=tiny_world.ADAPTER, speech_level=-26)
    without = ReLlmProcessor.from_components(*parts, adapter=tiny_world.ADAPTER)

    def inputs(processor: ReLlmProcessor, samples: np.ndarray) -> torch.Tensor:
        return processor.audio_inputs([samples])["input_features"]

    assert torch.allclose(inputs(with_level, wave), inputs(with_level, gain * wave), atol=1e-3)
    assert not torch.allclose(inputs(without, wave), inputs(without, gain * wave), atol=1e-2)


def test_a_checkpoint_keeps_the_level(parts: tuple[Path, ...], tmp_path: Path) -> None:
    ReLlmProcessor.from_components(*parts, speech_level=-26).save_pretrained(tmp_path)
    assert ReLlmProcessor.from_pretrained(tmp_path).speech_level == -26
    with pytest.raises(RellmError, match="speech_level is 3"):
        ReLlmProcessor.from_components(*parts, speech_level=3)
