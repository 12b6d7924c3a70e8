"""States of the frozen encoders, computed in this process or on a cluster (re_llm.cluster.work).

B batch, T frames, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from re_llm.audio import waveform
from re_llm.audio.waveform import Samples
from re_llm.cluster.work import ordered_map
from re_llm.llm.device import pick_device
from re_llm.llm.rows import batches_by_length
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.emotion_encoder import make_emotion_encoder
from re_llm.model.hearing import Hearing
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.outputs import EncodedAudio
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.train.copies import Copies
from re_llm.train.examples import Example


@dataclass(frozen=True)
class Encoded:
    """States of one utterance, as they are stored.

    Attributes:
        id: of what was heard.
        states: [T, D] float16, real frames only.
        emotion: [1, D] float32 pooled, or [T, D] float16, or None without an emotion encoder.
    """

    id: str
    states: np.ndarray
    emotion: np.ndarray | None

    @classmethod
    def of(cls, id: str, batch: EncodedAudio, row: int) -> Encoded:
        """One row of a padded batch."""
        n = int(batch.speech_lengths[row])
        emotion = batch.emotion_states
        if emotion is None:
            return cls(id, _half(batch.speech_states[row, :n]), None)
        kept = _half(emotion[row, :n]) if emotion.dim() == 3 else emotion[row : row + 1].float().cpu().numpy()
        return cls(id, _half(batch.speech_states[row, :n]), kept)


def _half(tensor: torch.Tensor) -> np.ndarray:
    return tensor.to(torch.float16).cpu().numpy()


@dataclass(frozen=True)
class Part:
    """Utterances that are encoded together.

    Attributes:
        segments: ids of their segments.
        copy: which copy of them is heard; 0 = they themselves.
    """

    examples: list[Example]
    segments: list[str]
    copies: Copies
    copy: int

    def ids(self) -> list[str]:
        """Ids of what is heard, in the order of the examples."""
        return [self.copies.id(segment, self.copy) for segment in self.segments]

    def samples(self) -> list[Samples]:
        """What is heard of each.

        Raises:
            RellmError: a recording cannot be read (names it).
        """
        # Threads serve here: decoding leaves the interpreter lock.
        each = zip(self.examples, self.segments, strict=True)
        return list(ordered_map(self._samples, each, min(8, os.cpu_count() or 1)))

    def _samples(self, one: tuple[Example, str]) -> Samples:
        example, segment = one
        wave = waveform.load(example.audio, start=example.start, duration=example.duration)
        return self.copies.wave(wave, segment, self.copy)


def encode_part(
    part: Part, model: ReLlmForConditionalGeneration | Encoders, processor: ReLlmProcessor, batch_size: int
) -> list[Encoded]:
    """States of utterances, encoded in batches of similar length, longest first.

    Raises:
        RellmError: a recording cannot be read (names it).
    """
    samples, ids = part.samples(), part.ids()
    found = []
    for rows in batches_by_length([len(s) for s in samples], batch_size):
        batch = _encode(model, processor, [samples[i] for i in rows])
        found += [Encoded.of(ids[i], batch, row) for row, i in enumerate(rows)]
    return found


@torch.inference_mode()
def _encode(
    model: ReLlmForConditionalGeneration | Encoders, processor: ReLlmProcessor, samples: list[np.ndarray]
) -> EncodedAudio:
    inputs = processor.audio_inputs(samples)
    return model.encode_audio(**{name: tensor.to(model.device) for name, tensor in inputs.items()})


class Encoders(torch.nn.Module, Hearing):
    """The encoders of a model without its LLM: what a worker of a cluster needs.

    Args:
        weights: of both encoders, by their names in the model.
        dtypes: of the speech and of the emotion encoder.
    """

    def __init__(self, config: ReLlmConfig, weights: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]):
        super().__init__()
        self.config = config
        self.speech_encoder = SpeechEncoder(config.speech_config, config.speech_window).to(dtypes["speech_encoder"])
        self.emotion_encoder = None
        if "emotion_encoder" in dtypes:
            self.emotion_encoder = make_emotion_encoder(config.emotion_config, config.emotion_outputs)
            self.emotion_encoder.to(dtypes["emotion_encoder"])
        self.load_state_dict(dict(weights))
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


@dataclass(frozen=True)
class EncodeWork:
    """Utterances to their states. The weights go with it: a worker loads no checkpoint, and none can be another one."""

    config: ReLlmConfig
    weights: Mapping[str, torch.Tensor]
    dtypes: Mapping[str, torch.dtype]
    processor: ReLlmProcessor
    batch_size: int
    device: str
    folder: None = None

    @classmethod
    def of(
        cls, model: ReLlmForConditionalGeneration, processor: ReLlmProcessor, batch_size: int, device: str
    ) -> EncodeWork:
        """The work that this model's encoders would do."""
        parts = {name: getattr(model, name) for name in ("speech_encoder", "emotion_encoder")}
        parts = {name: part for name, part in parts.items() if part is not None}
        states = {name: part.state_dict() for name, part in parts.items()}
        weights = {f"{name}.{key}": value.cpu() for name, state in states.items() for key, value in state.items()}
        dtypes = {name: part.dtype for name, part in parts.items()}
        return cls(model.config, weights, dtypes, processor, batch_size, device)

    def start(self) -> Callable[[Part], list[Encoded]]:
        encoders = Encoders(self.config, self.weights, self.dtypes).to(pick_device(self.device))
        return lambda part: encode_part(part, encoders, self.processor, self.batch_size)
