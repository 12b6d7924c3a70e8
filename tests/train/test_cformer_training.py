"""Training a CFormer: one speech token per transcript token, its own two losses, and what does not fit it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny_world
import torch

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, write_records
from re_llm.inference import engine
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.recipe.config import Components
from re_llm.recipe.files import parse_recipe
from re_llm.recipe.options import ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.objective import Objective
from re_llm.train.plan import Plan, build_model
from re_llm.train.run import train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
WORDS = ["go", "go on", "go on and", "go on and on", "go on and on now"]
LOSSES = {"input_kl": 1.0, "response_kl": 1.0, "cif": 1.0}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Components:
    root = tmp_path_factory.mktemp("parts")
    return Components(
        llm=str(tiny_world.save_llm(root / "llm")), speech_encoder=str(tiny_world.save_whisper(root / "whisper"))
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hums that last as long as their words are."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(10):
        text = WORDS[i % 5]
        seconds = 1.0 + 0.1 * len(text)
        soundfile.write(root / f"{i}.wav", tiny_world.wave(seconds, i), 16_000)
        known = {"instruction": "", "output": "I hum", "early_stop": False, "llm": "x", "duration": seconds}
        rows.append(Continuation(key=str(i), corpus="hums", audio=f"{i}.wav", text=text, emotion="sad", **known))
    write_records(root / "c.jsonl", rows)
    return root / "c.jsonl"


@pytest.fixture
def plan(parts: Components, data: Path) -> Plan:
    stage = StageOptions(
        tasks=(TaskOptions(prompt="continue"),), losses=LOSSES, train=("adapter",), lr=5e-3, warmup=2, batch_size=5,
        schedule="cosine", max_steps=60, precision="fp32",
    )  # fmt: skip
    joined = {"adapter": {"kind": "cformer", "pre_layers": 1, "post_layers": 1}}
    model = ModelOptions(fusion="none", speech_window="trimmed", lora=None, **joined)
    return Plan(parts, model, stage, EMOTIONS, (data,))


def test_both_losses_fall_and_as_many_tokens_fire_as_the_transcript_has(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = []

    terms = Objective._speech_terms

    def watched(self, weights, batch, speech):
        fired.append((speech.lengths.tolist(), batch["transcript_lengths"].tolist()))
        return terms(self, weights, batch, speech)

    monkeypatch.setattr(Objective, "_speech_terms", watched)
    train(replace(plan, stage=plan.stage.model_copy(update={"max_steps": 90})), tmp_path / "out", progress=False)
    assert len(fired) == 90 and all(found == wanted for found, wanted in fired)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in log if "learning_rate" in entry]
    for name in LOSSES:
        assert steps[-1][name] < 0.7 * steps[0][name], (name, [entry[name] for entry in steps])
    # Out of training nobody tells it how many there are; it has learned to count.
    heard = engine.load(tmp_path / "out", device="cpu")
    counts = [len(heard.encode([heard.samples(plan.data[0].parent / f"{i}.wav")])[0].embeddings) for i in range(5)]
    wanted = [len(words) for words in WORDS]
    assert sum(abs(a - b) for a, b in zip(counts, wanted, strict=True)) <= 0.35 * sum(wanted)
    assert counts[0] < counts[-1]


def test_input_kl_alone_reads_the_transcript_and_nothing_else(plan: Plan, tmp_path: Path) -> None:
    stage = plan.stage.model_copy(update={"losses": {"input_kl": 1.0}, "max_steps": 3})
    train(replace(plan, stage=stage), tmp_path / "out", progress=False)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1].keys() >= {"input_kl"} and "response_kl" not in log[-1]


def test_cif_alone_needs_no_pass_of_the_llm(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise AssertionError("the LLM ran")

    stage = plan.stage.model_copy(update={"losses": {"cif": 1.0}, "max_steps": 2})
    monkeypatch.setattr(ReLlmForConditionalGeneration, "forward", refuses)
    train(replace(plan, stage=stage), tmp_path / "out", progress=False)


def test_trained_with_the_speech_encoder_and_continued(plan: Plan, tmp_path: Path) -> None:
    """From the recordings instead of cached states; a later stage goes on from the adapter."""
    stage = plan.stage.model_copy(update={"train": ("adapter", "speech_encoder"), "max_steps": 2})
    train(replace(plan, stage=stage), tmp_path / "first", progress=False)
    again, _ = build_model(replace(plan, start=str(tmp_path / "first")))
    first = engine.load(tmp_path / "first", device="cpu").model
    for name, tensor in first.adapter.state_dict().items():
        assert torch.equal(tensor, again.adapter.state_dict()[name]), name


@pytest.mark.parametrize(
    ("losses", "model", "message"),
    [
        ({"cif": 1.0}, {}, "cif needs one speech token per transcript token"),
        ({"input_kl": 1.0}, {}, "set model.adapter.kind to cformer"),
        ({"adapter_ctc": 1.0}, {"adapter": {"kind": "cformer"}}, "adapter_ctc needs more speech tokens"),
    ],
)
def test_losses_of_the_other_adapter_are_refused_at_construction(plan: Plan, losses, model, message) -> None:
    stage = plan.stage.model_copy(update={"losses": losses})
    with pytest.raises(RellmError, match=message):
        replace(plan, stage=stage, model=ModelOptions(fusion="none", **model))
    recipe = {
        "name": "r", "title": "r", "components": plan.components.model_dump(), "model": {"fusion": "none", **model},
        "stages": {"one": {"losses": losses, "lr": 1e-4}},
    }  # fmt: skip
    with pytest.raises(RellmError, match=rf"stage 'one': .*{message}"):
        parse_recipe(json.dumps(recipe))


def test_options_of_the_other_adapter_are_refused() -> None:
    with pytest.raises(ValueError, match="pre_layers is no option of an adapter of the kind 'subsampler'"):
        ModelOptions(adapter={"pre_layers": 2})
    with pytest.raises(ValueError, match="hidden_layers is no option"):
        ModelOptions(adapter={"kind": "cformer", "hidden_layers": 2})
    with pytest.raises(ValueError, match="input_kl needs a teacher"):
        StageOptions(tasks=(TaskOptions(prompt="recognize", target="emotion"),), losses={"input_kl": 1.0}, lr=1e-4)


def test_a_recording_without_words_cannot_train_it(plan: Plan, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in plan.data[0].read_text().splitlines()]
    rows[3]["text"] = " "
    for row in rows:
        row["audio"] = str(plan.data[0].parent / row["audio"])
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RellmError, match="hums/3: no transcript"):
        train(replace(plan, data=(tmp_path / "c.jsonl",)), tmp_path / "out", progress=False)
