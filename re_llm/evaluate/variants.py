"""What a change of a system's replies does to their scores: exchanged emotion information, length control, asking.

A variant is compared with its system on the same utterances. N utterances, R resamples, D doses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from re_llm.core.records import ReplyRecord
from re_llm.evaluate.audits import named_emotion
from re_llm.llm.length import count_words, is_question, sentences

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
MIN_ITEMS = 6  # utterances that a comparison needs
Scored = Mapping[str, Mapping[str, float]]  # metric -> key -> score


@dataclass(frozen=True)
class Measured:
    """A mean over utterances with its 95 % interval."""

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Dose:
    """Replies of which a fraction was made with the emotion information of other utterances.

    Attributes:
        fraction: that was asked for. exchanged: that was.
        accuracy: how often the emotion that the system goes by is the reference: the head's, else the named one, else
            whether the label that it was given is its own.
        scores: by metric.
    """

    fraction: float
    exchanged: float
    accuracy: Measured
    scores: dict[str, Measured]


@dataclass(frozen=True)
class DoseResponse:
    """One system on one corpus, from the smallest dose to the largest.

    Attributes:
        slopes: by metric, how much the mean score rises when the accuracy rises by 1: least squares over the doses; the
            interval resamples utterances, the same ones at every dose. Metrics that all doses have; none where the
            accuracy does not change.
    """

    system: str
    corpus: str
    items: int
    doses: list[Dose]
    slopes: dict[str, Measured]


@dataclass(frozen=True)
class Change:
    """A value without and with the variant, and the difference with its 95 % interval; paired by utterance."""

    before: float
    after: float
    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """A variant beside its system on the utterances that both answered.

    Attributes:
        settings: of the variant.
        changes: by what is measured: metrics, `words`, `asks once`, `names wrong`, `ER, 0 where wrong`.
        over: fraction of the replies that are longer than `max_words` (a single sentence that is); None without one.
        asked: fraction that asks how the person feels; None where that was not wanted.
        accuracy_asked, accuracy_else: of the head, where it asks and elsewhere.
    """

    system: str
    variant: str
    corpus: str
    items: int
    settings: dict[str, object]
    changes: dict[str, Change]
    over: float | None = None
    asked: float | None = None
    accuracy_asked: float | None = None
    accuracy_else: float | None = None


def _draws(count: int, seed: int) -> Floats:
    """[R, N] how often each utterance is drawn, divided by N."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return drawn / count


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _right(reply: ReplyRecord) -> float:
    """Whether the emotion that a reply goes by is the reference."""
    if reply.predicted_emotion or reply.probabilities:
        likely = max(reply.probabilities or {}, key=(reply.probabilities or {}).__getitem__, default=None)
        return float((reply.predicted_emotion or likely) == reply.emotion)
    if reply.answer is not None or reply.named_emotion is not None:
        return float(reply.named_emotion == reply.emotion)
    return float(reply.exchanged_with is None)


def dose_response(
    system: str,
    corpus: str,
    replies: Mapping[float, Sequence[ReplyRecord]],
    scored: Mapping[float, Scored],
    seed: int = 0,
) -> DoseResponse | None:
    """Accuracy and scores of each dose; None with fewer than two doses or `MIN_ITEMS` common utterances.

    Args:
        replies, scored: of one system, by dose; only utterances that every dose has are compared. Seeds of an
            utterance are averaged.
    """
    doses = sorted(replies)
    right = {dose: _by_key({r.key: [] for r in replies[dose]}, replies[dose]) for dose in doses}
    metrics = [m for m in scored[doses[0]] if all(m in scored[dose] for dose in doses)] if doses else []
    common = [right[dose].keys() for dose in doses] + [scored[dose][m].keys() for dose in doses for m in metrics]
    keys = sorted(set.intersection(*map(set, common))) if common else []
    if len(doses) < 2 or len(keys) < MIN_ITEMS:
        return None
    draws = _draws(len(keys), seed)
    accuracy = np.array([[right[dose][key] for key in keys] for dose in doses])
    values = {m: np.array([[scored[dose][m][key] for key in keys] for dose in doses]) for m in metrics}
    found = [
        Dose(dose, _exchanged(replies[dose]), _measured(accuracy[i], draws),
             {m: _measured(each[i], draws) for m, each in values.items()})
        for i, dose in enumerate(doses)
    ]  # fmt: skip
    slopes = {m: slope for m, each in values.items() if (slope := _slope(accuracy, each, draws))}
    return DoseResponse(system, corpus, len(keys), found, slopes)


