"""Scores of many files as one table."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest
from reply_world import Keywords, write_replies

from re_llm.core.errors import RellmError
from re_llm.evaluate import score_file
from re_llm.report.score_files import read_scores
from re_llm.report.tables import choose_baseline


def world(folder: Path, **systems: float) -> list[Path]:
    """Scores of systems that hear the emotion in a share of the utterances, two seeds each."""
    paths = []
    for name, fraction in systems.items():
        for seed in (0, 1):
            replies = write_replies(
                folder / f"{name}.{seed}.jsonl", name.replace("_", "-"), fraction=fraction, seed=seed
            )
            paths.append(folder / f"{name}.{seed}.scores.jsonl")
            score_file(replies, paths[-1], scorer=Keywords(), progress=False)
    return paths


def test_cells_seeds_and_order(tmp_path: Path):
    table = read_scores(world(tmp_path, zebra=0.1, re_llm=0.9, text=0.3))
    assert table.systems == ["text", "re-llm", "zebra"]
    assert table.seeds() == [0, 1]
    cell = table.cell("re-llm", "esd", "EX")
    values = list(table.items["re-llm", "esd", "EX"].values())
    assert cell.items == len(values) == 160
    assert (cell.mean, cell.std) == (pytest.approx(fmean(values)), pytest.approx(stdev(values)))
    assert cell.seed_spread == pytest.approx(stdev(cell.seeds))
    assert table.cell("re-llm", "iemocap", "EX") is table.cell("nobody", "esd", "UA") is None
    assert table.best("esd", "EX") == {"re-llm"}
    ua = table.cell("re-llm", "esd", "UA")
    assert ua.std is None and len(ua.seeds) == 2 and ua.items == 160


def test_gains_name_their_baseline_and_pair_by_item(tmp_path: Path):
    table = read_scores(world(tmp_path, blsp_emo_ft=0.3, re_llm=0.9))
    gains = {gain.metric: gain for gain in table.gains("blsp-emo-ft")}
    assert set(gains) == {"ER", "EX", "UA"}
    assert {gain.baseline for gain in gains.values()} == {"blsp-emo-ft"}
    difference = table.cell("re-llm", "esd", "EX").mean - table.cell("blsp-emo-ft", "esd", "EX").mean
    # An utterance's two seeds are one pair.
    assert gains["EX"].test.pairs == 80
    assert gains["EX"].test.difference == pytest.approx(difference)
    assert all(gain.test.difference > 0 and gain.test.p <= gain.holm_p < 0.05 for gain in gains.values())


def test_choice_of_the_baseline(tmp_path: Path):
    table = read_scores(world(tmp_path, blsp_emo_ft=0.3))
    assert choose_baseline(table, None) == "blsp-emo-ft"
    with pytest.raises(RellmError, match="no scores"):
        choose_baseline(table, "re-llm")
    (tmp_path / "b").mkdir()
    assert choose_baseline(read_scores(world(tmp_path / "b", mine=0.3)), None) is None


def test_scores_given_twice_are_refused(tmp_path: Path):
    paths = world(tmp_path, a=0.5)
    with pytest.raises(RellmError, match=r"a\.0\.scores\.jsonl:1: ER of .* was read before"):
        read_scores([*paths, paths[0]])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(RellmError, match="no scores"):
        read_scores([tmp_path / "empty.jsonl"])
