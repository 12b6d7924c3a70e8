"""`reproduce` into a folder that is there: what was made from something else is made again, and all that follows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import run_world
import yaml

from re_llm.core.errors import RellmError
from re_llm.core.files import lock
from re_llm.core.product import read_sidecar
from re_llm.pipeline import jobs
from re_llm.pipeline.reproduce import reproduce
from re_llm.recipe.files import parse_recipe

Again = Callable[..., list[str]]


@pytest.fixture(scope="module")
def made(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a recipe and a finished run."""
    root = tmp_path_factory.mktemp("made")
    text = run_world.recipe(tiny_checkpoint.parent, run_world.write_corpus(root / "corpus"))
    (root / "recipe.yaml").write_text(text)
    reproduce(parse_recipe(text), root / "run")
    return root


@pytest.fixture
def root(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, as far from the parts as it was: checkpoints name these by relative paths."""
    folder = tmp_path_factory.mktemp("copy")
    return Path(shutil.copytree(made, folder, dirs_exist_ok=True))


@pytest.fixture
def again(root: Path) -> Again:
    """Runs the recipe again with changes (dotted key to value); what it says, without the names of the stages."""

    def run(changes: dict[str, object] | None = None, **options: object) -> list[str]:
        said: list[str] = []
        text = (root / "recipe.yaml").read_text()
        overrides = {"corpora.toy.root": str(root / "corpus" / "table.csv"), **(changes or {})}
        try:
            reproduce(parse_recipe(text, overrides=overrides), root / "run", say=said.append, **options)
        finally:
            run.said = [line for line in said if not line.startswith("==")]
        return run.said

    return run


OTHER = {"stages.emotion.lr": 5e-2, "stages.emotion.max_steps": 6}


def test_another_recipe_makes_its_stage_and_what_follows_again(root: Path, again: Again) -> None:
    resolved = root / "run" / "recipe.resolved.yaml"
    weights = root / "run" / "checkpoints" / "emotion" / "adapter_model.safetensors"
    before = weights.read_bytes()
    said = again(OTHER)
    why = "emotion: made again (stage.lr was 0.0003, and is 0.05 now; stage.max_steps was 4, and is 6 now): 6 steps"
    assert any(line.startswith(why) for line in said)
    assert any(line.startswith("re-llm on toy, seed 0: made again (start (") for line in said)
    assert [line.partition(":")[0] for line in said if "made again (the model" in line] == [
        "blsp-emo on toy", "re-llm on toy",
    ]  # fmt: skip
    assert {"toy, continue-emotion: complete", "text on toy: complete"} <= set(said)
    assert any(line.startswith("report: made again") for line in said)
    assert weights.read_bytes() != before
    assert yaml.safe_load(resolved.read_text())["stages"]["emotion"]["lr"] == 0.05
    assert read_sidecar(weights.parent)["settings"]["stage"]["lr"] == 0.05
    assert all(line.endswith("complete") for line in again(OTHER))


def test_the_provenance_is_not_written_before_the_products(root: Path, again: Again, monkeypatch) -> None:
    resolved = root / "run" / "recipe.resolved.yaml"
    again()
    same = resolved.read_bytes()
    again(until="train")
    assert resolved.read_bytes() == same  # nothing else was said of what is there

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("re_llm.train.run.train", dies)
        again(OTHER)
    assert not resolved.exists()
    sidecar = read_sidecar(root / "run" / "checkpoints" / "emotion")
    assert sidecar["complete"] and sidecar["settings"]["stage"]["lr"] == 3e-4
    again(OTHER, until="prepare")
    assert not resolved.exists()


def test_a_changed_corpus_reaches_the_report(root: Path, again: Again) -> None:
    first, second = (root / "corpus" / f"{i}.wav" for i in (0, 1))
    again()  # the copy has new dates: its manifest is looked at again, and comes out the same
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    said = again()
    assert any(line.startswith("toy: made again (a recording has changed)") for line in said)
    for name in ("toy, continue-emotion", "emotion", "re-llm on toy, seed 0", "blsp-emo on toy", "report"):
        assert any(line.startswith(f"{name}: made again") for line in said), name
    assert "text on toy: complete" in said  # it reads words of the test set, which are the same
    assert all(line.endswith("complete") for line in again())


def test_a_copied_run_is_complete_but_for_the_dates_of_its_corpus(again: Again) -> None:
    said = again()
    assert [line.partition(":")[0] for line in said if not line.endswith("complete")] == ["toy"]


def test_what_was_changed_by_hand_is_left_alone_and_named(root: Path, again: Again) -> None:
    again()
    manifest = root / "run" / "corpora" / "toy" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("a hum number 1", "a song"))
    edited = manifest.read_bytes()
    with pytest.raises(RellmError, match=r"manifest\.jsonl: it was changed after it was written"):
        again()
    assert manifest.read_bytes() == edited


def test_rows_that_the_manifest_lost_are_not_scored(root: Path, again: Again) -> None:
    table = root / "corpus" / "table.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    said = again()
    assert any(line.startswith("text on toy: made again (it holds a reply to ") for line in said)
    assert len((root / "run" / "replies" / "toy" / "text.0.jsonl").read_text().splitlines()) == 2


def test_one_run_at_a_time(root: Path, again: Again) -> None:
    pytest.importorskip("fcntl")
    with lock(root / "run", folder=True), pytest.raises(RellmError, match="another process is writing"):
        again()


def test_no_product_holds_a_path_of_this_machine(root: Path, made: Path) -> None:
    sidecars = [*(root / "run").rglob("*provenance.json")]
    # The run, its manifest, continuations, checkpoints, replies, scores, and the report.
    assert len(sidecars) == 1 + 1 + 1 + 2 + 3 + 3 + 1
    for path in sidecars:
        assert str(made) not in path.read_text(), path


def test_a_worker_that_dies_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="a worker process was killed"):
        jobs.run_jobs(run_world.die, [1, 2], 2, lambda line: None)
