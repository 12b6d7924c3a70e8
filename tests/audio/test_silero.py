"""The network of silero-vad: as the package's own model computes it, from tensors alone."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny_world
import torch

from re_llm.audio import silero
from re_llm.core.errors import MissingExtra

OURS = {
    "stft_conv.weight": "stft.forward_basis_buffer",
    **{f"conv{i}.{kind}": f"encoder.{i - 1}.reparam_conv.{kind}" for i in range(1, 5) for kind in ("weight", "bias")},
    **{f"lstm_cell.{name}": f"decoder.rnn.{name}" for name in silero.LSTM},
    **{f"final_conv.{kind}": f"decoder.decoder.2.{kind}" for kind in ("weight", "bias")},
}


@pytest.fixture
def installed():
    path = silero.weights()
    if path is None:
        pytest.skip("silero-vad is not installed: the extra `vad`")
    return path


def test_the_network_is_the_packages(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its TorchScript model holds other weights than its safetensors file: the network is compared with these."""
    theirs = torch.jit.load(installed.with_name("silero_vad.jit"))
    state = theirs.state_dict()
    tensors = {ours: state[f"_model.{name}"].detach() for ours, name in OURS.items()}
    monkeypatch.setattr(silero, "_tensors", lambda path: tensors)
    wave = np.concatenate([tiny_world.wave(0.5, 2), np.zeros(4000, np.float32), tiny_world.wave(0.7, 3)])
    chunks = np.pad(wave, (0, -len(wave) % silero.CHUNK)).reshape(-1, silero.CHUNK)
    with torch.inference_mode():
        expected = [float(theirs(torch.from_numpy(chunk), 16_000)) for chunk in chunks]
    assert silero.speech_probabilities(wave) == pytest.approx(expected, abs=1e-5)


def test_the_package_itself_is_not_imported(installed) -> None:
    threads = torch.get_num_threads()
    found = silero.speech_probabilities(np.zeros(16_000, np.float32))
    assert (found < 0.5).all() and len(found) == 32
    assert "silero_vad" not in sys.modules and torch.get_num_threads() == threads


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silero, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"re-llm\[vad\]"):
        silero.speech_probabilities(np.zeros(512, np.float32))
