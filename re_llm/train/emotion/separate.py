"""Fine-tuning an encoder of its own as classifier of emotions: wav2vec2, HuBERT, WavLM, whatever classifies audio.

Shapes: B utterances, N samples (16 kHz), E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from re_llm.audio import waveform
from re_llm.model.classifier import WaveClassifier
from re_llm.recipe.emotion import EmotionRecipe, SeparateOptions
from re_llm.train.emotion.augment import augmented
from re_llm.train.emotion.calibration import Calibration
from re_llm.train.emotion.conditions import under
from re_llm.train.emotion.learners import Mix
from re_llm.train.emotion.rows import Corpora, Labelled
from re_llm.train.emotion.states import recording_id


class SeparateLearner:
    """An encoder of transformers with a new head; it hears waveforms, disturbed as they are drawn."""

    def __init__(self, recipe: EmotionRecipe, seed: int, device: torch.device):
        options = recipe.emotion_encoder
        assert isinstance(options, SeparateOptions)
        self.recipe, self.device = recipe, device
        torch.manual_seed(seed)
        self.classifier = WaveClassifier.load(options.name, emotions=recipe.emotions, device=device)
        if options.train == "head":
            self.classifier.model.freeze_base_model()

    @property
    def module(self) -> nn.Module:
        return self.classifier.model

    def start(self, training: Sequence[Labelled], rng: np.random.Generator) -> None:
        """Nothing is measured: the encoder comes with its own normalisation."""

    def forward(
        self, rows: Sequence[Labelled], copies: Sequence[int], mix: Mix | None, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor | None]:
        waves = [_wave(row) for row in rows]
        options = self.recipe.augment
        heard = [
            augmented(wave, options, np.random.default_rng([int(recording_id(row)[:8], 16), copy])) if copy else wave
            for row, wave, copy in zip(rows, waves, copies, strict=True)
        ]
        values, lengths = self.classifier.inputs(heard)
        if mix is not None:
            values, lengths = mix.of(values), torch.maximum(lengths, lengths[mix.partner])
        return self.classifier.logits(values, lengths).cpu(), None

    @torch.inference_mode()
    def predict(self, rows: Sequence[Labelled], condition: str | None = None) -> Tensor:
        self.module.eval()
        waves = [_wave(row) for row in rows]
        if condition:
            waves = [under(condition, wave, np.random.default_rng(i)) for i, wave in enumerate(waves)]
        logits = self.classifier(waves)
        self.module.train()
        return logits

    def save(self, folder: Path, corpora: Corpora, calibration: Calibration) -> None:
        config = self.classifier.model.config
        config.logit_scale, config.unsure_below = calibration.logit_scale, calibration.unsure_below
        self.classifier.save(folder)


def _wave(row: Labelled) -> waveform.Samples:
    return waveform.load(row.audio, start=row.start, duration=row.duration)
