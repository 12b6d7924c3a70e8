"""Log-mel spectrograms for Whisper.

Shapes: B recordings, N samples (16 kHz), M mel bins, F mel frames (100 a second).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from re_llm.model.recordings import SAMPLE_RATE, Samples, stack


def frame_count(extractor: Any, samples: int) -> int:
    """Mel frames of a recording: those that begin inside it."""
    return -(-samples // int(extractor.hop_length))


def log_mel(extractor: Any, wave: Samples, window: str) -> Samples:
    """Log-mel spectrogram [M, F] of one recording; its floor depends on nothing else in the batch.

    The recording is followed by silence, to the end of its last window or, when trimmed, far enough for its last
    frame: so the trimmed spectrogram is the beginning of the full one.

    Args:
        extractor: Whisper's own feature extractor.
        window: `full` or `trimmed`.
    """
    frames, longest = frame_count(extractor, len(wave)), int(extractor.nb_max_frames)
    whole = -(-frames // longest) * longest
    margin = -(-int(extractor.n_fft) // int(extractor.hop_length))
    values: Samples = extractor(
        wave,
        sampling_rate=SAMPLE_RATE,
        padding="max_length",
        max_length=(whole if window == "full" else frames + margin) * int(extractor.hop_length),
        truncation=False,
        return_tensors="np",
    )["input_features"][0]
    return values if window == "full" else values[:, :frames]


def speech_inputs(extractor: Any, waves: Sequence[Samples], window: str) -> dict[str, Any]:
    """What a `SpeechEncoder` takes of recordings: input_features [B, M, F], feature_lengths [B] in frames."""
    import torch

    features = stack([log_mel(extractor, wave, window) for wave in waves])
    lengths = torch.tensor([frame_count(extractor, len(wave)) for wave in waves])
    return {"input_features": torch.from_numpy(features), "feature_lengths": lengths}
