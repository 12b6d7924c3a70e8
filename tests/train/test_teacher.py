"""The teacher's likeliest tokens on disk: its divergence, and a text pass that is made once for a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from re_llm.model import losses
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.predictions import Predictions, TopTokens
from re_llm.recipe.stages import StageOptions, TaskOptions, ValidationOptions
from re_llm.train.plan import Plan, build_model
from re_llm.train.run import train
from re_llm.train.teacher import TeacherStore

K, V = 6, 40


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(K, V, generator=torch.Generator().manual_seed(seed))


def top_kl(student: torch.Tensor, k: int) -> torch.Tensor:
    top = TopTokens.of(Predictions(logits(1)), k, 2.0)
    return losses.top_k_kl(student, top.ids, top.log_p, temperature=2.0)


def test_k_of_the_whole_vocabulary_is_the_divergence_itself() -> None:
    one, other = logits(0).requires_grad_(), logits(0).requires_grad_()
    found, wanted = top_kl(one, V), losses.response_kl(other, logits(1), temperature=2.0)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_fewer_tokens_never_make_more_of_it() -> None:
    found = [float(top_kl(logits(0), k)) for k in (1, 2, 4, 8, 16, V)]
    assert found == sorted(found) and 0 < found[0] < found[-1]
    assert float(top_kl(logits(1), 3)) == pytest.approx(0.0, abs=1e-6)  # the teacher itself


def test_gradient_stays_finite_where_the_rest_vanishes() -> None:
    sure = torch.zeros(K, V).index_fill(1, torch.tensor([0]), 1000.0).requires_grad_()
    top = TopTokens.of(Predictions(sure.detach()), 2, 2.0)
    losses.top_k_kl(sure, top.ids, top.log_p).backward()
    assert sure.grad is not None and sure.grad.isfinite().all()


def stage_of(plan: Plan, **changes: object) -> Plan:
    """A stage whose only loss is the divergence from the teacher."""
    task = TaskOptions(prompt="continue-speech")
    terms = {"response_kl": 1.0, "input_er": 1.0, "input_er_avd": 1.0}
    return replace(plan, stage=plan.stage.model_copy(update={"tasks": (task,), "losses": terms, **changes}))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each text pass of a teacher."""
    seen: list[int] = []
    real = ReLlmForConditionalGeneration.text_forward

    def count(self: ReLlmForConditionalGeneration, ids: torch.Tensor, *args: object, **options: object) -> object:
        if ids.numel() > 1:
            seen.append(len(ids))
        return real(self, ids, *args, **options)

    monkeypatch.setattr(ReLlmForConditionalGeneration, "text_forward", count)
    return seen


def test_kept_tokens_train_the_same_and_each_row_is_read_once(plan: Plan, tmp_path: Path, passes: list[int]) -> None:
    """With k of the whole vocabulary, over several epochs; another run with the same LLM reads none."""
    whole = train(stage_of(plan), tmp_path / "whole", progress=False)
    every = sum(passes)
    passes.clear()
    kept, features = stage_of(plan, teacher_top_k=10_000), tmp_path / "features"
    first = train(kept, tmp_path / "kept", progress=False, features=features)
    assert first.final["response_kl"] == pytest.approx(whole.final["response_kl"], rel=1e-4)
    # A batch with a row that is not kept is read whole; none of the later epochs reads any.
    assert 0 < sum(passes) < every
    passes.clear()
    again = train(kept, tmp_path / "again", progress=False, features=features)
    assert not passes
    assert again.final["response_kl"] == pytest.approx(first.final["response_kl"], rel=1e-5)


def test_rows_held_out_are_read_once_too(plan: Plan, tmp_path: Path, passes: list[int]) -> None:
    held_out = ValidationOptions(fraction=0.3, by="row", every=4)
    kept = stage_of(plan, teacher_top_k=4, validation=held_out)
    train(kept, tmp_path / "first", progress=False, features=tmp_path / "features")
    assert passes
    passes.clear()
    report = train(kept, tmp_path / "again", progress=False, features=tmp_path / "features")
    assert not passes and report.best["eval_loss"] > 0


def test_what_decides_the_tokens_decides_where_they_are_kept(plan: Plan, tmp_path: Path) -> None:
    model, _ = build_model(plan)
    made = set()
    for changes in ({}, {"teacher_top_k": 8}, {"temperature": 1.0}, {"kl_at": "token"}, {"precision": "bf16"}):
        stage = stage_of(plan, **{"teacher_top_k": 4, **changes}).stage
        store = TeacherStore.of(tmp_path, stage, model)
        assert store is not None
        made.add(store.folder)
    with torch.no_grad():
        next(model.language_model.parameters()).add_(1.0)
    store = TeacherStore.of(tmp_path, stage_of(plan, teacher_top_k=4).stage, model)
    assert store is not None and len(made | {store.folder}) == 6
    assert TeacherStore.of(tmp_path, plan.stage, model) is None


def test_rows_come_back_as_they_were_kept(tmp_path: Path) -> None:
    top = TopTokens.of(Predictions(logits(0)), 4, 2.0)
    store = TeacherStore(tmp_path / "teacher", 4)
    assert store.get(["a" * 32], torch.device("cpu")) is None
    store.add(["a" * 32, "b" * 32], [2, 4], top)
    for each in (store, TeacherStore(tmp_path / "teacher", 4)):
        found = each.get(["b" * 32, "a" * 32], torch.device("cpu"))
        assert found is not None
        assert torch.equal(found.ids, top.ids.roll(-2, 0)) and torch.equal(found.log_p, top.log_p.roll(-2, 0))
        assert each.get(["a" * 32, "c" * 32], torch.device("cpu")) is None


def test_only_response_kl_is_kept() -> None:
    with pytest.raises(ValueError, match="teacher_top_k is for response_kl"):
        StageOptions(losses={"response_ce": 1.0}, lr=1e-3, teacher_top_k=8)


def test_a_sample_is_for_ctc() -> None:
    with pytest.raises(ValueError, match="ctc_sample is for adapter_ctc"):
        StageOptions(losses={"response_ce": 1.0}, lr=1e-3, ctc_sample=8)
