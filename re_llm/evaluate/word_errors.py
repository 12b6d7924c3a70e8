"""Word error rate: Levenshtein edits over the length of the references."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from re_llm.core.records import ReplyRecord, Score
from re_llm.evaluate.empathy.scores import Group, make_score

RESAMPLES = 2000
CHUNK = 250  # resamples drawn at once


@lru_cache(maxsize=1 << 15)
def plain(text: str) -> str:
    """Lower case, letters, digits and apostrophes only: what word errors are counted on."""
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("\u2019", "'"))
    return " ".join(kept.split())


def edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """Levenshtein distance: substitutions, insertions and deletions."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != found))
    return row[-1]


def error_rate(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> float:
    """Edits over reference length, summed over all pairs: of words, or of characters."""
    wrong = sum(edits(r, h) for r, h in zip(references, hypotheses, strict=True))
    return wrong / max(1, sum(map(len, references)))


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """`error_rate` of the words of `plain` texts."""
    return error_rate([plain(r).split() for r in references], [plain(h).split() for h in hypotheses])


def rate_interval(wrong: Sequence[int], words: Sequence[int], *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval over utterances of the summed edits over the summed words."""
    each = np.stack([wrong, words], axis=1).astype(np.float64)
    draw, even = np.random.default_rng(seed), np.full(len(each), 1 / len(each))
    sums = np.concatenate([draw.multinomial(len(each), even, size=CHUNK) @ each for _ in range(RESAMPLES // CHUNK)])
    low, high = np.quantile(sums[:, 0] / np.maximum(sums[:, 1], 1), [0.025, 0.975])
    return float(low), float(high)


def group_fields(wrong: Sequence[int], words: Sequence[int]) -> dict[str, Any]:
    """Fields of the `WER` row of a group in scores.jsonl. Args: edits and reference words of each utterance."""
    interval = list(rate_interval(wrong, words))
    return {"value": sum(wrong) / max(1, sum(words)), "count": len(words), "words": sum(words), "interval": interval}


def word_error_scores(group: Group, replies: Sequence[ReplyRecord]) -> list[Score]:
    """Rows of scores.jsonl: `WER` of each reply whose system transcribed the utterance, and of the group."""
    pairs = [(r.key, r.text, r.transcript) for r in replies if r.text and r.transcript is not None]
    known = [(key, plain(text).split(), plain(found).split()) for key, text, found in pairs]
    wrong = [edits(reference, found) for _, reference, found in known]
    words = [len(reference) for _, reference, _ in known]
    scores = [
        make_score(group, "WER", key, {"value": errors / max(1, count), "edits": errors, "words": count})
        for (key, *_), errors, count in zip(known, wrong, words, strict=True)
    ]
    return [*scores, make_score(group, "WER", "*", group_fields(wrong, words))]
