"""Rationales: where annotated ones stand in a response, and how well found ones agree with them. numpy only.

The authors place a rationale by searching for it as a regular expression, unescaped, so that "why? (really)" is not
found and "a.b" is found in the wrong place; here it is searched for as the text that it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Spans: TypeAlias = tuple[tuple[int, int], ...]

# Annotators retyped some rationales; their first characters mostly place them all the same.
RETYPED_PREFIX = 20
MIN_IOU = 0.5


def locate(response: str, rationales: str) -> tuple[Spans, int]:
    """Character spans of the rationales (separated by `|`) in the response, and how many were not found.

    A rationale whose text occurs more than once takes the first whole-word place that no earlier rationale has taken.
    """
    low = _lower(response)
    found: list[tuple[int, int]] = []
    lost = 0
    for rationale in filter(None, (part.strip() for part in rationales.split("|"))):
        text = _lower(rationale)
        start = _place(low, text, found)
        if start is None:
            start = _place(low, text[:RETYPED_PREFIX], found)
        if start is None:
            lost += 1
        else:
            found.append((start, min(len(response), start + len(rationale))))
    return tuple(found), lost


def _lower(text: str) -> str:
    """Lower case where that keeps every character's place (some capitals have lower cases of two characters)."""
    low = text.lower()
    return low if len(low) == len(text) else text


def _place(text: str, part: str, taken: Sequence[tuple[int, int]]) -> int | None:
    """Where the part starts: a free place at the edges of words, else a free one, else the first; None without one."""
    places = [match.start() for match in re.finditer(f"(?={re.escape(part)})", text)]
    free = [a for a in places if not any(a < d and c < a + len(part) for c, d in taken)]
    whole = [a for a in free if _at_edges(text, a, a + len(part))]
    return next(iter([*whole, *free, *places]), None)


def _at_edges(text: str, start: int, end: int) -> bool:
    inside_before = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
    inside_after = end < len(text) and text[end - 1].isalnum() and text[end].isalnum()
    return not (inside_before or inside_after)


def merge(spans: Sequence[tuple[int, int]]) -> Spans:
    """The spans in order, those that overlap or touch joined."""
    out: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return tuple(out)


def _runs(marks: npt.NDArray[Any], original: bool) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks, [0]])))
    runs = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    # The authors end a run at the last token one token early, so that a run of this one token is empty.
    return [(a, min(b, len(marks) - 1)) for a, b in runs] if original else runs


def _iou_f1(found: list[tuple[int, int]], true: list[tuple[int, int]]) -> float:
    hits = 0
    for a, b in found:
        overlaps = [(min(b, d) - max(a, c), max(b, d) - min(a, c)) for c, d in true]
        hits += any(union > 0 and both / union >= MIN_IOU for both, union in overlaps)
    return 2 * hits / max(1, len(found) + len(true))


def rationale_measures(
    found: npt.NDArray[Any], true: npt.NDArray[Any], lengths: Sequence[int], *, original: bool = False
) -> dict[str, float]:
    """Token accuracy, token F1 and IoU-F1 (runs that overlap by half), each the mean over the rows with tokens.

    Every row counts once. The authors average over batches instead, so that theirs changes with the batch size.

    Args:
        found, true: [N, T] of 0 and 1, the first column being the start mark, which is left out.
        lengths: how many tokens after it count.
        original: end runs as the authors' code does.

    Raises:
        ValueError: no row has a token.
    """
    accuracy, f1, iou = [], [], []
    for row, (marks, labels) in enumerate(zip(found, true, strict=True)):
        a, b = marks[1 : 1 + lengths[row]], labels[1 : 1 + lengths[row]]
        if not len(a):
            continue
        accuracy.append(float((a == b).mean()))
        both = int((a & b).sum())
        f1.append(2 * both / max(1, int(a.sum() + b.sum())))
        iou.append(_iou_f1(_runs(a, original), _runs(b, original)))
    if not accuracy:
        raise ValueError("no row has a token")
    return {"accuracy": float(np.mean(accuracy)), "f1": float(np.mean(f1)), "iou_f1": float(np.mean(iou))}
