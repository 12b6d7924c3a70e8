"""Parts by name: where they lie, and what to do when they do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.core.part_list import PARTS
from re_llm.core.parts import cache_home, parts_home
from re_llm.model.hub import locate


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """An empty cache, and nothing named."""
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    assert cache_home() == tmp_path / "cache"
    monkeypatch.delenv("RE_LLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "re-llm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_home() == tmp_path / ".cache" / "re-llm"


@pytest.mark.parametrize("find", [resolve_component, locate])
def test_a_part_that_is_not_here_says_which_command_fetches_it(find):
    expected = r"small:whisper \(Whisper-base.*\) is not here\. Fetch it, 133 MB, with: re-llm parts get whisper"
    with pytest.raises(RellmError, match=expected):
        find("small:whisper")
    with pytest.raises(RellmError, match=r"small:llm .*is not here.*Make it, of small:llm-base, with: re-llm parts"):
        find("small:llm")
    with pytest.raises(RellmError, match=r"no part 'small:gpt'\. Allowed: small:whisper, small:llm-base, small:llm,"):
        find("small:gpt")


@pytest.mark.parametrize("find", [resolve_component, locate])
def test_a_part_that_is_here(find, tmp_path, monkeypatch):
    (parts_home() / "llm").mkdir(parents=True)
    assert Path(find("small:llm")) == tmp_path / "cache" / "parts" / "llm"
    (tmp_path / "build" / "llm").mkdir(parents=True)
    monkeypatch.setenv("RE_LLM_SMALL", str(tmp_path / "build"))
    assert Path(find("small:llm")) == tmp_path / "build" / "llm"


def test_every_part_is_pinned():
    for part in PARTS.values():
        packages = {wheel.package for wheel in part.wheels}
        assert all(re.fullmatch(r"\d+(\.\d+)+", wheel.version) for wheel in part.wheels)
        assert {package for each in part.contents for package, _ in each.members} == packages
        assert all(re.fullmatch("[0-9a-f]{64}", each.sha256) and each.size for each in (*part.wheels, *part.contents))
        assert len({wheel.pattern for wheel in part.wheels}) == len(part.wheels)
        assert part.licence and part.stored and bool(part.wheels) != bool(part.base)
