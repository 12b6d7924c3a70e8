"""An encoder of transformers that classifies waveforms: what `re-llm train` makes of a separate emotion encoder.

Shapes: B utterances, N samples (16 kHz), E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.llm.rows import batches_by_length
from re_llm.model.emotion_encoder import padding_is_masked
from re_llm.model.hub import locate
from re_llm.model.outputs import time_mask
from re_llm.model.recordings import Samples, normalized, stack
from re_llm.model.weights import quiet_loading

BATCH = 8


class WaveClassifier:
    """A model of `AutoModelForAudioClassification` and its feature extractor; the same in a batch as alone."""

    def __init__(self, model: Any, extractor: Any):
        self.model, self.extractor = model, extractor

    @classmethod
    def load(
        cls,
        name: str,
        *,
        emotions: Sequence[str] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> WaveClassifier:
        """From a folder, hub id or component name.

        Args:
            emotions: classes of a new head; None = the model has been trained.

        Raises:
            RellmError: it cannot be read, is no classifier of waveforms, or (without `emotions`) has no trained head.
        """
        folder = locate(resolve_component(name))
        head = (
            {"id2label": dict(enumerate(emotions)), "label2id": {e: i for i, e in enumerate(emotions)}}
            if emotions
            else {}
        )
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder)
            with quiet_loading():
                model, found = AutoModelForAudioClassification.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=bool(emotions),
                    output_loading_info=True, **head,
                )  # fmt: skip
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise RellmError(f"{name} cannot be read as a classifier of recordings: {error}") from error
        if model.main_input_name != "input_values":
            raise RellmError(f"{name} does not take a waveform", allowed="wav2vec2, HuBERT, WavLM and the like")
        missing = sorted(found["missing_keys"])
        if missing and not emotions:
            raise RellmError(
                f"{name} lacks the tensor {missing[0]}", todo="Train it: re-llm train recipes/emotion.yaml"
            )
        return cls(model.to(device or torch.device("cpu")), extractor)

    @property
    def emotions(self) -> list[str]:
        """Classes, in the order of the outputs."""
        return [name for _, name in sorted(self.model.config.id2label.items())]

    def inputs(self, waves: Sequence[Samples]) -> tuple[Tensor, Tensor]:
        """Padded values [B, N] and real samples [B] of recordings."""
        whole = getattr(self.extractor, "do_normalize", False)
        values = stack([normalized(wave) if whole else wave for wave in waves])
        lengths = torch.tensor([len(wave) for wave in waves])
        return torch.from_numpy(values).to(self.model.device, self.model.dtype), lengths.to(self.model.device)

    def logits(self, values: Tensor, lengths: Tensor) -> Tensor:
        """[B, E], float32."""
        mask = time_mask(lengths, values.shape[1]).long() if padding_is_masked(self.model.config) else None
        found: Tensor = self.model(values, attention_mask=mask).logits
        return found.float()

    @torch.inference_mode()
    def __call__(self, waves: Sequence[Samples]) -> Tensor:
        """Logits [B, E] of recordings, batched by length; one by one where padding would change the result."""
        batch = BATCH if padding_is_masked(self.model.config) else 1
        found = torch.empty(len(waves), len(self.emotions))
        for rows in batches_by_length([len(wave) for wave in waves], batch):
            found[rows] = self.logits(*self.inputs([waves[i] for i in rows])).cpu()
        return found

    def save(self, folder: Path) -> None:
        """Model and feature extractor, as transformers writes them."""
        self.model.save_pretrained(folder)
        self.extractor.save_pretrained(folder)
