"""Losses with a teacher, against full logits cut by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from re_llm.model import predictions
from re_llm.model.outputs import EncodedAudio
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.examples import Example, Target
from re_llm.train.objective import Objective
from re_llm.train.plan import Plan, build_model
from re_llm.train.rows import RowMaker
from re_llm.train.setup import _collator

TEMPERATURE = 2.0


def example(plan: Plan, emotion: str) -> Example:
    targets = {"continue-emotion": Target("I hum", early_stop=False)}
    audio = str(plan.data[0].parent / "0.wav")
    return Example("a", audio, 0.0, 1.0, "a hum", targets, emotion, plan.emotions.index(emotion), None)


def stage(**changes: object) -> StageOptions:
    task = TaskOptions(prompt="continue-speech")
    options = {"tasks": (task,), "continuation": "continue-emotion", "losses": {"response_kl": 1.0}, "features": "none"}
    return StageOptions(**{**options, "lr": 1e-3, "temperature": TEMPERATURE, **changes})


def kl(student: Tensor, teacher: Tensor) -> float:
    """Mean over the rows [N, V] of KL(teacher || student)."""
    log_student, log_teacher = (x.div(TEMPERATURE).log_softmax(-1) for x in (student, teacher))
    return float((log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean())


@pytest.mark.parametrize("losses", [{"response_kl": 1.0}, {"response_kl": 1.0, "response_ce": 1.0}])
@pytest.mark.parametrize(("kl_at", "first"), [("prediction", -1), ("token", 0)])
def test_response_kl_compares_where_the_option_says(plan: Plan, losses: dict, kl_at: str, first: int) -> None:
    plan = replace(plan, stage=stage(losses=losses, kl_at=kl_at))
    model, processor = build_model(plan, attention="eager")
    made = example(plan, "sad")
    row = RowMaker(processor.tokenizer, plan.stage).make(0, made, plan.stage.tasks[0])
    batch = _collator(plan, [made], model, processor, None)([row])
    with torch.no_grad():
        terms = Objective(model, plan.stage)(batch, losses).terms
        student = model(batch["input_ids"], batch["attention_mask"], **batch["speech"]).logits[0]
        text = (*row.teacher_prefix, *row.transcript, *row.teacher_suffix, *row.response)
        teacher = model.text_forward(torch.tensor([text])).logits[0]
    count = len(row.response)
    at_student, at_teacher = (
        slice(len(logits) - count + first, len(logits) + first or None) for logits in (student, teacher)
    )
    assert float(terms["response_kl"]) == pytest.approx(kl(student[at_student], teacher[at_teacher]), rel=1e-4)
    if "response_ce" in losses:
        predicted = student[-count - 1 : -1].log_softmax(-1)
        wanted = -predicted[range(count), list(row.response)].mean()
        assert float(terms["response_ce"]) == pytest.approx(float(wanted), rel=1e-4)


def test_the_teacher_of_response_kl_sees_the_emotion(plan: Plan) -> None:
    """Another label alone makes another loss, unless the teacher's prompt hides it."""
    model, processor = build_model(replace(plan, stage=stage()), attention="eager")
    found = {}
    for teacher_prompt in (None, "continue-speech"):
        for emotion in ("sad", "happy"):
            task = TaskOptions(prompt="continue-speech", teacher_prompt=teacher_prompt)
            changed = replace(plan, stage=stage(tasks=(task,)))
            made = example(changed, emotion)
            row = RowMaker(processor.tokenizer, changed.stage).make(0, made, task)
            batch = _collator(changed, [made], model, processor, None)([row])
            with torch.no_grad():
                loss = Objective(model, changed.stage)(batch, changed.stage.losses)
            found[teacher_prompt, emotion] = float(loss.total)
    assert found[None, "sad"] != pytest.approx(found[None, "happy"], rel=1e-3)
    assert found["continue-speech", "sad"] == pytest.approx(found["continue-speech", "happy"], rel=1e-6)


