"""A Whisper encoder as far as an emotion encoder reads it: from recordings to the states of some of its layers.

Shapes: B recordings, N samples (16 kHz), T states (50 a second), K layers, Ds width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor

from re_llm.core.errors import RellmError
from re_llm.model.components import load_speech_encoder, speech_config
from re_llm.model.mel import speech_inputs
from re_llm.model.recordings import Samples
from re_llm.model.speech_encoder import SpeechEncoder


class SpeechLayers:
    """A frozen Whisper encoder with its feature extractor."""

    def __init__(self, extractor: Any, encoder: SpeechEncoder):
        self.extractor, self.encoder = extractor, encoder.requires_grad_(False).eval()

    @classmethod
    def load(
        cls, folder: Path, window: str, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> SpeechLayers:
        """Of a folder that holds a Whisper, or a checkpoint of a RE-LLM.

        Raises:
            RellmError: config, weights or preprocessor_config.json are missing or broken.
        """
        config = speech_config(folder)
        try:
            extractor = WhisperFeatureExtractor.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise RellmError(f"{folder}/preprocessor_config.json cannot be used: {error}") from error
        return cls(extractor, load_speech_encoder(folder, config, window, dtype).to(device or torch.device("cpu")))

    @torch.inference_mode()
    def __call__(self, waves: Sequence[Samples], layers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States of recordings [B, T, K, Ds], and their number in each [B]; layers behind the last are not run."""
        device = self.encoder.whisper.conv1.weight.device
        inputs = speech_inputs(self.extractor, waves, self.encoder.window)
        return self.encoder.only_layers(
            inputs["input_features"].to(device), inputs["feature_lengths"].to(device), layers
        )
