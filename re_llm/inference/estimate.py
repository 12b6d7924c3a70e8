"""What a model hears in a recording: the emotion as a whole, and window by window. Plain values, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from re_llm.core.records import DIMENSIONS

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Moment:
    """The emotion in one window of a recording, from `start` to `end` seconds."""

    start: float
    end: float
    estimate: Estimate

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def predictions(self) -> dict[str, Any]:
        """As `Estimate.predictions`, with the times."""
        return {"start": round(self.start, 3), "end": round(self.end, 3), **self.estimate.predictions()}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The emotion that a model recognises in one utterance.

    Attributes:
        probabilities: of the categorical head, by emotion; empty for a text system, which has no heads.
        valence, arousal, dominance: of the dimensional head, about 0..1; None when the model was trained without.
        named_emotion: emotion that the LLM names in its answer to the recognition prompt (RE-LLM section II-C); None
            when it was not asked, or names none of the model's emotions.
        answer: that answer, word for word; None when it was not asked.
        unsure: whether the likeliest emotion is less probable than in nearly all speech of the training, as in music,
            noise and what resembles nothing known; None when the model has no such limit.
        trajectory: the windows of a long recording, whose mean, weighted by their lengths, the heads' values are; empty
            for a recording of one window, unless it was asked for.
        notice: what the model was not trained for in this recording, and what was done about it.
    """

    probabilities: dict[str, float] = field(default_factory=dict)
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    named_emotion: str | None = None
    answer: str | None = None
    unsure: bool | None = None
    trajectory: tuple[Moment, ...] = ()
    notice: str | None = None

    @property
    def predicted_emotion(self) -> str | None:
        """Likeliest class of the categorical head; None without probabilities."""
        return max(self.probabilities, key=self.probabilities.__getitem__, default=None)

    @property
    def emotion(self) -> str | None:
        """`named_emotion` when the recognition prompt was asked, else `predicted_emotion`."""
        return self.predicted_emotion if self.answer is None else self.named_emotion

    def predictions(self) -> dict[str, Any]:
        """What the heads predict, by the field names of the records and of the API; numbers with four decimals."""
        return {
            "predicted_emotion": self.predicted_emotion,
            "probabilities": {name: round(value, 4) for name, value in self.probabilities.items()},
            **{name: None if (value := getattr(self, name)) is None else round(value, 4) for name in DIMENSIONS},
        }

    def _repr_html_(self) -> str:
        from re_llm.inference.html import estimate_html

        return estimate_html(self)


def mean_of(moments: Sequence[Moment]) -> Estimate:
    """The mean of the estimates of windows, weighted by their lengths; one window's is its own."""
    if len(moments) == 1:
        return moments[0].estimate
    total = sum(moment.seconds for moment in moments)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return sum(m.seconds * value for m, value in zip(moments, known, strict=True)) / total

    estimates = [moment.estimate for moment in moments]
    unsure = mean([None if each.unsure is None else float(each.unsure) for each in estimates])
    names = dict.fromkeys(name for each in estimates for name in each.probabilities)
    return Estimate(
        probabilities={name: mean([each.probabilities[name] for each in estimates]) or 0.0 for name in names},
        valence=mean([each.valence for each in estimates]),
        arousal=mean([each.arousal for each in estimates]),
        dominance=mean([each.dominance for each in estimates]),
        unsure=None if unsure is None else unsure > 0.5,
    )


@dataclass(frozen=True)
class EncodedSpeech:
    """Speech of one utterance, ready for any number of prompts.

    Attributes:
        embeddings: [S, D] speech tokens in the LLM's embedding space, which it is given.
        estimate: what the heads predict.
        samples: [T] the recording that was encoded, 16 kHz mono.
        all_embeddings: where the LLM is given some of them: of all windows of a long recording, and with the tokens in
            which nothing is said; else None.
    """

    embeddings: torch.Tensor = field(repr=False)
    estimate: Estimate
    samples: np.ndarray = field(repr=False)
    all_embeddings: torch.Tensor | None = field(default=None, repr=False)

    @property
    def heard(self) -> torch.Tensor:
        """All tokens, whatever the LLM is given: those to read the words of."""
        return self.embeddings if self.all_embeddings is None else self.all_embeddings