def test_losses_of_pieces_train_as_those_of_all_logits(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {"response_kl": 1.0, "response_ce": 0.5}
    plan = replace(plan, stage=stage(losses=losses))
    model, processor = build_model(plan, attention="eager")
    made = example(plan, "sad")
    row = RowMaker(processor.tokenizer, plan.stage).make(0, made, plan.stage.tasks[0])
    batch = _collator(plan, [made], model, processor, None)([row])
    objective = Objective(model.eval(), plan.stage)
    assert objective.in_pieces
    found = []
    for most in (predictions.MOST_LOGITS, 3 * model.config.text_config.vocab_size):
        for name in ("MOST_LOGITS", "MOST_ALONE"):
            monkeypatch.setattr(predictions, name, most)
        model.zero_grad()
        loss = objective(batch, losses)
        loss.total.backward()
        found.append((loss.total, *(p.grad.clone() for p in model.parameters() if p.grad is not None)))
    assert len(row.response) > 3 and len(found[0]) > 3
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kl_at", ["prediction", "token"])
def test_a_step_of_cached_states_never_waits_for_the_device(plan: Plan, kl_at: str) -> None:
    """On torch's meta device nothing has a value: whatever asks for one, or for how many a mask holds, raises."""
    losses = {"response_kl": 1.0, "response_ce": 1.0, "input_er": 1.0}
    plan = replace(plan, stage=stage(losses=losses, kl_at=kl_at))
    model, processor = build_model(plan, attention="eager")
    made, task = example(plan, "sad"), plan.stage.tasks[0]
    row = RowMaker(processor.tokenizer, plan.stage).make(0, made, task)
    batch = _collator(plan, [made, made], model, processor, None)([row, replace(row, index=1)])
    with torch.no_grad():
        batch["speech"] = {"speech": model.encode_audio(**batch["speech"])}
    objective = Objective(model, plan.stage).train()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, device="meta").tolist()
    loss = objective.to("meta")(on_meta(batch), losses)
    loss.total.backward()
    assert loss.total.device.type == "meta" and set(loss.terms) == set(losses)


def on_meta(value: object) -> object:
    if isinstance(value, dict):
        return {name: on_meta(inner) for name, inner in value.items()}
    return value.to("meta") if isinstance(value, Tensor | EncodedAudio) else value


def test_only_what_is_said_is_read_in_training_too(plan: Plan) -> None:
    """Its rows are those that are laid out by the number of tokens that stay; CTC hears all."""
    losses = {"response_ce": 1.0, "adapter_ctc": 0.5}
    adapter = plan.model.adapter.model_copy(update={"spoken_only": True})
    plan = replace(plan, stage=stage(losses=losses), model=plan.model.model_copy(update={"adapter": adapter}))
    model, processor = build_model(plan)
    made = [example(plan, "sad"), replace(example(plan, "happy"), key="b", audio=str(plan.data[0].parent / "7.wav"))]
    maker = RowMaker(processor.tokenizer, plan.stage)
    rows = [maker.make(i, each, plan.stage.tasks[0]) for i, each in enumerate(made)]
    batch = _collator(plan, made, model, processor, None)(rows)
    with torch.no_grad():
        whole = super(type(model), model).encode_speech(**batch["speech"])
        best = (whole.embeddings @ model.get_input_embeddings().weight.T).amax(-1)
        mean = whole.embeddings[whole.mask()].mean(0)
        model.ctc_blank.copy_(mean * float(best[whole.mask()].median() / mean.square().sum()))
        speech = model.encode_speech(**batch["speech"])
        assert 0 < int(speech.lengths.sum()) < int(whole.lengths.sum())
        found = Objective(model, plan.stage)(batch, losses).terms
        mean_loss, tokens = 0.0, 0
        for i, row in enumerate(rows):
            n, count = int(speech.lengths[i]), len(row.response)
            ids = (*row.prefix, *[model.config.speech_token_id] * n, *row.suffix, *row.response)
            one = type(speech)(speech.embeddings[i : i + 1, :n], speech.lengths[i : i + 1])
            logits = model(torch.tensor([ids]), speech=one).logits[0, -count - 1 : -1].log_softmax(-1)
            mean_loss -= float(logits[range(count), list(row.response)].sum())
            tokens += count
        model.config.adapter = model.config.adapter.model_copy(update={"spoken_only": False})
        all_given = Objective(model, plan.stage)(batch, losses).terms
    assert float(found["response_ce"]) == pytest.approx(mean_loss / tokens, rel=1e-4)
    assert float(found["adapter_ctc"]) == pytest.approx(float(all_given["adapter_ctc"]), rel=1e-5)
    assert float(found["response_ce"]) != pytest.approx(float(all_given["response_ce"]), rel=1e-4)
