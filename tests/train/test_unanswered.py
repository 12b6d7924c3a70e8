"""Rows that the LLM has not answered, in a stage that trains answers: they repeat what is said, or name the emotion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
from pydantic import ValidationError

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Utterance, read_records, write_records
from re_llm.pipeline.layout import Run
from re_llm.recipe.files import load_recipe
from re_llm.recipe.stages import StageOptions
from re_llm.train.data import Loaded, load_examples
from re_llm.train.plan import Plan
from re_llm.train.rows import RowMaker, TrainingRows
from re_llm.train.run import train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
TASKS = (
    {"prompt": "chat", "fraction": 0.5},
    {"prompt": "recognize", "target": "emotion", "fraction": 0.2},
    {"prompt": "repeat", "target": "transcript", "fraction": 0.3},
)


def stage(**changes: object) -> StageOptions:
    return StageOptions(
        **{"tasks": TASKS, "losses": {"response_ce": 1.0}, "lr": 1e-3, "unanswered": {"more": 6}, **changes}
    )


@pytest.fixture
def answers(data: Path, tmp_path: Path) -> Path:
    """The first six hums with answers."""
    rows = [row.model_copy(update={"audio": str(data.parent / row.audio)}) for row in read_records(data, Continuation)]
    write_records(tmp_path / "hums.continue.jsonl", rows[:6])
    return tmp_path / "hums.continue.jsonl"


@pytest.fixture
def more(data: Path, tmp_path: Path) -> Path:
    """All twelve as a manifest, of the same corpus by its rows."""
    out = tmp_path / "more" / "manifest.jsonl"
    out.parent.mkdir()
    write_records(out, [
        Utterance(
            key=row.key, corpus=row.corpus or "hums", split="train", audio=str(data.parent / row.audio),
            start=row.start, duration=row.duration, text=f"hum {row.key}", emotion=row.emotion,
            valence=row.valence, arousal=row.arousal, dominance=row.dominance,
        )
        for row in read_records(data, Continuation)
    ])  # fmt: skip
    return out


def loaded(files: list[Path], **changes: object) -> Loaded:
    return load_examples(files, stage(**changes), EMOTIONS, tiny_world.tokenizer())


def test_rows_without_answers_join_those_that_have_some(answers: Path, more: Path) -> None:
    found = loaded([more, answers])  # whatever their order
    assert [each.answered for each in found.examples] == [True] * 6 + [False] * 6
    assert len({each.key for each in found.examples}) == 12  # a row with an answer is left to it
    assert all(not each.targets and each.text.startswith("hum ") for each in found.examples if not each.answered)
    assert not found.dropped


def test_as_many_are_taken_as_wanted_and_always_the_same(answers: Path, more: Path) -> None:
    few = {each.key for each in loaded([answers, more], unanswered={"more": 2}).examples if not each.answered}
    assert len(few) == 2
    rows = list(read_records(more, Utterance))
    write_records(more, rows[::-1])
    again = {each.key for each in loaded([answers, more], unanswered={"more": 2}).examples if not each.answered}
    assert few == again
    wide = {each.key for each in loaded([answers, more], unanswered={"more": 4}).examples if not each.answered}
    assert few < wide


def test_they_take_the_tasks_that_need_no_answer(answers: Path, more: Path) -> None:
    found = loaded([answers, more])
    maker = RowMaker(tiny_world.tokenizer(), stage())
    rows = TrainingRows(found.examples, maker, seed=1)
    repeat, chat = (maker.make(0, found.examples[0], maker.tasks[i]).prefix for i in (2, 0))
    drawn = [rows[epoch, place] for epoch in range(30) for place in range(len(rows))]
    prompts = {
        answered: [r.prefix for r in drawn if found.examples[r.index].answered == answered]
        for answered in (True, False)
    }
    assert chat in prompts[True] and chat not in prompts[False]
    assert 0.45 < prompts[False].count(repeat) / len(prompts[False]) < 0.75  # .3 beside .2
    first = next(r for r in drawn if not found.examples[r.index].answered and r.prefix == repeat)
    assert first.response == maker.ids(found.examples[first.index].text) + maker.end


def test_a_stage_trains_on_both(plan: Plan, answers: Path, more: Path, tmp_path: Path) -> None:
    changes = {"unanswered": {"more": 6}, "tasks": stage().tasks, "max_steps": 2}
    both = replace(plan, stage=plan.stage.model_copy(update=changes), data=(answers, more))
    assert train(both, tmp_path / "out", device="cpu", progress=False).examples == 12
    fewer = replace(both, stage=both.stage.model_copy(update={"unanswered": {"more": 3}}))
    with pytest.raises(RellmError, match="unanswered"):  # another product
        train(fewer, tmp_path / "out", device="cpu", progress=False)


def test_a_manifest_that_is_not_given_or_not_expected_is_named(answers: Path, more: Path) -> None:
    with pytest.raises(RellmError, match="unanswered names more, and no given file is its manifest") as told:
        loaded([answers])
    assert "more.jsonl or more/manifest.jsonl" in str(told.value)
    with pytest.raises(RellmError, match="is a manifest, and the stage trains what the LLM answers"):
        loaded([answers, more], unanswered={})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tasks": TASKS[:1]}, "a task whose target is the transcript"),
        ({"tasks": TASKS[1:]}, "this one reads none"),
        ({"exchange": ("hums",), "donors": ("more",)}, "more is in unanswered and in donors"),
        ({"unanswered": {"more": 0}}, "greater than or equal to 1"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        stage(**changes)


def test_a_run_does_not_ask_the_llm_about_them(tmp_path: Path) -> None:
    recipe = load_recipe("small_components")
    corpora = recipe.corpora | {"more": recipe.corpora["drawn"]}
    answered = recipe.stages["re_llm"]
    joined = answered.model_copy(update={"data": (*answered.data, "more"), "unanswered": {"more": 100}})
    run = Run(
        recipe.model_copy(update={"corpora": corpora, "stages": {"words": recipe.stages["words"], "re_llm": joined}}),
        tmp_path,
        print,
    )
    assert run.manifest("more") in run.continuations(joined.data, joined)
    assert {each.corpus for each in run._wanted_continuations()} == {"drawn"}


def test_the_recipe_tells_answered_rows_of_both_manifests_by_one_name() -> None:
    """Both are made of one file, whose rows are named by their corpus."""
    corpora = load_recipe("small_nc").corpora
    assert corpora["drawn"].root == corpora["more"].root
    assert corpora["drawn"].options["corpus"] == corpora["more"].options["corpus"]
