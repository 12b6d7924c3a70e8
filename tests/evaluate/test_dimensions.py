"""Valence, arousal, dominance: values by hand and by scipy, and the rows that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reply_world import Keywords

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate import score_file
from re_llm.evaluate.dimensions import score_dimension


def test_by_hand():
    # Means .5 and .4, variances 1/24 and 1/150, covariance 1/60: 2/60 / (1/24 + 1/150 + 1/100) = .571428...
    got = score_dimension([0.25, 0.5, 0.75], [0.3, 0.4, 0.5])
    assert got.ccc == pytest.approx((2 / 60) / (1 / 24 + 1 / 150 + 1 / 100))
    assert got.rmse == pytest.approx(((0.05**2 + 0.1**2 + 0.25**2) / 3) ** 0.5)
    assert score_dimension([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]).ccc == pytest.approx(1)
    # A shift by .2 lowers it, though the correlation stays 1.
    assert score_dimension([0.3, 0.7], [0.1, 0.5]).ccc == pytest.approx(2 * 0.04 / (0.04 + 0.04 + 0.04))


def test_agrees_with_the_correlation_of_scipy():
    from scipy.stats import pearsonr

    draw = np.random.default_rng(0)
    y = draw.uniform(size=400)
    x = 0.6 * y + 0.2 + draw.normal(scale=0.1, size=400)
    r = pearsonr(x, y).statistic
    expected = 2 * r * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    got = score_dimension(x.tolist(), y.tolist())
    assert got.ccc == pytest.approx(expected, abs=1e-12)
    low, high = got.interval
    assert low < expected < high
    assert high - low < 0.1


def test_values_that_do_not_vary_have_no_ccc():
    got = score_dimension([0.5, 0.5], [0.5, 0.5])
    assert (got.ccc, got.interval, got.rmse) == (None, None, 0)
    assert score_dimension([0.5, 0.5], [0.2, 0.8]).ccc == 0
    with pytest.raises(ValueError, match="got 1 and 2"):
        score_dimension([0.5], [0.2, 0.8])


def replies(path: Path, **more: float | None) -> Path:
    rows = [
        ReplyRecord(
            key=str(n), system="s", response="Yes.", text="Hi.", **{"valence": v, "reference_valence": r, **more}
        )
        for n, (v, r) in enumerate([(0.25, 0.3), (0.5, 0.4), (0.75, 0.5)])
    ]
    write_records(path, rows)
    return path


def test_rows_of_scores(tmp_path: Path):
    out = tmp_path / "s.jsonl"
    report = score_file(replies(tmp_path / "r.jsonl", arousal=0.5), out, scorer=Keywords(), progress=False)
    rows = list(read_records(out, Score))
    group = {row.metric: row for row in rows if row.key == "*"}
    assert group["CCC_VALENCE"].value == pytest.approx(0.5714, abs=1e-4)
    assert group["RMSE_VALENCE"].model_extra["count"] == 3
    assert "CCC_AROUSAL" not in group  # estimated, but without a reference
    items = [row for row in rows if row.metric == "VAD" and row.key != "*"]
    assert [row.value for row in items] == pytest.approx([0.05**2, 0.1**2, 0.25**2])
    assert items[0].model_extra["pairs"] == {"valence": [0.25, 0.3]}
    assert "CCC_VALENCE 0.571" in report.summary()


def test_without_a_reference_there_is_nothing_to_score(tmp_path: Path):
    path = replies(tmp_path / "r.jsonl", reference_valence=None)
    with pytest.raises(RellmError, match="VAD needs replies with `valence`"):
        score_file(path, tmp_path / "s.jsonl", metrics=["VAD"], scorer=Keywords(), progress=False)
    assert "VAD" not in score_file(path, tmp_path / "s.jsonl", scorer=Keywords(), progress=False).metrics
