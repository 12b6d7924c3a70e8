"""Slices and intervals over speakers in a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reply_world import EMOTIONS, Keywords, reply
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.records import write_records
from re_llm.evaluate import score_file


def written(folder: Path, system: str, right: dict[str, float]) -> tuple[Path, Path]:
    """Replies of a system that hears the emotion in a fraction of each speaker's 20 utterances, and their scores."""
    rows = [
        reply(system, f"{speaker}{n}", EMOTIONS[n % 5], hears=n < 20 * fraction, speaker=speaker,
              gender="female" if speaker == "ann" else "male", duration=1.0 + n / 4)
        for speaker, fraction in right.items()
        for n in range(20)
    ]  # fmt: skip
    replies, scores = folder / f"{system}.jsonl", folder / f"{system}.scores"
    write_records(replies, rows)
    score_file(replies, scores, scorer=Keywords(), progress=False)
    return replies, scores


def test_who_is_served_worse_and_what_speakers_allow_to_say(tmp_path: Path):
    base = written(tmp_path, "blsp-emo-ft", {"ann": 0.5, "bob": 0.5, "cid": 0.5})
    ours = written(tmp_path, "re-llm", {"ann": 1.0, "bob": 0.5, "cid": 0.5})
    arguments = ["report", str(base[1]), str(ours[1]), "--out", str(tmp_path / "out")]
    spoken = ["--replies", str(base[0]), "--replies", str(ours[0])]
    done = CliRunner().invoke(app, [*arguments, *spoken])
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {(s["system"], s["metric"], s["slices"]["attribute"]): s["slices"] for s in numbers["slices"]}
    gender = found["re-llm", "UA", "gender"]
    # The others' 0.5 are the first ten of twenty: two of each emotion, and the answer `neutral` is right twice more.
    assert [each["name"] for each in gender["slices"]] == ["male", "female"]
    assert gender["gap"] == pytest.approx(1 - gender["slices"][0]["value"])
    assert gender["interval"][0] > 0
    assert {attribute for _, _, attribute in found} == {"gender", "speaker", "emotion", "duration"}
    (ua,) = (gain for gain in numbers["gains"] if gain["metric"] == "UA")
    low, high = ua["by_speaker"]["interval"]
    assert ua["by_speaker"]["speakers"] == 3
    assert low == pytest.approx(0) and high > ua["test"]["interval"][1]  # a draw may lack the one who gains
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Slices" in page and "of 3 |" in page


def test_without_replies_there_are_neither(tmp_path: Path):
    paths = [
        str(written(tmp_path, system, {"ann": f, "bob": 0.5})[1]) for system, f in (("blsp-emo-ft", 0.2), ("re-llm", 1))
    ]
    assert CliRunner().invoke(app, ["report", *paths, "--out", str(tmp_path / "out")]).exit_code == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["slices"] == [] and {gain["by_speaker"] for gain in numbers["gains"]} == {None}
    assert "## Slices" not in (tmp_path / "out" / "report.md").read_text()
