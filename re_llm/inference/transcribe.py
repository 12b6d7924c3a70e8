"""Whisper as a recogniser: the first half of the Whisper + LLM cascade (system 2).

Shapes: B recordings, M mel bins, F log-mel frames (100/s), T encoder states (50/s), D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.modeling_outputs import BaseModelOutput

from re_llm.audio.waveform import RATE
from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.llm.device import pick_device, pick_dtype
from re_llm.llm.vocabulary import require_words
from re_llm.model.components import read_config
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.weights import quiet_loading

WINDOWS = ("full", "trimmed")

# Fixed sinusoids, which transformers makes itself; a small checkpoint may leave them out.
FIXED = "model.encoder.embed_positions.weight"


class Transcriber:
    """Any complete Whisper (encoder and decoder) in Hugging Face format, decoding greedily in batches.

    Args:
        window: `full` pads every recording to 30 s, as every released Whisper was trained; `trimmed` to its next whole
            second, which is several times less work, for a Whisper that was trained so. None takes what the model's
            config says (`speech_window`), else `full`.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        processor: WhisperProcessor,
        name: str = "",
        window: str | None = None,
    ):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.window = window or getattr(model.config, "speech_window", "full")
        if self.window not in WINDOWS:
            raise RellmError(f"speech window {self.window!r}", allowed=", ".join(WINDOWS))
        with torch.device("meta"):
            self._encoder = SpeechEncoder(model.config, self.window)
        self._encoder.whisper = model.get_encoder()

    @classmethod
    def load(cls, name: str, *, device: str = "auto", dtype: str = "auto", window: str | None = None) -> Transcriber:
        """Loads safetensors weights only; `mini:NAME` is a component that ships with the package.

        Raises:
            RellmError: not a folder or hub id that holds a complete Whisper.
        """
        where, source = pick_device(device), resolve_component(name)
        if Path(source).is_dir():  # without a config transformers would take the default one
            read_config(Path(source))
        try:
            processor = WhisperProcessor.from_pretrained(source)
            kind = pick_dtype(dtype, where)
            with quiet_loading():
                model, found = WhisperForConditionalGeneration.from_pretrained(
                    source, dtype=kind, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, SafetensorError) as error:
            raise RellmError(f"cannot load the Whisper model {name!r}: {str(error).splitlines()[0]}") from None
        missing = sorted(set(found["missing_keys"]) - {FIXED, "proj_out.weight"})
        if missing:
            raise RellmError(f"the Whisper model {name!r} lacks the tensor {missing[0]}")
        require_words(processor.tokenizer, source)
        return cls(model.to(where), processor, name, window)

    @property
    def _full_window(self) -> int:
        """Samples of a full window (30 s in every released Whisper)."""
        return self._encoder.window_frames * int(self.processor.feature_extractor.hop_length)

    def transcribe(
        self, samples: Sequence[np.ndarray], *, batch_size: int = 16, on_batch: Callable[[int], None] | None = None
    ) -> list[str]:
        """Transcripts of 16 kHz mono recordings, in their order. A transcript does not depend on its batch.

        Args:
            on_batch: called with the number of recordings of every finished batch.
        """
        texts: dict[int, str] = {}
        windows = [self._window(len(wave)) for wave in samples]
        for size in sorted(set(windows), reverse=True):
            group = [i for i, window in enumerate(windows) if window == size]
            # A long recording is many windows: it is transcribed alone.
            step = batch_size if size <= self._full_window else 1
            for batch in (group[first : first + step] for first in range(0, len(group), step)):
                waves = [samples[i] for i in batch]
                found = self._batch(waves, size) if size <= self._full_window else [self._long(waves[0])]
                texts.update(zip(batch, found, strict=True))
                if on_batch:
                    on_batch(len(batch))
        return [texts[i] for i in range(len(samples))]

    def _window(self, samples: int) -> int:
        """Samples that a recording is padded to; the whole recording when it is longer than a full window."""
        if samples > self._full_window or self.window == "full":
            return max(samples, self._full_window)
        return min(-(-samples // RATE) * RATE, self._full_window)

    @torch.inference_mode()
    def _batch(self, samples: Sequence[np.ndarray], size: int) -> list[str]:
        """Transcripts of recordings that are all padded to `size` samples."""
        extractor = self.processor.feature_extractor
        inputs = extractor(
            list(samples), sampling_rate=RATE, padding="max_length", max_length=size, return_tensors="pt"
        )
        features = inputs.input_features.to(self.model.device)
        # The silence behind a recording counts as real, as it does in a full window: the decoder attends to it all.
        frames = torch.full((len(features),), features.shape[2], device=features.device)
        states, _ = self._encoder(features, frames)
        return self._decode(self._generate(encoder_outputs=BaseModelOutput(last_hidden_state=states)))

    @torch.inference_mode()
    def _long(self, samples: np.ndarray) -> str:
        """Transcript of a recording that is longer than a window."""
        if not self._has_timestamps:
            pieces = [samples[first : first + self._full_window] for first in range(0, len(samples), self._full_window)]
            return " ".join(self._batch([piece], self._window(len(piece)))[0] for piece in pieces).strip()
        inputs = self.processor(
            samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, truncation=False
        )
        features = inputs.input_features.to(self.model.device, self.model.dtype)
        mask = inputs.attention_mask.to(self.model.device)
        # Whisper's own sequential decoding: a window begins where the last whole segment of the one before ended.
        return self._decode(self._generate(input_features=features, attention_mask=mask, return_timestamps=True))[0]

    @property
    def _has_timestamps(self) -> bool:
        """Whether the vocabulary holds the tokens of times, which stand behind all others."""
        last = getattr(self.model.generation_config, "no_timestamps_token_id", None)
        return last is not None and int(self.model.config.vocab_size) > int(last) + 1

    def _generate(self, **inputs: object) -> torch.Tensor:
        if getattr(self.model.generation_config, "is_multilingual", False):
            inputs["task"] = "transcribe"
        return self.model.generate(do_sample=False, num_beams=1, **inputs)

    def _decode(self, ids: torch.Tensor) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
