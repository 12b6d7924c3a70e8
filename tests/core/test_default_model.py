"""Which model is used when none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from re_llm.cli.common import DEFAULT_MODEL, chosen_model
from re_llm.core.assets import (
    MINI_MODEL,
    OPEN_MODEL,
    SMALL_MODEL,
    default_model,
    hint_at_small,
    refuse_non_commercial,
    resolve_component,
)
from re_llm.core.errors import RellmError
from re_llm.core.parts import parts_home
from re_llm.inference import engine
from re_llm.model.hub import locate


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)
    monkeypatch.delenv("RE_LLM_MODEL", raising=False)
    return tmp_path


def test_the_small_model_is_used_once_its_parts_are_here(cache: Path, capsys: pytest.CaptureFixture) -> None:
    assert default_model() == MINI_MODEL
    assert chosen_model(DEFAULT_MODEL) == MINI_MODEL
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "re-llm parts get small" in said and "226 MB" in said
    for part in ("whisper", "llm"):
        (parts_home() / part).mkdir(parents=True)
    assert default_model() == SMALL_MODEL and hint_at_small() is None
    assert chosen_model(DEFAULT_MODEL) == SMALL_MODEL
    assert capsys.readouterr().err == ""


def test_for_commercial_use_the_other_weights_are_chosen_and_the_first_refused(cache: Path, tmp_path: Path) -> None:
    assert chosen_model(DEFAULT_MODEL, commercial=True) == MINI_MODEL
    for part in ("whisper", "llm"):
        (parts_home() / part).mkdir(parents=True)
    assert chosen_model(DEFAULT_MODEL, commercial=True) == OPEN_MODEL
    with pytest.raises(RellmError, match="CC BY-NC-SA"):
        chosen_model(SMALL_MODEL, commercial=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    for emotion in (resolve_component("small:emotion"), "small:emotion", "small:emotion-open"):
        parts = {"emotion_encoder": emotion, "llm": None}
        (mine / "config.json").write_text(json.dumps({"model_type": "re_llm", "components": parts}))
        if emotion != "small:emotion-open":
            with pytest.raises(RellmError, match="CC BY-NC-SA"):
                refuse_non_commercial(str(mine))
    assert chosen_model(str(mine), commercial=True) == str(mine)


def test_a_named_model_is_taken_without_a_word(cache: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    assert chosen_model("folder") == "folder"
    monkeypatch.setenv("RE_LLM_MODEL", "mini:re-llm")
    assert default_model() == "mini:re-llm" and hint_at_small() is None
    assert capsys.readouterr().err == ""


def test_python_says_so_too(cache: Path) -> None:
    with pytest.warns(UserWarning, match="re-llm parts get small"):
        assert engine.load(device="cpu").name == MINI_MODEL


def test_what_ships_is_found_by_its_name() -> None:
    assert (Path(resolve_component(SMALL_MODEL)) / "config.json").is_file()
    assert (Path(resolve_component("small:emotion")) / "config.json").is_file()
    assert locate("small:emotion") == Path(resolve_component("small:emotion"))
