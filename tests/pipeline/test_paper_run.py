"""The paper's recipe as it is written, paths alone set, from foreign files to the report with its eight systems."""

from __future__ import annotations

import json
from pathlib import Path

import paper_world
import pytest
from test_convert import ranks

from re_llm.core.errors import RellmError
from re_llm.pipeline.reproduce import reproduce
from re_llm.recipe.files import load_recipe

__all__ = ["ranks"]  # a fixture
# The tiny corpora have fewer utterances than the samples of the protocols, and time is short.
SMALL = {
    "corpora.msp_podcast.options": {"train": 8, "test": 4},
    "stages.finetune.epochs": 1,
    "decoding.max_new_tokens": 6,
    "decoding.continuation_tokens": 6,
    "workers": 1,
    "device": "cpu",
}


@pytest.mark.slow
def test_the_papers_run_works_as_written(ranks: dict[bytes, int], tmp_path: Path) -> None:
    shipped = load_recipe("re_llm")
    assert shipped.scorer != "small", "Table I is scored by the paper's RoBERTa"
    paths = paper_world.write_all(shipped, ranks, tmp_path)
    recipe = load_recipe("re_llm", {**SMALL, **paths})
    with pytest.raises(RellmError, match="is a Qwen of version 1"):
        reproduce(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "corpora").exists(), "nothing was prepared"
    lines: list[str] = []
    result = reproduce(recipe, tmp_path / "run", convert=True, say=lines.append)
    assert result.report is not None and result.report.is_file()
    made = json.loads((result.report.parent / "results.json").read_text())
    systems = {cell["system"] for cell in made["cells"]}
    assert systems == set(shipped.systems) and len(systems) == 8
    assert (tmp_path / "run" / "converted").is_dir() and any("converting" in line for line in lines)
    again: list[str] = []
    reproduce(recipe, tmp_path / "run", convert=True, say=again.append)
    assert not any("converting" in line for line in again)
