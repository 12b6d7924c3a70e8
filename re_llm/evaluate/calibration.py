"""Does a head know how sure it is? Calibration error, temperature, and prediction sets that hold what they promise.

Temperature and the threshold of the sets are fitted on validation replies and measured on others; a system's own test
replies are never fitted to. N utterances, C emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 15
SMALLEST = 1e-6  # probabilities are written with four decimals: a zero there is below .00005
RESAMPLES = 1000
COVERAGE = 0.9
MIN_ITEMS = 20


@dataclass(frozen=True)
class Bin:
    """Utterances whose highest probability lies in one range: their mean confidence, and how often it was right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy of one head agree.

    Attributes:
        ece: expected calibration error, 15 ranges of equal width (Guo et al. 2017), with its 95 % bootstrap `interval`.
        nll: negative log-likelihood of the reference. accuracy, confidence: means.
        bins: the ranges that hold something, ascending.
    """

    ece: float
    interval: tuple[float, float]
    nll: float
    accuracy: float
    confidence: float
    bins: list[Bin]
    count: int


@dataclass(frozen=True)
class PredictionSets:
    """Sets of emotions that hold the reference with at least the promised probability (split conformal, LAC).

    Attributes:
        promised: coverage. coverage: measured, with its 95 % interval; smallest over the emotions in `worst`.
        size: mean number of emotions in a set. empty, single: fractions of the sets with none, and with one emotion.
    """

    promised: float
    coverage: float
    interval: tuple[float, float]
    worst: tuple[str, float]
    size: float
    empty: float
    single: float


@dataclass(frozen=True)
class Heads:
    """Probabilities of a head and the reference of each utterance.

    Attributes:
        labels: C names. probabilities: [N, C]. truth: [N] index into the labels.
        left_out: replies without probabilities or a reference, or with a reference that the head does not know.
    """

    labels: tuple[str, ...]
    probabilities: Floats
    truth: Ints
    left_out: int

    @classmethod
    def of(cls, replies: Sequence[ReplyRecord]) -> Heads:
        """Of the replies of one system.

        Raises:
            RellmError: fewer than `MIN_ITEMS` replies have both, or two name different emotions.
        """
        known = [(r.probabilities, r.emotion) for r in replies if r.probabilities and r.emotion in r.probabilities]
        if len(known) < MIN_ITEMS:
            raise RellmError(
                f"{len(known)} of {len(replies)} replies have `probabilities` and a reference `emotion` among them",
                allowed=f"at least {MIN_ITEMS}",
                todo="Answer with a model that has a categorical head",
            )
        labels = tuple(known[0][0])
        if any(tuple(probabilities) != labels for probabilities, _ in known):
            raise RellmError("replies of one system give probabilities of different emotions")
        values = np.array([[max(p[name], SMALLEST) for name in labels] for p, _ in known])
        truth = np.array([labels.index(emotion or "") for _, emotion in known], np.int64)
        return cls(labels, values / values.sum(axis=1, keepdims=True), truth, len(replies) - len(known))

    def tempered(self, temperature: float) -> Heads:
        """The same with the logarithms of the probabilities divided by a temperature."""
        return replace(self, probabilities=softmax(np.log(self.probabilities) / temperature, axis=1))

    def nll(self) -> float:
        return float(-np.log(self.probabilities[np.arange(len(self.truth)), self.truth]).mean())


def calibration(heads: Heads, *, seed: int = 0) -> Calibration:
    """Expected calibration error and what it is made of."""
    confidence = heads.probabilities.max(axis=1)
    right = (heads.probabilities.argmax(axis=1) == heads.truth).astype(np.float64)
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.zeros((len(right), BINS))
    gaps[np.arange(len(right)), place] = right - confidence
    count = len(right)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    low, high = np.quantile(np.abs(draws @ gaps).sum(axis=1) / count, [0.025, 0.975])
    bins = [
        Bin(int(own.sum()), float(confidence[own].mean()), float(right[own].mean()))
        for own in (place == b for b in range(BINS))
        if own.any()
    ]
    ece = float(np.abs(gaps.sum(axis=0)).sum() / count)
    means = float(right.mean()), float(confidence.mean())
    return Calibration(ece, (float(low), float(high)), heads.nll(), *means, bins, count)


def fit_temperature(validation: Heads) -> float:
    """The temperature with the smallest negative log-likelihood on validation replies, 0.05 to 20."""
    found = minimize_scalar(
        lambda log: validation.tempered(float(np.exp(log))).nll(), bounds=(np.log(0.05), np.log(20)), method="bounded"
    )
    return float(np.exp(found.x))


def conformal_threshold(validation: Heads, promised: float = COVERAGE) -> float:
    """Least probability of the emotions in a set, so that sets hold the reference with probability `promised`.

    Split conformal prediction with the score 1 - p (Sadinle et al. 2019): the threshold is the score of rank
    ceil((n + 1) promised) among n validation utterances; without such a rank every emotion is in every set.
    """
    own = validation.probabilities[np.arange(len(validation.truth)), validation.truth]
    rank = int(np.ceil((len(own) + 1) * promised))
    return 0.0 if rank > len(own) else float(np.sort(own)[::-1][rank - 1])


def prediction_sets(heads: Heads, threshold: float, promised: float = COVERAGE) -> PredictionSets:
    """What sets of the emotions with at least `threshold` probability hold."""
    inside = heads.probabilities >= threshold
    held = inside[np.arange(len(heads.truth)), heads.truth].astype(np.float64)
    sizes = inside.sum(axis=1)
    coverage = float(held.mean())
    draws = np.random.default_rng(0).binomial(len(held), coverage, size=RESAMPLES) / len(held)
    low, high = np.quantile(draws, [0.025, 0.975])
    each = [(heads.labels[i], float(held[heads.truth == i].mean())) for i in np.unique(heads.truth)]
    worst = min(each, key=lambda pair: pair[1])
    size, empty, single = float(sizes.mean()), float((sizes == 0).mean()), float((sizes == 1).mean())
    return PredictionSets(promised, coverage, (float(low), float(high)), worst, size, empty, single)
