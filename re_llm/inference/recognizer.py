"""An emotion encoder alone: categories and dimensions of recordings, without LLM. Also the classifier of a cascade.

Shapes: B recordings, N samples (16 kHz), E emotions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from re_llm.audio.given import Audio, describe, read
from re_llm.audio.waveform import Samples
from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.encoding import (
    in_windows,
    mean_with_trajectory,
    prepared,
    window_seconds,
    with_trajectory,
)
from re_llm.inference.estimate import Estimate
from re_llm.inference.reply import History, OnBatch, Reply, ReplyOptions
from re_llm.llm.completion import Completion
from re_llm.llm.device import half_on_cpu, pick_device, pick_dtype
from re_llm.llm.prompts import Prompt
from re_llm.llm.rows import batches_by_length
from re_llm.model.classifier import WaveClassifier
from re_llm.model.components import load_emotion_encoder
from re_llm.model.hub import locate
from re_llm.model.shared_emotion import SharedEmotionEncoder, check_speech_encoder
from re_llm.model.shared_emotion_config import is_shared
from re_llm.model.speech_layers import SpeechLayers

# Recordings -> logits [B, E], and valence, arousal, dominance [B, 3] where the encoder tells them.
Encode = Callable[[Sequence[np.ndarray]], tuple[Tensor, Tensor | None]]
BATCH = 8


class EmotionRecognizer:
    """A trained emotion encoder (`re-llm train recipes/emotion.yaml`), as a system that answers no prompt.

    Args:
        encode: the network.
        emotions: its categories, in the order of the logits.
        only: the categories to choose among; None = all of them.
        logit_scale, unsure_below: from the training's calibration.
    """

    needs_audio = True
    quantized: None = None

    def __init__(
        self,
        encode: Encode,
        emotions: Sequence[str],
        name: str,
        dtype: torch.dtype,
        *,
        only: Sequence[str] | None = None,
        logit_scale: float = 1.0,
        unsure_below: float = 0.0,
    ):
        unknown = [emotion for emotion in only or () if emotion not in emotions]
        if unknown:
            raise RellmError(f"{name} does not know the emotion {unknown[0]!r}", allowed=", ".join(emotions))
        self.encode, self.names, self.dtype = encode, (name,), dtype
        self.emotions = tuple(only or emotions)
        self._columns = [list(emotions).index(emotion) for emotion in self.emotions]
        self._scale, self._unsure_below = logit_scale, unsure_below

    @classmethod
    def load(
        cls, name: str, *, device: str = "auto", dtype: str = "auto", only: Sequence[str] | None = None
    ) -> EmotionRecognizer:
        """From a folder, hub id or component name.

        Args:
            dtype: of the speech encoder; `auto` on a CPU is bfloat16 where it multiplies that in hardware.

        Raises:
            RellmError: it is no emotion encoder, or its Whisper is missing or another one.
        """
        folder, where = locate(resolve_component(name)), pick_device(device)
        kind = half_on_cpu() if dtype == "auto" and where.type == "cpu" else pick_dtype(dtype, where)
        if not is_shared(folder):
            classifier = WaveClassifier.load(name, device=where, dtype=kind)
            return cls(
                lambda waves: (classifier(waves), None), classifier.emotions, name, kind, only=only,
                logit_scale=getattr(classifier.model.config, "logit_scale", 1.0),
                unsure_below=getattr(classifier.model.config, "unsure_below", 0.0),
            )  # fmt: skip
        encoder = load_emotion_encoder(folder, torch.float32)
        assert isinstance(encoder, SharedEmotionEncoder)
        config = encoder.config
        whisper = locate(resolve_component(config.speech_encoder or "", folder))
        hearing = SpeechLayers.load(whisper, config.speech_window, device=where, dtype=kind)
        check_speech_encoder(config, hearing.encoder)
        encoder.to(where)

        def encode(waves: Sequence[np.ndarray]) -> tuple[Tensor, Tensor | None]:
            with torch.inference_mode():
                found = encoder(*hearing(waves, encoder.layers))
            return found.logits.float().cpu(), found.dimensions.float().cpu()

        return cls(
            encode, config.emotions, name, kind, only=only, logit_scale=config.logit_scale,
            unsure_below=config.unsure_below,
        )  # fmt: skip

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """No limit: no LLM has to have room for the speech."""
        return math.inf

    def samples(self, item: Audio, *prompts: object) -> np.ndarray:
        """Samples [N] of a recording of any kind, without the silence at its ends; see `Engine.samples`."""
        return self.prepared(read(item), describe(item))

    def prepared(self, wave: Samples, name: str, *prompts: object) -> Samples:
        """See `Engine.prepared`."""
        return prepared(wave, name, None, math.inf)

    def trajectory(self, item: Audio, *, window: float | None = None) -> Estimate:
        """As `Engine.trajectory`."""
        wave = read(item)
        samples = prepared(wave, describe(item), None, math.inf, window)
        return with_trajectory(self._estimates([samples], window)[0], wave, samples)

    def recognize(self, items: Sequence[Audio], *, batch_size: int = BATCH) -> list[Estimate]:
        """Estimates of recordings, in their order. An estimate does not depend on its batch.

        Raises:
            RellmError: one of them cannot be used.
        """
        samples = [self.samples(item) for item in items]
        found: list[Estimate] = [Estimate()] * len(samples)
        for batch in batches_by_length([len(wave) for wave in samples], batch_size):
            for i, estimate in zip(batch, self._estimates([samples[i] for i in batch]), strict=True):
                found[i] = estimate
        return found

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Estimates as replies without a response; see `re_llm.inference.reply.System`."""
        assert samples is not None, "an emotion encoder takes recordings"
        replies: list[Reply] = [Reply()] * len(rows)
        for batch in batches_by_length([len(wave) for wave in samples], options.batch_size):
            found = [Reply.of(each, Completion()) for each in self._estimates([samples[i] for i in batch])]
            for i, reply in zip(batch, found, strict=True):
                replies[i] = reply
            if on_batch:
                on_batch(batch, found)
        return replies

    def _estimates(self, waves: Sequence[np.ndarray], window: float | None = None) -> list[Estimate]:
        """Of a batch; of long recordings the mean of their windows."""
        found = in_windows(waves, window_seconds(None, math.inf, window), self._batch)
        return [mean_with_trajectory(each, wave) for each, wave in zip(found, waves, strict=True)]

    def _batch(self, waves: Sequence[np.ndarray]) -> list[Estimate]:
        logits, dimensions = self.encode(waves)
        probabilities = (self._scale * logits[:, self._columns]).softmax(1).tolist()
        # Over all categories: with few to choose from, one of them is always likely.
        likeliest = (self._scale * logits).softmax(1).amax(1).tolist()
        values = dimensions.clamp(0.0, 1.0).tolist() if dimensions is not None else [(None, None, None)] * len(waves)
        return [
            Estimate(
                probabilities=dict(zip(self.emotions, each, strict=True)), valence=v, arousal=a, dominance=d,
                unsure=highest < self._unsure_below if self._unsure_below else None,
            )
            for each, highest, (v, a, d) in zip(probabilities, likeliest, values, strict=True)
        ]  # fmt: skip
