"""Recordings as vLLM's inputs: features of each, and as many placeholders in the prompt as it gives speech tokens.

Shapes: n recordings of a request, M mel bands, F mel frames, N samples at 16 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from re_llm.audio.speech import prepare
from re_llm.audio.waveform import RATE, Samples
from re_llm.core.errors import RellmError
from re_llm.inference.encoding import window_seconds
from re_llm.model.configuration import SPEECH_TOKEN, ReLlmConfig
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.recordings import MIN_SAMPLES

FIELDS = ("input_features", "feature_lengths", "emotion_values", "emotion_lengths")


class SpeechInfo(BaseProcessingInfo):
    """What vLLM asks about a checkpoint before it hears anything."""

    def get_hf_config(self) -> ReLlmConfig:
        return self.ctx.get_hf_config(ReLlmConfig)

    def get_hf_processor(self, **kwargs: object) -> ReLlmProcessor:
        return self.ctx.get_hf_processor(ReLlmProcessor, **kwargs)

    def get_data_parser(self) -> MultiModalDataParser:
        return MultiModalDataParser(
            target_sr=RATE,
            target_channels=1,
            audio_resample_method="soxr",  # as everywhere in this package
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"audio": self.get_hf_processor().speech_token_count(self.longest)}

    @property
    def longest(self) -> int:
        """Samples of the longest recording that is heard: one window, of a length that the model was trained on."""
        return int(window_seconds(self.get_hf_config().trained_seconds, math.inf) * RATE)

    def heard(self, wave: Samples, name: str) -> Samples:
        """Samples [N] as a model hears them: without the silence at their ends (`re_llm.audio.speech.prepare`).

        Raises:
            RellmError: silence, less than a syllable, or more than one window.
        """
        samples = prepare(np.asarray(wave, np.float32), name, self.longest / RATE)
        if len(samples) > self.longest:
            raise RellmError(
                f"{name} has {len(samples) / RATE:.1f} s",
                allowed=f"up to {self.longest / RATE:g} s, one window of what this model was trained on",
                todo="Cut it, or use `re-llm serve`, which answers a recording window by window",
            )
        if len(samples) < MIN_SAMPLES:
            raise RellmError(f"{name} has {len(samples)} samples", allowed=f"{MIN_SAMPLES} and more")
        return samples


class SpeechDummies(BaseDummyInputsBuilder[SpeechInfo]):
    """The largest input, by which vLLM measures its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return SPEECH_TOKEN * mm_counts.get("audio", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: MultiModalDummyOptions
    ) -> MultiModalDataDict:
        noise = np.random.default_rng(0).normal(0, 0.1, self.info.longest)  # silence would be refused
        return {"audio": [noise.astype(np.float32)] * mm_counts.get("audio", 0)}


class SpeechProcessor(BaseMultiModalProcessor[SpeechInfo]):
    """One request: its recordings' features, and the prompt with a placeholder for every speech token."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        processor = self.info.get_hf_processor(**hf_kwargs)
        recordings: Any = hf_data["audio"]
        try:  # each on its own: vLLM keeps them apart, and a recording is the same in any request
            waves = [self.info.heard(wave, f"recording {i + 1}") for i, wave in enumerate(recordings)]
            inputs = [processor.audio_inputs([wave]) for wave in waves]
        except RellmError as error:
            raise ValueError(str(error)) from error  # which vLLM answers as the caller's mistake
        return BatchFeature({name: [each[name][0] for each in inputs] for name in FIELDS if name in inputs[0]})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {name: MultiModalFieldConfig.batched("audio") for name in FIELDS if name in hf_inputs}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        processor = self.info.get_hf_processor(**hf_processor_mm_kwargs)
        frames: Any = out_mm_kwargs.get_data().get("feature_lengths", [])

        def placeholders(index: int) -> list[int]:
            samples = int(frames[index]) * int(processor.feature_extractor.hop_length)
            return [processor.speech_token_id] * processor.speech_token_count(samples)

        token = [processor.speech_token_id]
        return [PromptReplacement(modality="audio", target=token, replacement=placeholders)]


def stacked(values: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors that differ in their last axis, padded with zeros to the longest; vLLM has stacked equal ones itself."""
    if isinstance(values, torch.Tensor):
        return values
    longest = max(value.shape[-1] for value in values) if values[0].dim() else 0
    return torch.stack([torch.nn.functional.pad(v, (0, longest - v.shape[-1])) if v.dim() else v for v in values])
