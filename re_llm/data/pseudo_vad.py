"""Valence, arousal, dominance estimated by the emotion encoder, for corpora without them (RE-LLM section III-A)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.llm.device import pick_device
from re_llm.model.components import load_emotion_encoder
from re_llm.model.emotion_encoder import EmotionEncoder
from re_llm.model.hub import locate
from re_llm.model.inputs import emotion_input_kind
from re_llm.model.recordings import normalized
from re_llm.model.shared_emotion import SharedEmotionEncoder


class DimensionEstimator:
    """The regression head of a speech emotion encoder in audeering's format, on batches of recordings.

    Attributes:
        name: of the model; `vad_source` says `pseudo:NAME`.
        device: as given to `load`. In another process, the estimator is loaded again by its name.
    """

    def __init__(
        self, encoder: EmotionEncoder, name: str, *, normalize: bool, device: str = "auto", allow_pickle: bool = False
    ):
        self.encoder, self.name, self.normalize = encoder, name, normalize
        self.device, self.allow_pickle = device, allow_pickle

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self).load, device=self.device, allow_pickle=self.allow_pickle), (self.name,)

    @classmethod
    def load(cls, name: str, *, device: str = "auto", allow_pickle: bool = False) -> DimensionEstimator:
        """Loads an encoder from a folder, a hub id or `mini:emotion`.

        Raises:
            RellmError: it cannot be read, or has no regression head.
        """
        folder = locate(resolve_component(name))
        encoder = load_emotion_encoder(folder, torch.float32, allow_pickle=allow_pickle)
        if isinstance(encoder, SharedEmotionEncoder):
            raise RellmError(
                f"{name} reads the layers of a speech encoder, and has none here",
                allowed="emotion encoders in audeering's format; norms",
            )
        if encoder.classifier is None:
            raise RellmError(
                f"{name} has no head for valence, arousal and dominance", todo="Use one in audeering's format"
            )
        normalize = emotion_input_kind(folder) == "normalized"
        where = pick_device(device)
        return cls(encoder.to(where), name, normalize=normalize, device=device, allow_pickle=allow_pickle)

    @torch.inference_mode()
    def __call__(self, waves: Sequence[np.ndarray]) -> list[tuple[float, float, float]]:
        """(valence, arousal, dominance) on 0..1 of recordings [N] at 16 kHz."""
        ready = [torch.from_numpy(normalized(w) if self.normalize else np.asarray(w, np.float32)) for w in waves]
        device = next(self.encoder.parameters()).device
        lengths = torch.tensor([len(w) for w in ready], device=device)
        values = torch.nn.utils.rnn.pad_sequence(ready, batch_first=True).to(device)
        estimate = self.encoder.regress(self.encoder(values, lengths)).clamp(0.0, 1.0)
        return [(v, a, d) for v, a, d in estimate.tolist()]
