"""How well levels of empathy are found, and the trivial rules that every scorer has to beat. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from re_llm.evaluate.empathy.epitome import LEVELS, Pair
from re_llm.evaluate.empathy.text_features import Floats, Ints


def level_f1(truth: Ints, found: Ints) -> Floats:
    """F1 of each level, 0 for a level that is neither true nor found: [3]."""
    confusion = np.bincount(truth * LEVELS + found, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    return 2 * np.diag(confusion) / np.maximum(1, confusion.sum(0) + confusion.sum(1))


def macro_f1(truth: Ints, found: Ints) -> float:
    """Mean of the F1 of the levels."""
    return float(np.mean(level_f1(truth, found)))


def measures(truth: Ints, found: Ints) -> dict[str, Any]:
    """Accuracy, macro-F1 and F1 of each level, 0..1, over all rows at once.

    The authors average each of them over batches, which is neither the accuracy nor the F1 of the test set.
    """
    each = level_f1(truth, found)
    return {
        "accuracy": round(float((truth == found).mean()), 4),
        "macro_f1": round(float(each.mean()), 4),
        "level_f1": [round(float(f), 4) for f in each],
    }


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
    """Levels by the majority of the training levels [N] and by each rule: name -> [R]."""
    majority = int(np.bincount(train, minlength=LEVELS).argmax())
    found = {"majority": np.full(len(responses), majority)}
    for name, rule in RULES.items():
        found[name] = np.array([2 if rule(text) else 0 for text in responses], np.int64)
    return found


def beside_trivial(name: str, found: Ints, train: Sequence[Pair], held: Sequence[Pair]) -> dict[str, Any]:
    """Measures of a scorer on held pairs, with the majority and the rules beside it."""
    truth = np.array([pair.level for pair in held])
    levels = trivial_levels(np.array([pair.level for pair in train]), [pair.response for pair in held])
    return {each: measures(truth, got) for each, got in {name: found, **levels}.items()}
