"""What an emotion encoder's tests came to: unweighted accuracy by fold and seed, with an interval by speaker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from re_llm.train.emotion.fit import unweighted_accuracy

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Tested:
    """One fold with one seed.

    Attributes:
        answers: (speaker, label, answer) of every utterance.
        kept: condition -> fraction of the utterances whose answer stays under it.
        epochs: of the training; speakers: how many were trained on.
    """

    test: str
    fold: str
    seed: int
    answers: list[tuple[str, str, str]]
    epochs: int
    speakers: int
    kept: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Unweighted accuracy."""
        return unweighted_accuracy([label for _, label, _ in self.answers], [answer for *_, answer in self.answers])


@dataclass
class TestReport:
    """All folds and seeds of one test. `interval`: 95 %, over speakers drawn with replacement."""

    name: str
    accuracy: float
    interval: tuple[float, float]
    by_fold: dict[str, dict[str, float]] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)
    by_speaker: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    utterances: int = 0


def summarize(name: str, tested: Sequence[Tested]) -> TestReport:
    """Mean over folds and seeds, and what it is made of."""
    accuracy = float(np.mean([each.accuracy for each in tested]))
    answers = [answer for each in tested for answer in each.answers]
    report = TestReport(name, round(accuracy, 4), interval(tested))
    for each in tested:
        report.by_fold.setdefault(each.fold, {})[str(each.seed)] = round(each.accuracy, 4)
    for label in sorted({label for _, label, _ in answers}):
        report.recall[label] = round(float(np.mean([a == label for _, known, a in answers if known == label])), 4)
    for speaker in sorted({speaker for speaker, *_ in answers}):
        own = [(label, answer) for who, label, answer in answers if who == speaker]
        report.by_speaker[speaker] = round(unweighted_accuracy([p[0] for p in own], [p[1] for p in own]), 4)
    for condition in tested[0].kept:
        report.kept[condition] = round(float(np.mean([each.kept[condition] for each in tested])), 4)
    report.utterances = len(answers) // max(1, len({each.seed for each in tested}))
    return report


def interval(tested: Sequence[Tested]) -> tuple[float, float]:
    """Interval of the pooled unweighted accuracy: speakers are drawn with replacement, their utterances come along."""
    labels = sorted({label for each in tested for _, label, _ in each.answers})
    speakers = sorted({speaker for each in tested for speaker, *_ in each.answers})
    hits, totals = np.zeros((2, len(speakers), len(labels)))
    for each in tested:
        for speaker, label, answer in each.answers:
            place = speakers.index(speaker), labels.index(label)
            totals[place] += 1
            hits[place] += answer == label
    drawn = np.random.default_rng(0).integers(0, len(speakers), (RESAMPLES, len(speakers)))
    with np.errstate(invalid="ignore"):  # a class that none of the drawn speakers has
        recalls = hits[drawn].sum(1) / totals[drawn].sum(1)
    low, high = np.quantile(np.nanmean(recalls, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 4), round(float(high), 4)


def table(reports: Sequence[TestReport]) -> str:
    """For a person."""
    lines = []
    for report in reports:
        low, high = report.interval
        folds = ", ".join(f"{fold} {np.mean(list(seeds.values())):.1%}" for fold, seeds in report.by_fold.items())
        lines.append(f"{report.name}: UA {report.accuracy:.1%} (by speaker {low:.1%} to {high:.1%}); {folds}")
        if report.kept:
            kept = ", ".join(f"{condition} {fraction:.1%}" for condition, fraction in report.kept.items())
            lines.append(f"{report.name}, keeps its label: {kept}")
    return "\n".join(lines)
