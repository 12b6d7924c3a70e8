"""Whisper as a recogniser: the first half of the Whisper + LLM cascade (system 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils import logging

from re_llm.audio import RATE
from re_llm.chat_llm import batches_by_length, pick_device, pick_dtype
from re_llm.errors import RellmError

# Fixed sinusoids, which transformers makes itself; a small checkpoint may leave them out.
FIXED = "model.encoder.embed_positions.weight"


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Missing tensors are checked here; transformers' own table of them would only repeat it."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Transcriber:
    """Any complete Whisper (encoder and decoder) in Hugging Face format, decoding greedily in batches."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval(), processor

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto") -> Transcriber:
        """Loads safetensors weights only.

        Raises:
            RellmError: not a folder or hub id that holds a complete Whisper.
        """
        where = pick_device(device)
        try:
            processor = WhisperProcessor.from_pretrained(name)
            kind = pick_dtype(dtype, where)
            with _quiet_loading():
                model, found = WhisperForConditionalGeneration.from_pretrained(
                    name, dtype=kind, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError) as error:
            raise RellmError(f"cannot load the Whisper model {name!r}: {str(error).splitlines()[0]}") from None
        missing = sorted(set(found["missing_keys"]) - {FIXED, "proj_out.weight"})
        if missing:
            raise RellmError(f"the Whisper model {name!r} lacks the tensor {missing[0]}")
        return cls(model.to(where), processor)

    @torch.inference_mode()
    def _batch(self, samples: list[np.ndarray]) -> list[str]:
        inputs = self.processor(
            samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, truncation=False
        )
        features = inputs.input_features.to(self.model.device, self.model.dtype)
        mask = inputs.attention_mask.to(self.model.device)
        options: dict[str, Any] = {"attention_mask": mask}
        if features.shape[-1] > 3000:  # longer than 30 s: Whisper's own sequential long-form decoding
            options |= {"return_timestamps": True}
        if getattr(self.model.generation_config, "is_multilingual", False):
            options |= {"task": "transcribe"}
        ids = self.model.generate(features, do_sample=False, num_beams=1, **options)
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def transcribe(
        self, samples: Sequence[np.ndarray], *, batch_size: int = 16, on_batch: Callable[[int], None] | None = None
    ) -> list[str]:
        """Transcripts of 16 kHz mono recordings, in their order."""
        texts = [""] * len(samples)
        for batch in batches_by_length([len(s) for s in samples], batch_size):
            for i, text in zip(batch, self._batch([samples[i] for i in batch]), strict=True):
                texts[i] = text
            if on_batch:
                on_batch(len(batch))
        return texts
