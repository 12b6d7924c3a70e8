"""Gold levels in a report: hand-computed tables, what has none is counted, and the tone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.records import ReplyRecord, Score, write_records
from re_llm.report.gold_sections import beside_gold
from re_llm.report.reply_sections import read_replies
from re_llm.report.score_files import read_scores

SCORED = {"a": (2, 2, 0, 0), "b": (1, 0, 0, 0)}  # ER by the scorer
GOLD = {"a": (2, 1, 0, None), "b": (1, 2, 0, 1)}
RIGHT = {"a": ("yes", "no", "yes", ""), "b": ("", "", "", "")}
SAID = ("You sound sad.", "You sound happy.", "I see.", "I see.")  # of sad speakers


def world(folder: Path, tones: bool = True) -> tuple[Path, Path, Path]:
    """Scores, replies and gold levels of two systems and four utterances."""
    scores, replies, gold = [], [], ["key,system,er,right_tone" if tones else "key,system,er"]
    for system, levels in SCORED.items():
        for n, level in enumerate(levels):
            scores.append(Score(key=f"k{n}", system=system, metric="ER", value=level, corpus="esd"))
            replies.append(ReplyRecord(key=f"k{n}", system=system, corpus="esd", emotion="sad", response=SAID[n]))
            if (given := GOLD[system][n]) is not None:
                gold.append(f"k{n},{system},{given}" + (f",{RIGHT[system][n]}" if tones else ""))
    write_records(folder / "s.jsonl", scores)
    write_records(folder / "r.jsonl", replies)
    (folder / "gold.csv").write_text("\n".join([*gold, "k9,a,1" + "," * tones, ""]), encoding="utf-8")
    return folder / "s.jsonl", folder / "r.jsonl", folder / "gold.csv"


def test_the_tables_by_hand(tmp_path: Path) -> None:
    scores, replies, gold = world(tmp_path)
    found = beside_gold(read_scores([scores]), read_replies([replies]), [gold])
    a, b, every = found.beside
    assert a.agreement and b.agreement and every.agreement
    assert (a.system, a.without, a.agreement.replies) == ("a", 1, 3) and (b.without, every.system) == (0, None)
    assert a.agreement.gold == pytest.approx(1) and a.agreement.scorer == pytest.approx(4 / 3)
    assert every.agreement.confusion == [[2, 0, 0], [1, 1, 1], [1, 0, 1]]
    assert every.agreement.accuracy == pytest.approx(4 / 7)
    assert found.unmatched == ["gold.csv:9"]
    # a: annotated, the second reply is in a wrong tone. b: by the emotion named, which is wrong in the second reply.
    assert [(t.system, t.replies, t.annotated) for t in found.tones] == [("a", 3, True), ("b", 4, False)]
    first, second = found.tones
    assert (first.gold, first.gold_right, first.scorer_right) == pytest.approx((1, 2 / 3, 2 / 3))
    assert (second.gold, second.gold_right, second.scorer_right, second.right) == pytest.approx((1, 0.5, 0.25, 0.75))


def test_the_report_holds_them_in_every_format(tmp_path: Path) -> None:
    scores, replies, gold = world(tmp_path)
    out = tmp_path / "out"
    arguments = ["report", str(scores), "--replies", str(replies), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--gold", str(gold)])
    assert done.exit_code == 0, done.output
    page = (out / "report.md").read_text(encoding="utf-8")
    for part in ("## Gold levels beside the scorer", "### Gold levels by the scorer's", "gold.csv:9",
                 "### ER counted only where the tone is right", "emotion named"):  # fmt: skip
        assert part in page, part
    assert "Gold levels beside the scorer" in (out / "tables.tex").read_text(encoding="utf-8")
    numbers = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert numbers["gold"][2]["agreement"]["confusion"] == [[2, 0, 0], [1, 1, 1], [1, 0, 1]]
    assert numbers["gold_right_tone"][0]["gold_right"] == pytest.approx(2 / 3)
    assert numbers["gold_unmatched"] == ["gold.csv:9"]
    changed = gold.read_text(encoding="utf-8").replace("k0,a,2", "k0,a,0")
    gold.write_text(changed, encoding="utf-8")
    refused = CliRunner().invoke(app, [*arguments, "--gold", str(gold)])
    assert refused.exit_code == 2 and "gold.csv" in refused.output


def test_without_tones_the_named_emotion_tells_and_without_replies_nothing_does(tmp_path: Path) -> None:
    scores, replies, gold = world(tmp_path, tones=False)
    table = read_scores([scores])
    assert [each.annotated for each in beside_gold(table, read_replies([replies]), [gold]).tones] == [False, False]
    assert beside_gold(table, {}, [gold]).tones == []
    assert beside_gold(table, {}, []).beside == []
