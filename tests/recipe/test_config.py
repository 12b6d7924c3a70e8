"""Recipes: what they refuse, where they say it is, and how systems differ from their stage."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from re_llm.core.assets import resolve_component
from re_llm.core.errors import RellmError
from re_llm.recipe.files import find_recipe, load_recipe, parse_overrides, parse_recipe

GOOD = """\
name: t
title: T
components: {llm: a, speech_encoder: b, emotion_encoder: c}
corpora: {toy: {reader: ravdess, root: somewhere}}
stages:
  tune:
    losses: {response_ce: 1.0, input_er: 1.0, input_er_avd: 1.0}
    lr: 1.0e-4
systems:
  text: {kind: text}
  mine: {kind: speech, stage: tune, per_corpus: true}
  small:
    kind: speech
    stage: tune
    per_corpus: true
    model: {fusion: none}
    stage_options: {losses: {response_ce: 1.0}}
"""


def test_a_system_changes_its_stage_and_its_model() -> None:
    recipe = parse_recipe(GOOD)
    small = recipe.systems["small"]
    assert recipe.model_for(small).fusion == "none"
    assert recipe.stage_for(small).losses == {"response_ce": 1.0}
    assert recipe.stage_for(small).lr == recipe.stage_for(recipe.systems["mine"]).lr == 1e-4
    assert recipe.model_for(recipe.systems["mine"]).fusion == "pooled"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "    lr: 1.0e-4\n",
            "    learning: 1.0e-4\n    lr: 1.0e-4\n",
            r"r\.yaml:8: unknown key 'stages.tune.learning'",
        ),
        ("lr: 1.0e-4", "lr: -1", r"r\.yaml:8: stages.tune.lr"),
        ("response_ce: 1.0, input_er:", "response_see: 1.0, input_er:", "unknown loss 'response_see'"),
        ("{kind: text}", "{kind: text, prompt: chatty}", "unknown prompt 'chatty'"),
        ("lr: 1.0e-4", "lr: 1.0e-4\n    continuation: continues", r"r\.yaml:9: .*unknown prompt 'continues'"),
        ("per_corpus: true}", "per_corpus: true, prompt: cascade}", "'cascade' names the emotion"),
        ("title: T", "title: T\ndecoding: {recognize_prompt: recognise}", "unknown prompt 'recognise'"),
        ("title: T", "title: T\ndecoding: {recognize_prompt: cascade}", "'cascade' names the emotion"),
        ("title: T", "title: T\nbaseline: yours", "baseline is 'yours'; allowed: text, mine, small"),
        ("stage: tune, per", "stage: tunes, per", "names stage 'tunes'"),
        ("emotion_encoder: c", "emotion_encoder: null", "components.emotion_encoder"),
        ("name: t", "name: t\nemotions: [neutral, glad]", "unknown emotion 'glad'"),
        ("{kind: text}", "{kind: text, stage: tune}", "names its `stage`"),
        ("model: {fusion: none}", "model: {fusion: sometimes}", "fusion"),
        ("    per_corpus: true\n", "", "model changes a training of this system's own, which per_corpus: true"),
        ("{kind: text}", "{kind: server}", "a system of kind `server` has a `server`"),
        ("{kind: text}", "{kind: text, file: r.jsonl}", "a system of kind `file` has a `file`"),
        ("{kind: text}", "{kind: classifier}", "names its `classifier`"),
        ("{kind: text}", "{kind: text, history: speech}", "heard again by systems of kind `speech` or `server` alone"),
        ("{kind: text}", "{kind: text, corpora: [tay]}", "system 'text' names 'tay', which is not under `corpora`"),
        ("{kind: text}", "{kind: server, server: {url: here, model: m}}", "'here' is not the address of a server"),
        ("    lr: 1", "    continuation_llm: gpt\n    lr: 1", "stage 'tune' names 'gpt', which is not under `llms`"),
        (
            "root: somewhere}",
            "root: somewhere}, d: {reader: dialogues, root: tay}",
            "dialogues in 'tay', which is no other",
        ),
        ("title: T", "title: T\nshown: {cases: [{title: C, corpus: toy, systems: [yours]}]}", "'C' names 'yours'"),
        ("name: t", "name: [t", r"r\.yaml:\d+: not valid YAML"),
    ],
)
def test_contradictions_fail_with_their_place(before: str, after: str, message: str) -> None:
    assert before in GOOD
    with pytest.raises(RellmError, match=message):
        parse_recipe(GOOD.replace(before, after, 1), "r.yaml")


def test_an_unknown_key_lists_the_known_ones() -> None:
    with pytest.raises(RellmError) as caught:
        parse_recipe(GOOD.replace("emotion_encoder: c", "emotion_encodr: c"), "r.yaml")
    assert caught.value.allowed == "llm, speech_encoder, emotion_encoder, emotion_kind"


def test_overrides_reach_any_depth_and_are_checked() -> None:
    recipe = parse_recipe(GOOD, overrides=parse_overrides(["stages.tune.lr=3e-4", "seeds=[1, 2]"]))
    assert (recipe.stages["tune"].lr, recipe.seeds) == (3e-4, (1, 2))
    with pytest.raises(RellmError, match=r"unknown key 'stages\.tune\.rate'"):
        parse_recipe(GOOD, overrides={"stages.tune.rate": 1})
    with pytest.raises(RellmError, match="key=value"):
        parse_overrides(["lr"])
    with pytest.raises(RellmError, match="not valid YAML"):
        parse_overrides(["seeds=[1, 2"])


SHIPPED = (
    "mini", "mini_components", "small_components", "small_nc", "small", "re_llm", "re_llm_code",
    "blsp", "blsp_emo", "blsp_emo_code", "blsp_tables", "blsp_tables_mini",
)  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_parse_and_begin_with_their_command(name: str) -> None:
    path = find_recipe(f"{name}.yaml")
    assert load_recipe(path).name == name
    first = path.read_text().splitlines()[0]
    assert first.startswith("# re-llm ") and ("--out" in first)


def test_table_one_has_the_eight_systems_in_both_sizes() -> None:
    eight = ["text", "cascade", "text-label", "blsp-emo", "blsp-emo-ft", "re-llm", "re-llm-no-dim", "re-llm-no-encoder"]
    mini, real = load_recipe("mini.yaml"), load_recipe("re_llm.yaml")
    assert list(mini.systems) == list(real.systems) == eight
    for recipe in (mini, real):
        no_dim, no_encoder = recipe.systems["re-llm-no-dim"], recipe.systems["re-llm-no-encoder"]
        assert "input_er_avd" not in recipe.stage_for(no_dim).losses
        assert recipe.model_for(no_dim).fusion == "pooled"
        assert recipe.model_for(no_encoder).fusion == "none"
        assert "input_er_avd" in recipe.stage_for(no_encoder).losses


def test_the_real_recipe_has_the_papers_numbers() -> None:
    recipe = load_recipe("re_llm.yaml")
    stage, lora = recipe.stages["finetune"], recipe.model.lora
    assert lora is not None and (lora.r, lora.alpha, lora.dropout, lora.scope) == (16, 16, 0.05, "speech")
    assert (stage.lr, stage.weight_decay, stage.max_grad_norm, stage.warmup, stage.epochs) == (2e-5, 0.05, 1.0, 200, 3)
    assert stage.losses == {"response_ce": 1.0, "input_er": 1.0, "input_er_avd": 1.0}  # RE-LLM eq. 10: unit weights
    semantic = load_recipe("blsp.yaml").stages["alignment"]
    assert (semantic.lr, semantic.warmup, semantic.batch_size * semantic.accumulate) == (1e-4, 1000, 768)
    assert semantic.losses == {"response_kl": 1.0} and semantic.train == ("adapter",)


def test_missing_recipe_and_component_say_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RellmError, match="no such recipe") as caught:
        load_recipe(tmp_path / "nothing.yaml")
    assert "mini.yaml" in str(caught.value)
    (tmp_path / "llm").mkdir()
    monkeypatch.setenv("RE_LLM_MINI", str(tmp_path))
    assert resolve_component("mini:llm") == str(tmp_path / "llm")
    with pytest.raises(RellmError, match="mini:llm"):
        resolve_component("mini:whisper")


def test_a_recipe_reaches_a_worker_process_as_it_is() -> None:
    recipe = parse_recipe(GOOD)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert pickle.loads(pickle.dumps(recipe.systems["small"])).model.model_dump() == {"fusion": "none"}


def test_one_head_may_be_trained_alone_where_the_other_was_trained_before() -> None:
    stage = "    losses: {response_ce: 1.0, input_er: 1.0, input_er_avd: 1.0}\n"
    frozen = GOOD.replace(stage, stage + "    start: earlier\n    train: [adapter, dimension_head]\n")
    assert parse_recipe(frozen).stages["tune"].train == ("adapter", "dimension_head")
    with pytest.raises(RellmError, match="input_er reads emotion_head, which is new in this stage"):
        parse_recipe(frozen.replace("    start: earlier\n", ""))
    with pytest.raises(RellmError, match="add `heads` to `train`"):
        parse_recipe(frozen.replace("[adapter, dimension_head]", "[adapter]"))
