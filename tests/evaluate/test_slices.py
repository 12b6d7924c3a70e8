"""Slices: values by hand, gaps, what is too small; a gap that was planted is found, one that was not is mostly not."""

from __future__ import annotations

import numpy as np
import pytest

from re_llm.core.records import ReplyRecord
from re_llm.evaluate.slices import attribute_of, slice_scores


def test_means_and_gap_by_hand():
    values = (
        {f"a{n}": float(n % 2) for n in range(8)} | {f"b{n}": 1.0 for n in range(6)} | {f"c{n}": 0.0 for n in range(5)}
    )
    names = {key: key[0] for key in values}
    got = slice_scores("speaker", values, names)
    assert [(each.name, each.count, each.value) for each in got.slices] == [("a", 8, 0.5), ("b", 6, 1.0), ("c", 5, 0.0)]
    assert (got.lowest.name, got.highest.name, got.gap) == ("a", "b", 0.5)
    low, high = got.interval
    assert 0 <= low < 0.5 < high <= 1


def test_ua_of_a_slice_is_the_mean_of_recalls():
    references = {f"a{n}": "sad" if n < 6 else "happy" for n in range(8)} | {f"b{n}": "sad" for n in range(6)}
    values = {key: float(references[key] == "sad") for key in references}
    got = slice_scores("gender", values, {key: key[0] for key in values}, references)
    assert [(each.name, each.value) for each in got.slices] == [("a", 0.5), ("b", 1.0)]


def test_too_little_to_compare():
    values = {f"u{n}": 1.0 for n in range(11)}
    assert slice_scores("speaker", values, dict.fromkeys(values, "one")) is None
    assert slice_scores("speaker", values, {key: "ab"[n % 2] for n, key in enumerate(values)}) is None  # 6 and 5
    assert slice_scores("speaker", values, {}) is None


def test_attributes():
    reply = ReplyRecord(key="1", system="s", response="Yes.", speaker="x", duration=3.0, emotion="sad")
    found = {name: attribute_of(reply, name) for name in ("speaker", "emotion", "duration", "gender", "language")}
    assert found == {"speaker": "x", "emotion": "sad", "duration": "2 to 5 s", "gender": None, "language": None}
    ends = [attribute_of(reply.model_copy(update={"duration": d}), "duration") for d in (1.99, 2.0, 5.0)]
    assert ends == ["under 2 s", "2 to 5 s", "5 s and longer"]


@pytest.mark.parametrize(("planted", "least", "most"), [(0.0, 0, 0.12), (0.5, 0.9, 1)])
def test_a_planted_gap_is_found(planted: float, least: float, most: float):
    draw = np.random.default_rng(0)
    off_zero = 0
    for seed in range(100):
        values = {f"{g}{n}": float(draw.random() < 0.3 + planted * (g == "m")) for g in "fm" for n in range(40)}
        got = slice_scores("gender", values, {key: key[0] for key in values}, seed=seed)
        off_zero += got.interval[0] > 0
    assert least <= off_zero / 100 <= most
