"""What all tests share. No test needs a network."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RE_LLM_MODEL", "mini:re-llm")  # whatever parts this machine has fetched
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import golden_folder
import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """A set of recordings that somebody named is used whole, or the run does not begin."""
    wrong = golden_folder.complaint() if os.environ.get("RE_LLM_GOLDEN") else None
    if wrong:
        raise pytest.UsageError(f"RE_LLM_GOLDEN: {wrong}")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Recorded values of the original systems: tests/golden, or the folder that RE_LLM_GOLDEN names."""
    wrong = golden_folder.complaint()
    assert wrong is None, wrong
    return golden_folder.FOLDER


@pytest.fixture(scope="session")
def assets() -> Path:
    """The trained miniature; a checkout without it has nothing to answer with."""
    from re_llm.core.assets import mini_assets

    folder = mini_assets()
    if not (folder / "recordings" / "recordings.json").is_file():
        pytest.skip(f"the trained miniature is not in {folder}")
    return folder


@pytest.fixture
def recording(tmp_path: Path):
    """Writes a recording: a hum with noise, of a wanted length in seconds and rate in Hz; returns its path."""

    def write(name: str = "hum.wav", seconds: float = 1.0, rate: int = 16_000, seed: int = 0) -> Path:
        time = np.arange(int(seconds * rate)) / rate
        noise = np.random.default_rng(seed).normal(0, 0.01, len(time))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (150 + 40 * seed) * time) + noise, rate)
        return path

    return write


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RE-LLM checkpoint with random weights, a second to load: it says nothing sensible, through the real code."""
    import tiny_world
    import torch

    from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor

    root = tmp_path_factory.mktemp("tiny")
    parts = (
        tiny_world.save_llm(root / "llm"),
        tiny_world.save_whisper(root / "whisper"),
        tiny_world.save_emotion(root / "emotion"),
    )
    torch.manual_seed(0)
    options = {"adapter": tiny_world.ADAPTER}
    folder = root / "re-llm"
    ReLlmForConditionalGeneration.from_components(*parts, **options, lora={"r": 4}).save_pretrained(folder)
    ReLlmProcessor.from_components(*parts, **options).save_pretrained(folder)
    return folder
