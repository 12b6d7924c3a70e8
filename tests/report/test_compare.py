"""Two reports beside each other, and a report without pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reply_world import EMOTIONS, Keywords, reply
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import write_records
from re_llm.evaluate import score_file
from re_llm.report.compare import compare_reports


def reported(folder: Path, name: str, right: dict[int | None, int], *, pages: bool = False, systems: str = "s") -> Path:
    """The report of a system that hears the emotion in so many of 40 utterances, by seed."""
    scores = []
    for seed, count in right.items():
        for system in systems:
            rows = [reply(system, f"u{n}", EMOTIONS[n % 5], hears=n < count, seed=seed) for n in range(40)]
            path = folder / f"{name}.{system}.{seed}.jsonl"
            write_records(path, rows)
            score_file(path, path.with_suffix(".scores"), scorer=Keywords(), progress=False)
            scores.append(str(path.with_suffix(".scores")))
    arguments = ["report", *scores, "--out", str(folder / name), *([] if pages else ["--format", "json"])]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return folder / name


def test_numbers_without_pages(tmp_path: Path):
    found = reported(tmp_path, "a", {None: 10})
    assert {path.name for path in found.iterdir()} == {"results.json", "provenance.json"}
    assert {cell["metric"] for cell in json.loads((found / "results.json").read_text())["cells"]} >= {"ER", "UA"}
    again = CliRunner().invoke(app, ["report", str(tmp_path / "a.s.None.scores"), "--out", str(found)])
    assert again.exit_code == 2 and "--format" in again.output


def test_differences_and_whether_they_are_apart(tmp_path: Path):
    first, second = reported(tmp_path, "a", {0: 10, 1: 12}), reported(tmp_path, "b", {0: 30, 1: 40}, systems="st")
    found = {(c.system, c.metric): c for c in compare_reports(first, second)}
    ours, theirs = (json.loads((each / "results.json").read_text())["cells"] for each in (first, second))
    ua = [next(c["mean"] for c in cells if (c["system"], c["metric"]) == ("s", "UA")) for cells in (ours, theirs)]
    assert found["s", "UA"].difference == pytest.approx(ua[1] - ua[0])
    assert found["s", "UA"].apart and found["s", "UA"].items == (80, 80)
    assert found["t", "UA"].first is None and found["t", "UA"].difference is None
    assert not compare_reports(first, first)[0].apart
    arguments = ["report", "--compare", str(first), str(second), "--out", str(tmp_path / "d")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "d" / "report.md").read_text()
    assert f"| {ua[1] - ua[0]:+.3f} | yes | 80 |" in page
    assert len(json.loads((tmp_path / "d" / "results.json").read_text())["changes"]) == len(found)


def test_what_is_no_report(tmp_path: Path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(RellmError, match=r"is no results\.json of a report"):
        compare_reports(tmp_path, tmp_path)
    with pytest.raises(RellmError, match="nowhere is no report"):
        compare_reports(tmp_path / "nowhere", tmp_path)
    neither = CliRunner().invoke(app, ["report", "--out", str(tmp_path / "x")])
    assert neither.exit_code == 2 and "--compare" in neither.output


def test_latex_and_no_best_among_equals(tmp_path: Path):
    found = reported(tmp_path, "a", {None: 10}, pages=True, systems="st")
    text = (found / "tables.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 2
    assert r"\textbf" not in text  # the two systems are alike
    assert r"\%" in text and "_" not in text.replace(r"\_", "")
    better = reported(tmp_path, "b", {None: 12}, pages=True)
    assert better.is_dir()
