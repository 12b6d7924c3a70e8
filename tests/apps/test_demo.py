"""The demo on the shipped miniature, and what it says without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.apps import demo
from re_llm.audio.waveform import load
from re_llm.cli import app
from re_llm.core.assets import missing_parts
from re_llm.core.errors import RellmError

FIELDS = {
    "model", "recording", "sentence", "speaker", "reference", "predicted_emotion", "probabilities", "valence",
    "arousal", "dominance", "transcript", "response", "text_only",
}  # fmt: skip


def test_without_recordings_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RE_LLM_MINI", str(tmp_path))
    result = CliRunner().invoke(app, ["demo", "--model", "mini:re-llm"])
    assert result.exit_code == 2
    assert "re-llm mini build" in result.stderr


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"recording": "a.flac"}]'])
def test_a_broken_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "recordings.json").write_text(content)
    with pytest.raises(RellmError, match=r"recordings\.json is not a list of recordings"):
        demo.listing(replace(demo.scenes("mini:re-llm")[0], folder=tmp_path))


def test_people_are_shown_where_their_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "missing_parts", lambda: ["whisper"])
    assert [scene.model for scene in demo.scenes()] == ["mini:re-llm"]
    monkeypatch.setattr(demo, "missing_parts", lambda: [])
    assert [scene.model for scene in demo.scenes()] == ["small:re-llm", "mini:re-llm"]
    with pytest.raises(RellmError, match="no recordings ship for elsewhere"):
        demo.scenes("elsewhere")


def test_recordings_of_people_ship() -> None:
    people = demo.scenes("small:re-llm")[0]
    entries = demo.listing(people)
    files = {str(entry["recording"]) for entry in entries}
    assert files == {path.name for path in people.folder.glob("*.flac")} and len(files) == len(entries)
    assert {entry["reference"] for entry in entries} == {"neutral", "happy", "angry", "sad", None}
    for file in files:
        wave = load(people.folder / file)
        assert 16_000 < len(wave) < 12 * 16_000 and abs(wave).max() > 0.1


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_parts()), reason="the parts of the small model are not here")
def test_people_are_heard() -> None:
    result = CliRunner().invoke(app, ["demo", "--model", "small:re-llm", "--json"])
    assert result.exit_code == 0, result.output
    heard = json.loads(result.stdout)
    assert {each["model"] for each in heard} == {"small:re-llm"}
    acted = [each for each in heard if each["reference"]]
    assert sum(each["predicted_emotion"] == each["reference"] for each in acted) >= 3
    assert len({each["response"] for each in acted}) > len({each["text_only"] for each in acted})


def test_no_player(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RellmError, match="aplay, afplay, ffplay"):
        demo.player()


def test_json(assets: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--model", "mini:re-llm", "--json"])
    assert result.exit_code == 0, result.output
    heard = json.loads(result.stdout)
    listed = json.loads((assets / "recordings" / "recordings.json").read_text())
    assert [each["recording"] for each in heard] == [each["recording"] for each in listed]
    assert all(set(each) == FIELDS for each in heard)
    assert all(each["response"] and each["text_only"] and each["transcript"] for each in heard)
    # Far above chance (one in five), from voices and sentences that no part was trained on.
    assert sum(each["predicted_emotion"] == each["reference"] for each in heard) >= len(heard) / 2
    # The same words get the same text-only reply, and different replies to the speech.
    sentence = max({each["sentence"] for each in heard}, key=[each["sentence"] for each in heard].count)
    same = [each for each in heard if each["sentence"] == sentence]
    assert len({each["response"] for each in same}) > len({each["text_only"] for each in same})


def test_page(assets: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--model", "mini:re-llm"])
    assert result.exit_code == 0, result.output
    for word in ("transcript", "text-only reply", "emotion", "Emotion as spoken", "Next", "re-llm respond"):
        assert word in result.stdout
