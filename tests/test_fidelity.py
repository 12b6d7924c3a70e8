"""docs/fidelity.md against the schema of recipes, and the recipes of the released code against its facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from re_llm.recipe.config import DecodingOptions
from re_llm.recipe.files import load_recipe
from re_llm.recipe.options import AdapterOptions, LoraOptions, ModelOptions, Options
from re_llm.recipe.stages import StageOptions, TaskOptions, ValidationOptions
from re_llm.recipe.systems import CorpusOptions, SystemOptions

PAGE = Path(__file__).parents[1] / "docs" / "fidelity.md"
GROUPS: dict[str, type[Options]] = {
    "stage": StageOptions,
    "task": TaskOptions,
    "validation": ValidationOptions,
    "model": ModelOptions,
    "lora": LoraOptions,
    "adapter": AdapterOptions,
    "decoding": DecodingOptions,
    "system": SystemOptions,
    "corpus": CorpusOptions,
}
OPTION = re.compile(r"`(?:(\w+\.yaml) )?([\w.-]+): ([^`]+)`")
HERE, OTHER = 3, 4


def options(column: int) -> Iterator[tuple[str | None, str, object]]:
    """(recipe, dotted name, value) of every option in a column."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5:
            for recipe, name, value in OPTION.findall(cells[column]):
                yield recipe or None, name, yaml.safe_load(value)


def plain(value: object) -> object:
    return TypeAdapter(object).dump_python(value, mode="json")


def at(value: object, dotted: str) -> object:
    for part in dotted.split("."):
        key = int(part) if part.isdigit() else part
        value = value[key] if isinstance(value, dict | tuple) else getattr(value, part)
    return plain(value)


def test_every_option_of_the_page_has_the_value_that_it_says() -> None:
    found = list(options(HERE))
    assert len(found) > 35
    for recipe, name, value in found:
        if recipe:
            assert at(load_recipe(recipe), name) == value, (recipe, name)
        else:
            group, _, field = name.partition(".")
            assert plain(GROUPS[group].model_fields[field].default) == value, name


def test_every_other_reading_is_one_that_a_recipe_may_have() -> None:
    found = list(options(OTHER))
    assert len(found) > 20
    for recipe, name, value in found:
        group, _, field = name.partition(".")
        assert recipe is None and field in GROUPS[group].model_fields, name
        needed = {"losses": {"response_ce": 1.0}, "lr": 1e-4} if group == "stage" else {}
        needed |= {"prompt": "continue"} if group == "task" else {"kind": "text"} if group == "system" else {}
        needed |= {"reader": "ravdess", "root": "r"} if group == "corpus" else {}
        read = GROUPS[group].model_validate({**needed, field: value})
        info = GROUPS[group].model_fields[field]
        same = not info.is_required() and plain(getattr(read, field)) == plain(info.default)
        assert not same or name in SET_BY_A_RECIPE, name


# The default is the other reading, because a recipe of the paper says something else.
SET_BY_A_RECIPE = {"stage.train", "system.prompt"}


def test_all_points_are_there() -> None:
    """The points in which paper and code are known to differ; a row that is lost is noticed."""
    page = PAGE.read_text(encoding="utf-8")
    names = [row.split("|")[1].strip() for row in page.splitlines() if row.startswith("| ")]
    for point in (
        "learning rate over the steps", "warm-up longer than the run", "weight decay", "system prompt in training",
        "what the teacher of `response_kl` reads", "where `response_kl` compares", "filter of texts",
        "categorical head in stage 3", "system 3", "answer to the recognition prompt", "repetition penalty",
        "newline behind `assistant`", "validation", "speech encoder in stage 2",
    ):  # fmt: skip
        assert point in names, point


