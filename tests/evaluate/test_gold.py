"""Gold levels: files of strangers are read or refused with the line, and agreement is that of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from re_llm.core.errors import RellmError
from re_llm.evaluate.gold import Place, agreement, match_gold, read_gold

REPLIES: list[Place] = [(system, "esd", key, None) for system in ("a", "b") for key in ("k1", "k2")]


def written(folder: Path, text: str, name: str = "gold.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8-sig" if name.endswith(".csv") else "utf-8")
    return folder / name


def test_a_csv_file_of_people(tmp_path: Path) -> None:
    file = written(tmp_path, "Key, ER ,EX,System,Right_Tone,remark\nk1,2,,a,yes,fine\nk2,0,1,a,no,\nk3,1,1,a,,\n")
    gold = match_gold([file], REPLIES)
    first, second = (gold.rows["a", "esd", key, None] for key in ("k1", "k2"))
    assert (first.er, first.ip, first.ex, first.right_tone) == (2, None, None, True)
    assert (second.level("ER"), second.level("EX"), second.right_tone) == (0, 1, False)
    assert gold.unmatched == [f"{file}:4"]


def test_json_lines_by_system_and_seed(tmp_path: Path) -> None:
    lines = '{"key": "k1", "er": 1, "system": "s", "seed": 0}\n{"key": "k1", "er": 2, "system": "s", "seed": 1}\n'
    gold = match_gold([written(tmp_path, lines, "gold.jsonl")], [("s", "esd", "k1", seed) for seed in (0, 1)])
    assert [gold.rows["s", "esd", "k1", seed].er for seed in (0, 1)] == [1, 2]


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        ("key,level\nk1,2\n", "gold.csv", "lacks the column"),
        ("key;er\nk1;2\n", "gold.csv", "lacks the column"),
        ("", "gold.csv", "lacks the column"),
        ("key,er,system\nk1,3,a\n", "gold.csv", r"gold\.csv:2: .*field 'er'"),
        ("key,er,system\nk1,1.5,a\n", "gold.csv", r"gold\.csv:2: .*field 'er'"),
        ("key,er,system\n,1,a\n", "gold.csv", r"gold\.csv:2: .*field 'key'"),
        ("key,er\nk1,1\n", "gold.csv", r"gold\.csv:2: the levels of 'k1' fit 2 replies"),
        ("key,er,system\nk1,1,a\nk1,1,a\n", "gold.csv", r"gold\.csv:3: .*has levels in .*gold\.csv:2 already"),
        ("key,er\nx,1\n", "gold.csv", "no row of the gold levels is about a reply"),
        ("key,er,system\nk1,,a\n", "gold.csv", "hold no level"),
        ('{"key": "k1", "system": "a", "response": "Oh."}\n', "gold.jsonl", "hold no level"),
        ("[1]\n", "gold.jsonl", r"gold\.jsonl:1: not a valid GoldRow"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, name: str, what: str) -> None:
    with pytest.raises(RellmError, match=what):
        match_gold([written(tmp_path, text, name)], REPLIES)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_bytes("key,er,remark\nk1,1,schön\n".encode("latin-1"))
    with pytest.raises(RellmError, match="not readable as csv in UTF-8"):
        list(read_gold(tmp_path / "gold.csv"))


def test_kappa_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(5)
    gold = draw.integers(0, 3, 300)
    scorer = np.where(draw.random(300) < 0.6, gold, draw.integers(0, 3, 300))
    found = agreement(gold.tolist(), scorer.tolist(), [str(n) for n in range(300)])
    assert found.kappa == pytest.approx(cohen_kappa_score(gold, scorer, weights="quadratic"), abs=1e-12)
    assert found.accuracy == pytest.approx((gold == scorer).mean()) and sum(map(sum, found.confusion)) == 300
    assert found.confusion[2][0] == int(((gold == 2) & (scorer == 0)).sum())
    # The bootstrap by hand: utterances drawn with replacement.
    drawn = [draw.integers(0, 300, 300) for _ in range(400)]
    kappas = [cohen_kappa_score(gold[each], scorer[each], weights="quadratic") for each in drawn]
    assert found.interval == pytest.approx(np.quantile(kappas, [0.025, 0.975]), abs=0.03)


def test_replies_to_one_utterance_are_drawn_together() -> None:
    gold, scorer = [0, 1, 2, 2, 1, 0, 2, 0, 1, 1], [0, 1, 1, 2, 0, 0, 2, 1, 1, 2]
    keys = [str(n) for n in range(10)]
    alone, tripled = agreement(gold, scorer, keys), agreement(3 * gold, 3 * scorer, 3 * keys)
    assert alone.kappa == pytest.approx(tripled.kappa) and alone.interval == pytest.approx(tripled.interval)


def test_without_two_levels_there_is_no_kappa() -> None:
    found = agreement([0, 1, 2], [1, 1, 1], ["a", "b", "c"])
    assert found.kappa is None and found.interval is None and found.accuracy == pytest.approx(1 / 3)
    perfect = agreement([0, 2], [0, 2], ["a", "b"])
    assert perfect.kappa == 1.0 and perfect.interval == (1.0, 1.0)  # draws of one utterance alone are left out
    with pytest.raises(ValueError, match="paired"):
        agreement([0], [0, 1], ["a", "b"])
