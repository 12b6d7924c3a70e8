"""How sure an emotion encoder is: probabilities that mean what they say, and a limit below which it is unsure.

Shapes: B utterances, E emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from re_llm.train.emotion.rows import Corpora

SURE = 0.95  # of the utterances of unheard speakers


@dataclass(frozen=True)
class Calibration:
    """What is measured on the validation's speakers.

    Attributes:
        logit_scale: on the logits; makes the likeliest probabilities of the true emotions.
        unsure_below: probability of the likeliest emotion that 19 of 20 utterances exceed.
    """

    logit_scale: float = 1.0
    unsure_below: float = 0.0

    def unsure(self, logits: Tensor) -> float:
        """Fraction of recordings whose likeliest emotion is less probable than the limit; logits [B, E]."""
        return round(float((_likeliest(logits, self.logit_scale) < self.unsure_below).mean()), 4)


def calibrate(corpora: Corpora, indices: Sequence[int], logits: Tensor) -> Calibration:
    """From the logits of these utterances."""
    rows = [corpora.rows[i] for i in indices]
    named = torch.from_numpy(corpora.masks(rows))
    labels = torch.tensor([row.emotion for row in rows])
    masked = logits.masked_fill(~named, -1e4)
    scales = np.geomspace(0.2, 5.0, 65)
    losses = [float(torch.nn.functional.cross_entropy(masked * scale, labels)) for scale in scales]
    scale = round(float(scales[int(np.argmin(losses))]), 3)
    return Calibration(scale, round(float(np.quantile(_likeliest(logits, scale), 1 - SURE)), 3))


def _likeliest(logits: Tensor, scale: float) -> np.ndarray:
    return np.asarray((scale * logits).softmax(1).amax(1))
