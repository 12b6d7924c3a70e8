"""What is trained: an encoder that reads Whisper's layers, or one of its own. The loop of `fit` knows neither.

Shapes: B utterances, W windows, E emotions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from re_llm.llm.rows import batches_by_length
from re_llm.model.shared_emotion import SharedEmotionEncoder, save, signature
from re_llm.model.shared_emotion_config import SharedEmotionConfig
from re_llm.recipe.emotion import EmotionRecipe, FitOptions, SharedOptions
from re_llm.train.emotion.calibration import Calibration
from re_llm.train.emotion.rows import Corpora, Labelled
from re_llm.train.emotion.states import StateStore

LIKE_MEASURED = 400  # utterances on which the spread of the windows is measured
EVALUATED = 64  # utterances at once
POOLED = 12  # of a batch in training


@dataclass(frozen=True)
class Mix:
    """Mixup of a batch: row b becomes `fraction[b]` of itself and the rest of row `partner[b]`."""

    fraction: Tensor  # [B, 1]
    partner: Tensor  # [B]

    def of(self, values: Tensor) -> Tensor:
        """Mixed values [B, ...]."""
        fraction = self.fraction.view(-1, *[1] * (values.dim() - 1))
        return fraction * values + (1 - fraction) * values[self.partner]


class Learner(Protocol):
    """A network and what it is fed."""

    @property
    def module(self) -> nn.Module: ...

    def start(self, training: Sequence[Labelled], rng: np.random.Generator) -> None:
        """Before the first step: everything that is measured on the training utterances."""

    def forward(
        self, rows: Sequence[Labelled], copies: Sequence[int], mix: Mix | None, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, E] and dimensions [B, 3] of a batch in training."""

    def predict(self, rows: Sequence[Labelled], condition: str | None = None) -> Tensor:
        """Logits [B, E] of utterances, as they are or under one of CONDITIONS."""

    def save(self, folder: Path, corpora: Corpora, calibration: Calibration) -> None:
        """Writes the encoder."""


class SharedLearner:
    """A `SharedEmotionEncoder` over stored states."""

    def __init__(self, recipe: EmotionRecipe, store: StateStore, seed: int):
        options = recipe.emotion_encoder
        assert isinstance(options, SharedOptions)
        self.store, self.fit, self.options = store, recipe.fit, options
        torch.manual_seed(seed)
        self.module = SharedEmotionEncoder(
            SharedEmotionConfig(
                speech_encoder=options.speech_encoder,
                speech_signature=signature(store.encoding.hearing.encoder),
                speech_width=store.shape[2],
                speech_window=options.speech_window,
                layers=options.layers,
                pool=options.pool,
                attention_size=options.attention_size,
                hidden_size=options.hidden_size,
                emotions=recipe.emotions,
            )
        )

    def start(self, training: Sequence[Labelled], rng: np.random.Generator) -> None:
        """Centre and spread of the windows."""
        chosen = rng.permutation(len(training))[:LIKE_MEASURED]
        windows = self.store.batch([training[i].key for i in chosen], [0] * len(chosen))
        real = windows.statistics[windows.counts > 0]
        self.module.centre.copy_(real.mean(0))
        self.module.spread.copy_(real.std(0).clamp_min(1e-3))

    def forward(
        self, rows: Sequence[Labelled], copies: Sequence[int], mix: Mix | None, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        keys = [row.key for row in rows]
        lengths = [self.store.length(key, copy) for key, copy in zip(keys, copies, strict=True)]
        order: list[int] = []
        pooled = []
        for part in batches_by_length(lengths, POOLED):  # else most of a batch would be padding
            windows = self.store.batch([keys[i] for i in part], [copies[i] for i in part])
            counts = _without_stretches(windows.counts, self.fit, rng)
            pooled.append(self.module.pooled(replace(windows, counts=counts)))
            order += part
        statistics = self.module.standardized(torch.cat(pooled)[torch.tensor(order).argsort()])
        found = self.module.read(mix.of(statistics) if mix else statistics, self.fit.dropout)
        return found.logits, found.dimensions

    @torch.inference_mode()
    def predict(self, rows: Sequence[Labelled], condition: str | None = None) -> Tensor:
        self.module.eval()
        if condition:
            self.store.fill(rows, (condition,))
        logits = torch.empty(len(rows), len(self.module.config.emotions))
        for batch in batches_by_length([self.store.length(row.key) for row in rows], EVALUATED):
            windows = self.store.batch([rows[i].key for i in batch], [condition or 0] * len(batch))
            logits[batch] = self.module.read(self.module.statistics(windows)).logits
        self.module.train()
        return logits

    def save(self, folder: Path, corpora: Corpora, calibration: Calibration) -> None:
        config = self.module.config
        config.logit_scale, config.unsure_below = calibration.logit_scale, calibration.unsure_below
        if Path(self.options.speech_encoder).is_dir():  # found again from where the encoder lies
            config.speech_encoder = Path(os.path.relpath(self.options.speech_encoder, folder)).as_posix()
        config.label_sets = {c: [corpora.emotions[e] for e in labels] for c, labels in corpora.label_sets.items()}
        save(self.module, folder)


def _without_stretches(counts: Tensor, options: FitOptions, rng: np.random.Generator) -> Tensor:
    """SpecAugment over time: up to a third of an utterance's windows [B, W] holds nothing."""
    counts = counts.clone()
    for row in counts:
        windows = int((row > 0).sum())
        if windows >= 3 and rng.random() < options.spec_augment:
            length = int(rng.integers(1, windows // 3 + 1))
            first = int(rng.integers(0, windows - length + 1))
            row[first : first + length] = 0
    return counts
