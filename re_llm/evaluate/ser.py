"""Speech emotion recognition: how often the emotion that a system named is the right one.

UA (unweighted accuracy) is the mean of the recalls of the emotions, WA (weighted accuracy) the plain accuracy.
An answer that names no emotion of the label set is wrong, never left out, and is counted beside the score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from re_llm.core.emotions import CANONICAL
from re_llm.core.errors import RellmError

RESAMPLES = 2000


@dataclass(frozen=True)
class SerResult:
    """Recognition on one group of replies.

    Attributes:
        labels: the label set, C names in the order of the matrix.
        confusion: [C, C + 1] counts, reference by answer; the last column holds answers that name none of the labels.
        ua, wa, macro_f1: 0..1. weighted_f1: F1 weighed by the references of each label. Labels without a reference
            count in none of them.
        interval: 95 % bootstrap interval of UA.
        unparsable: answers that name no emotion at all; outside: those that name one that is not in the label set.
    """

    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    ua: float
    wa: float
    macro_f1: float
    weighted_f1: float
    interval: tuple[float, float]
    unparsable: int
    outside: int

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def unparsable_fraction(self) -> float:
        return self.unparsable / self.count

    def recalls(self) -> dict[str, float]:
        """Recall of every label that has references."""
        totals = self.confusion.sum(axis=1)
        return {name: float(self.confusion[i, i] / totals[i]) for i, name in enumerate(self.labels) if totals[i]}

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Metric and fields of the rows that a group of replies has in scores.jsonl."""
        details = {
            "interval": [round(x, 6) for x in self.interval],
            "confusion": self.confusion.tolist(),
            "recalls": self.recalls(),
            "outside": self.outside,
        }
        for metric, value, more in (
            ("UA", self.ua, details),
            ("WA", self.wa, {}),
            ("F1", self.macro_f1, {}),
            ("WF1", self.weighted_f1, {}),
            ("UNPARSABLE", self.unparsable_fraction, {"number": self.unparsable}),
        ):
            yield metric, {"value": value, "count": self.count, "labels": list(self.labels), **more}


def label_order(names: set[str]) -> tuple[str, ...]:
    """Canonical emotions first, in their order, then others by name."""
    return tuple(sorted(names, key=lambda n: (CANONICAL.index(n) if n in CANONICAL else len(CANONICAL), n)))


def _ua(confusions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """UA of confusion matrices [..., C, C + 1]; labels without references are left out."""
    totals = confusions.sum(axis=-1)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    recalls = np.where(totals > 0, hits / np.maximum(totals, 1), 0.0)
    return np.asarray(recalls.sum(-1) / np.maximum((totals > 0).sum(-1), 1))


def encode(
    references: Sequence[str], answers: Sequence[str | None], labels: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """References and answers as indices into `labels`; answers outside of it become len(labels).

    Raises:
        RellmError: a reference is not in the label set.
    """
    place = {name: i for i, name in enumerate(labels)}
    for reference in references:
        if reference not in place:
            raise RellmError(f"reference emotion {reference!r} is not in the label set", allowed=", ".join(labels))
    truth = np.array([place[reference] for reference in references], np.int64)
    named = np.array([place.get(answer or "", len(labels)) for answer in answers], np.int64)
    return truth, named


def score_recognition(
    references: Sequence[str],
    answers: Sequence[str | None],
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> SerResult:
    """Scores answers (canonical emotion names, None where the answer named none) against references.

    Args:
        labels: the label set; without it, the emotions that occur among the references.
        seed, resamples: of the bootstrap over items.

    Raises:
        RellmError: there is nothing to score, or a reference is not in the label set.
        ValueError: the two sequences differ in length.
    """
    if len(references) != len(answers):
        raise ValueError(f"{len(references)} references but {len(answers)} answers")
    if not references:
        raise RellmError("no reply has both a reference emotion and an answer", todo="Score with --metric ER EX IP")
    names = tuple(labels) if labels else label_order(set(references))
    truth, named = encode(references, answers, names)
    width = len(names) + 1
    cells = truth * width + named
    confusion = np.bincount(cells, minlength=len(names) * width).reshape(len(names), width)
    draws = np.random.default_rng(seed).multinomial(len(cells), confusion.ravel() / len(cells), size=resamples)
    low, high = np.quantile(_ua(draws.reshape(resamples, *confusion.shape)), [0.025, 0.975])
    hits, totals, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)[:-1]
    f1 = 2 * hits / np.maximum(1, totals + said)
    spoken = Counter(answer is None for answer in answers)
    return SerResult(
        labels=names,
        confusion=confusion,
        ua=float(_ua(confusion)),
        wa=float(hits.sum() / len(cells)),
        macro_f1=float(f1[totals > 0].mean()),
        weighted_f1=float((f1 * totals).sum() / len(cells)),
        interval=(float(low), float(high)),
        unparsable=spoken[True],
        outside=int(confusion[:, -1].sum()) - spoken[True],
    )
