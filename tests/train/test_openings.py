"""Rows without what they begin with train as whole rows do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from re_llm.recipe.options import ModelOptions
from re_llm.train import openings, setup
from re_llm.train.collate import Batch
from re_llm.train.data import load_examples
from re_llm.train.objective import Objective
from re_llm.train.openings import Openings
from re_llm.train.plan import Plan, build_model
from re_llm.train.rows import Row, TrainingRows
from re_llm.train.run import train
from re_llm.train.setup import _collator

LOSSES = {"response_ce": 1.0, "response_kl": 0.5, "input_er": 1.0}


def with_lora(plan: Plan, **changes: object) -> ModelOptions:
    assert plan.model.lora is not None
    return plan.model.model_copy(update={"lora": plan.model.lora.model_copy(update=changes)})


def prepared(plan: Plan, attention: str = "eager"):
    """A model, its processor, examples, and the rows of one epoch, which have prompts of two lengths."""
    model, processor = build_model(plan, attention=attention)
    with torch.no_grad():  # LoRA that does nothing would not be missed
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.5)
    loaded = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer)
    maker = setup.RowMaker(processor.tokenizer, plan.stage)
    rows = TrainingRows(loaded.examples, maker, seed=0)
    return model, processor, loaded.examples, [rows[0, place] for place in range(len(rows))]


def gradients(objective: Objective, batch: Batch) -> dict[str, torch.Tensor]:
    objective.model.zero_grad()
    loss = objective(batch, LOSSES)
    loss.total.backward()
    named = {name: p.grad.clone() for name, p in objective.model.named_parameters() if p.grad is not None}
    return {**named, **{f"loss {name}": term.detach() for name, term in loss.terms.items()}}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_and_gradients_are_those_of_whole_rows(plan: Plan, attention: str) -> None:
    plan = replace(plan, model=with_lora(plan, dropout=0.0))
    model, processor, examples, rows = prepared(plan, attention)
    model.eval()
    assert len({len(row.prefix) for row in rows}) > 1
    whole, apart = (
        _collator(plan, examples, model, processor, None, apart=each)(rows) for each in (False, True)
    )  # fmt: skip
    cut = whole["input_ids"].shape[1] - apart["input_ids"].shape[1]
    assert cut >= min(len(row.prefix) for row in rows) > 3
    read = Openings.of(model, plan.stage)
    assert read is not None
    expected = gradients(Objective(model, plan.stage), whole)
    found = gradients(Objective(model, plan.stage, openings=read), apart)
    assert expected.keys() == found.keys() and any(".lora_A." in name for name in found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def test_each_opening_is_read_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _, rows = prepared(plan)
    read = Openings.of(model, plan.stage)
    assert read is not None
    texts: list[tuple[int, ...]] = []
    passed = type(read)._read

    def counted(self: Openings, ids: Sequence[int], device: torch.device):
        texts.append(tuple(ids))
        return passed(self, ids, device)

    monkeypatch.setattr(Openings, "_read", counted)
    both = list(dict.fromkeys(row.prefix for row in rows))
    assert len(both) == 2
    for of_row in ([0, 1, 1], [1], [0, 0]):
        cache = read.cache(both, torch.tensor(of_row))
        assert cache.get_seq_length() == max(map(len, both))
        assert cache.layers[0].keys.shape[0] == len(of_row)
    assert texts == both
    monkeypatch.setattr(openings, "KEPT", 1)
    read.cache(both[:1], torch.tensor([0]))
    assert texts == [*both, both[0]]


def test_rows_that_begin_with_a_recording_stay_whole(plan: Plan) -> None:
    model, processor, examples, rows = prepared(plan)
    collate = _collator(plan, examples, model, processor, None, apart=True)
    first: Row = replace(rows[0], earlier=(((3, 4), rows[0].index),), earlier_spelled=(rows[0].transcript,))
    assert "openings" not in collate([first, rows[1]])
    assert "openings" in collate(rows[:2])


def test_nothing_that_changes_what_is_read_is_trained(plan: Plan) -> None:
    model, _, _, _ = prepared(plan)
    assert Openings.of(model, plan.stage) is not None
    assert Openings.of(model, plan.stage.model_copy(update={"gradient_checkpointing": True})) is None
    model.language_model.config.attention_dropout = 0.1
    assert Openings.of(model, plan.stage) is None
    model.language_model.config.attention_dropout = 0.0
    model.language_model.config._attn_implementation = "flash_attention_2"
    assert Openings.of(model, plan.stage) is None
    model.language_model.config._attn_implementation = "eager"
    model.get_input_embeddings().weight.requires_grad_(True)
    assert Openings.of(model, plan.stage) is None
    for scope in ("text", "global"):
        model, _, _, _ = prepared(replace(plan, model=with_lora(plan, scope=scope)))
        assert Openings.of(model, plan.stage) is None


def test_a_stage_learns_the_same(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole stage with two tasks, LoRA and a teacher."""
    plan = replace(plan, model=with_lora(plan, dropout=0.0))
    used: list[int] = []
    cached = Openings.cache
    monkeypatch.setattr(Openings, "cache", lambda self, *args: used.append(1) or cached(self, *args))
    train(plan, tmp_path / "apart", progress=False)
    assert len(used) == plan.stage.max_steps
    monkeypatch.setattr(Openings, "of", classmethod(lambda cls, model, stage: None))
    train(plan, tmp_path / "whole", progress=False)
    assert len(used) == plan.stage.max_steps
    apart, whole = (load_trained(tmp_path / name) for name in ("apart", "whole"))
    assert apart.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(apart[name], value, rtol=1e-3, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")


def load_trained(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
