"""How well a scorer finds levels of empathy, beside the trivial rules that it has to beat; the report of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from re_llm.evaluate.empathy.epitome import LEVELS, PUBLISHED
from re_llm.evaluate.empathy.text_features import Ints

RESAMPLES = 2000
CHUNK = 250  # resamples drawn at once


def _level_f1(truth: Ints, found: Ints) -> list[float]:
    from sklearn.metrics import f1_score

    return [float(f1) for f1 in f1_score(truth, found, labels=range(LEVELS), average=None, zero_division=0)]


def macro_f1(truth: Ints, found: Ints) -> float:
    """Mean of the F1 of the levels; 0 for a level that is neither true nor found."""
    return float(np.mean(_level_f1(truth, found)))


def measures(truth: Ints, found: Ints) -> dict[str, Any]:
    """Accuracy, macro-F1 and F1 of each level, 0..1, over all rows at once.

    The authors average each of them over batches, which is neither the accuracy nor the F1 of the test set.
    """
    each = _level_f1(truth, found)
    return {
        "accuracy": round(float((truth == found).mean()), 4),
        "macro_f1": round(float(np.mean(each)), 4),
        "level_f1": [round(f1, 4) for f1 in each],
    }


def macro_f1_interval(truth: Ints, found: Ints, groups: Ints, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the macro-F1 of rows [R]: whole groups [R] are drawn, as in the folds."""
    number = np.unique(groups, return_inverse=True)[1]
    # [G, levels]: right, and true plus found, whose ratio is half an F1.
    right, both = np.zeros((2, number.max() + 1, LEVELS))
    np.add.at(right, (number, truth), truth == found)
    np.add.at(both, (number, truth), 1)
    np.add.at(both, (number, found), 1)
    draw, even = np.random.default_rng(seed), np.full(len(right), 1 / len(right))
    draws = (draw.multinomial(len(right), even, size=CHUNK) for _ in range(RESAMPLES // CHUNK))
    f1 = np.concatenate([2 * (each @ right) / np.maximum(each @ both, 1) for each in draws])
    low, high = np.quantile(f1.mean(axis=1), [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)


def _says_sorry(text: str) -> bool:
    plain = text.lower().replace("’", "'")  # noqa: RUF001 (that is what is replaced)
    return any(phrase in plain for phrase in ("i'm sorry", "im sorry", "i am sorry", "i'm so sorry", "im so sorry"))


# Level 2 where the rule applies, 0 elsewhere; for every mechanism, so that what is a surface cue shows.
RULES: dict[str, Callable[[str], bool]] = {
    "rule: a question mark -> 2": lambda text: "?" in text,
    'rule: "I\'m sorry" -> 2': _says_sorry,
    'rule: "understand" -> 2': lambda text: "understand" in text.lower(),
}


def trivial_levels(train: Ints, responses: Sequence[str]) -> dict[str, Ints]:
    """Levels of responses by the majority of the training levels [N] and by each rule: name -> [R]."""
    majority = int(np.bincount(train, minlength=LEVELS).argmax())
    rules = {name: np.array([2 * rule(text) for text in responses], np.int64) for name, rule in RULES.items()}
    return {"majority": np.full(len(responses), majority), **rules}


@dataclass
class TrainReport:
    """What training a scorer gave.

    Attributes:
        out: the scorer's folder. judged_on: on what the measures were taken.
        metrics: of each mechanism: `measures` of the scorer and of what it has to beat, and more.
    """

    out: Path
    judged_on: str
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Mechanism, scorer, accuracy, macro-F1 and the F1 of the levels, in %; the published scorer last."""
        for mechanism, found in self.metrics.items():
            for name, got in found["measures"].items():
                levels = " / ".join(f"{100 * f:.1f}" for f in got["level_f1"])
                yield mechanism, name, f"{100 * got['accuracy']:.1f}", f"{100 * got['macro_f1']:.1f}", levels
            accuracy, f1 = PUBLISHED[mechanism]
            yield mechanism, "RoBERTa, published, another split", f"{100 * accuracy:.1f}", f"{100 * f1:.1f}", ""

    def summary(self) -> str:
        """For a person."""
        table = [("", "", "accuracy", "macro-F1", "F1 of level 0 / 1 / 2"), *self.rows()]
        lines = [f"scorer: {self.out}; measured on {self.judged_on}"]
        lines += [f"  {m:3} {name:33} {a:>8} {f1:>8}   {levels}".rstrip() for m, name, a, f1, levels in table]
        return "\n".join([*lines, f"use it: re-llm score replies.jsonl --out scores.jsonl --scorer {self.out}"])
