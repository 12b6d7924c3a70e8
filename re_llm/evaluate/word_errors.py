"""Word error rate: Levenshtein edits over the length of the references."""

from __future__ import annotations

from collections.abc import Sequence


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