# What the released code does, by recipe and dotted name (paper, table "Stages", and the code's own commands).
FACTS: dict[str, dict[str, object]] = {
    "re_llm_code": {
        "model.fusion": "pooled",
        "model.speech_window": "full",
        "model.init_adapter": "fresh",
        "model.adapter.bottleneck": 512,
        "model.lora.r": 16,
        "model.lora.alpha": 16,
        "model.lora.dropout": 0.05,
        "model.lora.scope": "speech",
        "stages.finetune.continuation": "continue-emotion-released",
        "stages.finetune.tasks.0.prompt": "continue-speech-released",
        "stages.finetune.train": ["adapter", "lora", "dimension_head"],
        "stages.finetune.losses": {"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0},
        "stages.finetune.lr": 2e-5,
        "stages.finetune.weight_decay": 0.05,
        "stages.finetune.weight_decay_on": "all",
        "stages.finetune.max_grad_norm": 1.0,
        "stages.finetune.warmup": 200,
        "stages.finetune.schedule": "warmup_decay",
        "stages.finetune.epochs": 3,
        "stages.finetune.batch_size": 16,
        "stages.finetune.accumulate": 1,
        "stages.finetune.text_filter": "row",
        "stages.finetune.max_text_tokens": 256,
        "stages.finetune.min_seconds": 1.0,
        "stages.finetune.max_seconds": 30.0,
        "stages.finetune.validation.fraction": 0.1,
        "stages.finetune.validation.by": "row",
        "decoding.max_new_tokens": 256,
        "decoding.continuation_tokens": 48,
        "decoding.continuation_tokenization": "joined",
        "decoding.recognize_prompt": "recognize-released",
        "decoding.recognize_tokens": 128,
        "decoding.repetition_penalty": None,
        "systems.re-llm.prompt": "chat-released",
        "systems.blsp-emo.prompt": "chat-released",
        "systems.blsp-emo-ft.model.init_adapter": "copy",
        "systems.text-label.prompt": "label",
    },
    "blsp_emo_code": {
        "model.fusion": "none",
        "stages.emotion.continuation": "continue-emotion-released",
        "stages.emotion.tasks.0.prompt": "continue-speech-released",
        "stages.emotion.train": ["adapter", "lora", "heads"],
        "stages.emotion.losses": {"response_ce": 1.0, "input_er": 1.0},
        "stages.emotion.lr": 2e-5,
        "stages.emotion.weight_decay": 0.05,
        "stages.emotion.weight_decay_on": "all",
        "stages.emotion.max_grad_norm": 1.0,
        "stages.emotion.warmup": 200,
        "stages.emotion.schedule": "warmup_decay",
        "stages.emotion.epochs": 3,
        "stages.emotion.text_filter": "row",
        "decoding.continuation_tokenization": "joined",
    },
}


@pytest.mark.parametrize(("name", "where"), [(name, where) for name, facts in FACTS.items() for where in facts])
def test_the_recipe_of_the_released_code_has_its_values(name: str, where: str) -> None:
    assert at(load_recipe(f"{name}.yaml"), where) == FACTS[name][where]


@pytest.mark.parametrize(("code", "paper"), [("re_llm_code", "re_llm"), ("blsp_emo_code", "blsp_emo")])
def test_code_and_paper_differ_in_nothing_but_the_points_of_the_page(code: str, paper: str) -> None:
    ours, theirs = (load_recipe(f"{name}.yaml") for name in (paper, code))
    for part in ("components", "corpora", "emotions", "seeds", "scorer", "baseline"):
        assert plain(getattr(ours, part)) == plain(getattr(theirs, part)), part
    assert list(ours.systems) == list(theirs.systems) and list(ours.stages) == list(theirs.stages)
    page = PAGE.read_text(encoding="utf-8")
    for name, stage in ours.stages.items():
        for field in StageOptions.model_fields:
            if plain(getattr(stage, field)) != plain(getattr(theirs.stages[name], field)):
                known = {"continuation": "stage.continuation", "tasks": "task.prompt"}.get(field, f"stage.{field}")
                assert f"`{known}: " in page, field
    for field in DecodingOptions.model_fields:
        if getattr(ours.decoding, field) != getattr(theirs.decoding, field):
            assert f"`decoding.{field}: " in page, field
