"""Voice activity by the network of silero-vad, the extra `vad`: its weights are read, its code is not run.

The package ships them as safetensors beside a TorchScript and ONNX files, which hold code. Importing it would set the
number of torch's threads. N chunks of 32 ms.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from re_llm.audio.waveform import RATE, Samples
from re_llm.core.errors import MissingExtra

if TYPE_CHECKING:
    import torch

CHUNK, CONTEXT = 512, 64  # samples of a chunk, and of the one before that stand in front of it
WEIGHTS = Path("data") / "silero_vad_16k.safetensors"
BANDS, STEP, REFLECTED = 129, 128, 64  # of its short-time Fourier transform
STRIDES = (1, 2, 2, 1)
BLOCK = 2048  # chunks convolved at once
LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def weights() -> Path | None:
    """File of the weights; None when the package is not installed."""
    spec = find_spec("silero_vad")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or () if (path := Path(folder) / WEIGHTS).is_file()]
    return found[0] if found else None


@cache
def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def speech_probabilities(samples: Samples) -> np.ndarray:
    """Probability of speech in each 32 ms of a recording [T] at 16 kHz, float32 [N]; the last may reach over its end.

    Raises:
        MissingExtra: silero-vad is not installed.
    """
    import torch
    from torch.nn.functional import conv1d, pad

    path = weights()
    if path is None:
        raise MissingExtra("silero-vad", "vad", "Voice activity by silero-vad")
    assert RATE == 16_000
    net, count = _tensors(path), -(-len(samples) // CHUNK)
    wave = pad(torch.from_numpy(np.ascontiguousarray(samples)), (CONTEXT, count * CHUNK - len(samples)))
    chunks = wave.unfold(0, CONTEXT + CHUNK, CHUNK)
    states = []
    with torch.inference_mode():
        for block in chunks.split(BLOCK):
            x = conv1d(pad(block[:, None], (0, REFLECTED), mode="reflect"), net["stft_conv.weight"], stride=STEP)
            x = (x[:, :BANDS] ** 2 + x[:, BANDS:] ** 2).sqrt()
            for i, stride in enumerate(STRIDES, 1):
                x = conv1d(x, net[f"conv{i}.weight"], net[f"conv{i}.bias"], stride=stride, padding=1).relu()
            states.append(x.squeeze(-1))
        lstm = torch.nn.LSTM(128, 128, device="meta")  # draws no random numbers
        lstm.load_state_dict({f"{name}_l0": net[f"lstm_cell.{name}"] for name in LSTM}, assign=True)
        hidden, _ = lstm(torch.cat(states))
        logits = conv1d(hidden.relu()[..., None], net["final_conv.weight"], net["final_conv.bias"])
        return np.asarray(logits.sigmoid().flatten().numpy())
