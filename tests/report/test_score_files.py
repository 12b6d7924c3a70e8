"""Scores of different systems, seeds and origins against each other: pairing, refusals, common items."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from reply_world import EMOTIONS, Keywords, reply
from sklearn.metrics import balanced_accuracy_score
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import Score, write_records
from re_llm.evaluate import score_file
from re_llm.report.score_files import read_scores

KEYS = tuple(f"u{n:02d}" for n in range(20))


def scored(folder: Path, system: str, hears: dict[str, bool], *, seed: int | None = None, **more: object) -> Path:
    """Scores of one system that names the emotion rightly where `hears` says so."""
    rows = [
        reply(system, key, EMOTIONS[int(key[1:]) % 5], hears=right, seed=seed, **more) for key, right in hears.items()
    ]
    path = folder / f"{system}.{seed}.jsonl"
    write_records(path, rows)
    score_file(path, path.with_suffix(".scores"), scorer=Keywords(), progress=False)
    return path.with_suffix(".scores")


def some(right: int, keys: tuple[str, ...] = KEYS) -> dict[str, bool]:
    return {key: n < right for n, key in enumerate(keys)}


def ua_of(path: Path) -> float:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return next(row["value"] for row in rows if row["metric"] == "UA")


def test_seeds_are_averaged_on_either_side(tmp_path: Path):
    """An untrained system has one run, the baseline three: the difference is that of the means."""
    base = [scored(tmp_path, "blsp-emo-ft", some(n), seed=seed) for seed, n in enumerate((6, 14, 19))]
    text = scored(tmp_path, "text", some(12))
    table = read_scores([text, *base])
    gains = {gain.metric: gain for gain in table.gains("blsp-emo-ft")}
    expected = ua_of(text) - fmean(map(ua_of, base))
    assert gains["UA"].test.difference == pytest.approx(expected)
    cells = [table.cell(system, "esd", "UA") for system in ("text", "blsp-emo-ft")]
    assert cells[0].mean - cells[1].mean == pytest.approx(expected)
    assert gains["UA"].test.pairs == gains["ER"].test.pairs == 20
    assert gains["UA"].test.p > 0.05 and gains["UA"].holm_p >= gains["UA"].test.p


def test_a_foreign_file_without_seeds_is_tested(tmp_path: Path):
    base = [scored(tmp_path, "blsp-emo-ft", some(4), seed=seed) for seed in (0, 1)]
    lines = [{"key": key, "system": "theirs", "corpus": "esd", "text": "Hi.", "response": "Sorry. Why?",
              "emotion": EMOTIONS[int(key[1:]) % 5], "answer": EMOTIONS[int(key[1:]) % 5]} for key in KEYS]  # fmt: skip
    (tmp_path / "theirs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_file(tmp_path / "theirs.jsonl", tmp_path / "theirs.scores", scorer=Keywords(), progress=False)
    gains = read_scores([tmp_path / "theirs.scores", *base]).gains("blsp-emo-ft")
    assert {gain.metric for gain in gains} == {"ER", "EX", "UA"}
    (ua,) = (gain for gain in gains if gain.metric == "UA")
    assert ua.test.difference == pytest.approx(1 - fmean(map(ua_of, base)))
    assert ua.holm_p < 0.05


def test_incomplete_and_other_test_sets_are_refused_by_name(tmp_path: Path):
    whole = scored(tmp_path, "blsp-emo-ft", some(10))
    half = scored(tmp_path, "re-llm", some(5, KEYS[::2]))
    with pytest.raises(
        RellmError, match=r"esd: re-llm lacks ER of 10 of 20 items: u01, u03, u05, u07, u09 and 5 more.*the 10 common"
    ):
        read_scores([whole, half])
    other = scored(tmp_path, "other", some(5, tuple(key.replace("u", "x") for key in KEYS)))
    for common in (False, True):
        with pytest.raises(RellmError, match="none is common to all"):
            read_scores([whole, other], common=common)


def test_a_seed_that_is_incomplete_is_refused_as_well(tmp_path: Path):
    paths = [scored(tmp_path, "re-llm", some(5, KEYS[:size]), seed=seed) for seed, size in ((0, 20), (1, 19))]
    with pytest.raises(RellmError, match=r"re-llm \(seed 1\) lacks ER of 1 of 20 items: u19\."):
        read_scores(paths)


def test_common_items_alone_are_compared_and_counted(tmp_path: Path):
    hears = some(7)
    whole = scored(tmp_path, "blsp-emo-ft", hears)
    part = scored(tmp_path, "re-llm", dict.fromkeys(KEYS[3:15], True))
    table = read_scores([whole, part], common=True)
    assert table.common == dict.fromkeys([("esd", m) for m in ("ER", "IP", "EX", "SER")], (12, 20))
    truth = [EMOTIONS[int(key[1:]) % 5] for key in KEYS[3:15]]
    named = [e if hears[key] else "neutral" for key, e in zip(KEYS[3:15], truth, strict=True)]
    cell = table.cell("blsp-emo-ft", "esd", "UA")
    assert (cell.mean, cell.items) == (pytest.approx(balanced_accuracy_score(truth, named)), 12)
    assert table.cell("blsp-emo-ft", "esd", "EX").items == 12
    assert {gain.test.pairs for gain in table.gains("blsp-emo-ft")} == {12}


def test_systems_that_were_not_asked_do_not_count_as_incomplete(tmp_path: Path):
    asked = scored(tmp_path, "re-llm", some(5))
    silent = scored(tmp_path, "text-label", some(5), answer=None)
    table = read_scores([asked, silent])
    assert table.cell("text-label", "esd", "UA") is None and not table.common


def test_other_reference_emotions_are_refused(tmp_path: Path):
    paths = [scored(tmp_path, "a", some(3)), scored(tmp_path, "b", some(3))]
    paths[1].write_text(paths[1].read_text().replace('"reference":"sad"', '"reference":"happy"', 1))
    with pytest.raises(
        RellmError, match=r"b\.None\.scores:\d+: the reference emotion of 'u01' is happy, elsewhere sad"
    ):
        read_scores(paths)


def test_an_item_without_a_value_is_refused_unless_a_judge_failed(tmp_path: Path):
    path = tmp_path / "s.jsonl"
    failed = Score(key="2", system="s", metric="JUDGE_EMPATHY", failed="refused")
    rows = [Score(key="1", system="s", metric="ER", value=1), failed]
    write_records(path, rows)
    assert read_scores([path]).systems == ["s"]
    write_records(path, [*rows, Score(key="2", system="s", metric="ER")])
    with pytest.raises(RellmError, match=r"s\.jsonl:3: ER of '2' has no value"):
        read_scores([path])


def test_fewer_than_six_pairs_decide_nothing(tmp_path: Path):
    paths = [scored(tmp_path, "blsp-emo-ft", some(0, KEYS[:5])), scored(tmp_path, "re-llm", some(5, KEYS[:5]))]
    gains = read_scores(paths).gains("blsp-emo-ft")
    assert len(gains) == 3 and {gain.holm_p for gain in gains} == {None}
    done = CliRunner().invoke(app, ["report", *map(str, paths), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.md").read_text()
    assert page.count("fewer than 6 pairs") == 3 and "p < .001" not in page  # a bootstrap over five alike pairs


def test_the_report_says_what_was_left_out(tmp_path: Path):
    paths = [scored(tmp_path, "blsp-emo-ft", some(7)), scored(tmp_path, "re-llm", some(9, KEYS[:12]))]
    arguments = ["report", *map(str, paths), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "u12, u13" in refused.output
    assert not (tmp_path / "out" / "report.html").exists()
    assert CliRunner().invoke(app, [*arguments, "--common"]).exit_code == 0
    assert "ER on ESD: 12 of 20" in (tmp_path / "out" / "report.md").read_text()


def heads(n: int, shift: float = 0.0) -> dict[str, object]:
    """What the heads and the transcriber of a cascade give for utterance `n`."""
    return {
        "predicted_emotion": EMOTIONS[n % 4],
        "valence": n / 40 + shift,
        "reference_valence": n / 40,
        "transcript": "I got the letter" if n % 2 else "I got the letter today",
    }


def test_rows_of_the_heads_are_made_again_on_common_items(tmp_path: Path):
    paths = []
    for system, numbers in (("a", range(20)), ("b", range(4, 16))):
        rows = [reply(system, f"u{n:02d}", EMOTIONS[n % 5], hears=True, **heads(n, 0.1)) for n in numbers]
        write_records(tmp_path / f"{system}.jsonl", rows)
        score_file(tmp_path / f"{system}.jsonl", tmp_path / f"{system}.scores", scorer=Keywords(), progress=False)
        paths.append(tmp_path / f"{system}.scores")
    table = read_scores(paths, common=True)
    for metric in ("HEAD_UA", "CCC_VALENCE", "RMSE_VALENCE", "WER"):
        ours, theirs = (table.cell(system, "esd", metric) for system in ("a", "b"))
        assert (ours.mean, ours.items) == (pytest.approx(theirs.mean), 12), metric
    assert table.cell("a", "esd", "WER").mean == pytest.approx(6 / 60)
    assert table.cell("a", "esd", "RMSE_VALENCE").mean == pytest.approx(0.1)
    done = CliRunner().invoke(app, ["report", *map(str, paths), "--common", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Valence, arousal, dominance" in page and "## Transcripts" in page and "UA of the head" in page
    found = {cell["metric"] for cell in json.loads((tmp_path / "out" / "results.json").read_text())["cells"]}
    assert {"HEAD_UA", "HEAD_WF1", "CCC_VALENCE", "WER", "WF1"} <= found


def test_a_level_that_is_none_is_refused(tmp_path: Path):
    rows = [Score(key=f"u{n}", system="theirs", metric="EX", value=value) for n, value in enumerate((0, 1.5, 3))]
    write_records(tmp_path / "s.jsonl", rows)
    with pytest.raises(RellmError, match=r"s\.jsonl:3: EX of 'u2' is 3"):
        read_scores([tmp_path / "s.jsonl"])


@pytest.mark.parametrize("other", [{"scorer": "theirs"}, {"truncation": "64"}])
def test_systems_are_compared_by_one_scorer(tmp_path: Path, other: dict[str, str]):
    """A difference between scorers, or between cut and whole replies, is none between systems."""
    rows = []
    for system, changes in (("a", {}), ("b", other)):
        about = {"scorer": "small", "truncation": "none", "over_64": 0.0, **changes}
        rows += [Score(key=key, system=system, metric="ER", value=1) for key in KEYS]
        rows.append(Score(key="*", system=system, metric="ER", value=1, count=20, **about))
    write_records(tmp_path / "s.jsonl", rows)
    with pytest.raises(RellmError, match="ER on replies was scored differently: a by small, truncation none; b by"):
        read_scores([tmp_path / "s.jsonl"])
    write_records(tmp_path / "s.jsonl", [row for row in rows if row.system == "a"])
    assert read_scores([tmp_path / "s.jsonl"]).systems == ["a"]