def _by_key(into: dict[str, list[float]], replies: Sequence[ReplyRecord]) -> dict[str, float]:
    for reply in replies:
        into[reply.key].append(_right(reply))
    return {key: float(np.mean(each)) for key, each in into.items()}


def _exchanged(replies: Sequence[ReplyRecord]) -> float:
    return float(np.mean([reply.exchanged_with is not None for reply in replies]))


def _measured(values: Floats, draws: Floats) -> Measured:
    return Measured(float(values.mean()), _interval(draws @ values))


def _slope(accuracy: Floats, values: Floats, draws: Floats) -> Measured | None:
    """Least-squares slope of the mean score [D] over the mean accuracy [D]; None where the accuracy does not change."""

    def slope(x: Floats, y: Floats) -> Floats:
        centred = x - x.mean(-1, keepdims=True)
        squares = (centred**2).sum(-1)
        return np.asarray((centred * y).sum(-1) / np.where(squares > 1e-12, squares, np.nan))

    own = float(slope(accuracy.mean(1), values.mean(1)))
    drawn = slope(draws @ accuracy.T, draws @ values.T)
    drawn = drawn[np.isfinite(drawn)]
    return Measured(own, _interval(drawn)) if np.isfinite(own) and len(drawn) else None


def compare(
    before: Sequence[ReplyRecord], after: Sequence[ReplyRecord], scored: tuple[Scored, Scored], seed: int = 0
) -> Compared | None:
    """A variant (`after`) beside its system; None with fewer than `MIN_ITEMS` common utterances.

    Args:
        scored: the scores of both.
    """
    measured = [_habits(replies, each) for replies, each in zip((before, after), scored, strict=True)]
    changes = {}
    items = 0
    for name in (name for name in measured[0] if name in measured[1]):
        keys = sorted(measured[0][name].keys() & measured[1][name].keys())
        if len(keys) < MIN_ITEMS:
            continue
        first, second = (np.array([each[name][key] for key in keys]) for each in measured)
        draws = _draws(len(keys), seed) @ (second - first)
        changes[name] = Change(
            float(first.mean()), float(second.mean()), float((second - first).mean()), _interval(draws)
        )
        items = max(items, len(keys))
    if not changes:
        return None
    reply = after[0]
    asked = [(bool(r.asked), _right(r)) for r in after if r.asked is not None]
    limit = (reply.variant or {}).get("max_words")
    return Compared(
        reply.variant_of or "", reply.system, reply.corpus or "", items, dict(reply.variant or {}), changes,
        over=None if limit is None else float(np.mean([count_words(r.response) > limit for r in after])),
        asked=float(np.mean([a for a, _ in asked])) if asked else None,
        accuracy_asked=_mean([right for a, right in asked if a]),
        accuracy_else=_mean([right for a, right in asked if not a]),
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _habits(replies: Sequence[ReplyRecord], scored: Scored) -> dict[str, dict[str, float]]:
    """What is measured of every utterance: scores, length, questions, wrong emotions; seeds averaged."""
    found: dict[str, dict[str, list[float]]] = {}

    def add(name: str, key: str, value: float) -> None:
        found.setdefault(name, {}).setdefault(key, []).append(value)

    for reply in replies:
        parts = sentences(reply.response)
        questions = [is_question(part) for part in parts]
        add("words", reply.key, count_words(reply.response))
        add("asks once", reply.key, float(sum(questions) == 1 and questions[-1]))
        if reply.emotion:
            wrong = named_emotion(reply.response) not in (None, reply.emotion)
            add("names wrong", reply.key, float(wrong))
            if (er := scored.get("ER", {}).get(reply.key)) is not None:
                add("ER, 0 where wrong", reply.key, 0.0 if wrong else er)
    means = {name: {key: float(np.mean(each)) for key, each in values.items()} for name, values in found.items()}
    return {**{metric: dict(values) for metric, values in scored.items()}, **means}
