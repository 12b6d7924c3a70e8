"""The demo on the shipped miniature, and what it says without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.apps import demo
from re_llm.cli import app
from re_llm.core.errors import RellmError

FIELDS = {
    "recording", "sentence", "speaker", "reference", "predicted_emotion", "probabilities", "valence", "arousal",
    "dominance", "transcript", "response", "text_only",
}  # fmt: skip


def test_without_recordings_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RE_LLM_MINI", str(tmp_path))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 2
    assert "re-llm mini build" in result.stderr


@pytest.mark.parametrize("content", ["[", '{"a": 1}', '[{"recording": "a.flac"}]'])
def test_a_broken_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "recordings.json").write_text(content)
    with pytest.raises(RellmError, match=r"recordings\.json is not a list of recordings"):
        demo.listing(tmp_path)


def test_no_player(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RellmError, match="aplay, afplay, ffplay"):
        demo.player()


def test_json(assets: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--json"])
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
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 0, result.output
    for word in ("transcript", "text-only reply", "emotion", "Emotion as spoken", "Next", "re-llm respond"):
        assert word in result.stdout
