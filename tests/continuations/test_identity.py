"""What a training says of its continuations before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from re_llm.continuations.identity import doubts
from re_llm.core.assets import component_hash
from re_llm.core.product import Product


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_unfinished_edited_and_foreign_continuations_are_told(tmp_path: Path, llm: Path) -> None:
    out, dropped = tmp_path / "c.jsonl", tmp_path / "c.dropped.jsonl"
    product = Product(out, "continue 1", {"weights": component_hash(str(llm))}, {}, beside=(dropped,), grows=True)

    def told() -> str:
        return "; ".join(doubts(out, str(llm)))

    with product.making():
        out.write_text("1\n")
        dropped.write_text("2\n")
        assert "c.jsonl is unfinished" in told()
        product.finish()
    assert told() == ""
    out.write_text("3\n")
    assert "c.jsonl was changed after it was written" in told()
    out.write_text("1\n")
    (llm / "config.json").write_text('{"model_type": "other"}')
    assert f"by other weights than those of {llm}" in told()
