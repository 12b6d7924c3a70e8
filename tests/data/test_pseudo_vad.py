"""Pseudo labels: batch equals single, by name and on the scale, and only from an encoder that has a head."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_world
from safetensors.torch import load_file, save_file

from re_llm.core.errors import RellmError
from re_llm.data.pseudo_vad import DimensionEstimator

WAVES = [tiny_world.wave(0.5, 1), tiny_world.wave(1.7, 2)]


def test_a_batch_gives_what_single_recordings_give(tmp_path: Path) -> None:
    estimate = DimensionEstimator.load(str(tiny_world.save_emotion(tmp_path / "emotion")), device="cpu")
    together = estimate(WAVES)
    for wave, values in zip(WAVES, together, strict=True):
        assert values == pytest.approx(estimate([wave])[0], abs=1e-5)
        assert len(values) == 3 and all(0.0 <= v <= 1.0 for v in values)
    assert together[0] != together[1]
    assert estimate.name == str(tmp_path / "emotion")


def test_an_encoder_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = tiny_world.save_emotion(tmp_path / "emotion")
    bare = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RellmError, match="no head"):
        DimensionEstimator.load(str(folder), device="cpu")
