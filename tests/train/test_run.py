"""A whole training run on tiny parts: it learns, resumes exactly, caches, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_world
import torch
from safetensors.torch import load_file
from test_resume import weights

from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.recipe.config import Components
from re_llm.recipe.options import AdapterOptions, ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.data import load_examples
from re_llm.train.features import build_features
from re_llm.train.identity import segment_ids
from re_llm.train.plan import Plan, build_model
from re_llm.train.run import train


def test_a_run_learns_logs_every_term_and_answers(plan: Plan, tmp_path: Path) -> None:
    longer = replace(plan, stage=plan.stage.model_copy(update={"max_steps": 40}))
    report = train(longer, tmp_path / "out", progress=False)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert {"loss", "response_ce", "response_kl", "input_er", "input_er_avd", "learning_rate"} <= set(log[0])
    steps = [entry for entry in log if "learning_rate" in entry]
    assert steps[-1]["input_er"] < steps[0]["input_er"] and steps[-1]["response_ce"] < steps[0]["response_ce"]
    assert (report.steps, report.examples) == (40, 12)
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert (tmp_path / "out" / "provenance.json").is_file()
    reply = engine.load(tmp_path / "out", device="cpu").respond(plan.data[0].parent / "0.wav", max_new_tokens=4)
    assert reply.finish_reason in ("stop", "length") and abs(sum(reply.probabilities.values()) - 1) < 1e-5
    rows = [json.loads(line) for file in plan.data for line in file.read_text().splitlines()]
    trained = json.loads((tmp_path / "out" / "config.json").read_text())["trained_seconds"]
    assert trained == (None if any(row.get("duration") is None for row in rows) else max(r["duration"] for r in rows))


def test_a_fetched_part_keeps_its_name(
    plan: Plan, parts: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)
    shutil.copytree(parts.llm, tmp_path / "parts" / "llm-base")
    named = parts.model_copy(update={"llm": "small:llm-base"})
    model, processor = build_model(replace(plan, components=named))
    assert model.component_sources["llm"] == "small:llm-base" and len(processor.tokenizer) > 100


def test_the_curves_can_be_tracked(plan: Plan, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="extra `track`")
    train(plan, tmp_path / "out", progress=False, track="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    written = [
        event.value for tag in events.Tags()["scalars"] if "input_er_avd" in tag for event in events.Scalars(tag)
    ]
    assert written == pytest.approx([entry["input_er_avd"] for entry in log if "input_er_avd" in entry])


def test_cached_states_are_those_of_the_recordings(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "cached", progress=False)
    model, processor = build_model(plan)
    examples = load_examples(plan.data, plan.stage, plan.emotions, processor.tokenizer).examples
    folder = tmp_path / "cached" / "features"
    store = build_features(folder, examples, segment_ids(examples, folder), model.eval(), processor, progress=False)
    keys = [f"hums/{i}" for i in (3, 0)]
    cached = store.batch(keys)
    inputs = processor.audio_inputs([tiny_world.wave(1.3, 3), tiny_world.wave(1.0, 0)])
    with torch.no_grad():
        fresh = model.eval().encode_audio(**inputs)
    assert cached.speech_lengths.tolist() == fresh.speech_lengths.tolist()
    assert torch.allclose(cached.speech_states, fresh.speech_states, atol=2e-2)
    assert torch.allclose(cached.emotion_states, fresh.emotion_states, atol=1e-3)


def test_the_store_is_used_again_and_never_for_other_encoders(plan: Plan, tmp_path: Path) -> None:
    features = tmp_path / "features"
    train(plan, tmp_path / "one", features=features, progress=False)
    (states,) = features.glob("speech-*/states.bin")
    before = states.read_bytes()
    without = replace(
        plan,
        model=plan.model.model_copy(update={"fusion": "none"}),
        stage=plan.stage.model_copy(update={"losses": {"response_ce": 1.0}, "max_steps": 2}),
    )
    train(without, tmp_path / "two", features=features, progress=False)
    assert list(features.glob("speech-*/states.bin")) == [states] and states.read_bytes() == before
    other = tiny_world.save_whisper(tmp_path / "other", seed=9)
    changed = replace(without, components=without.components.model_copy(update={"speech_encoder": str(other)}))
    train(changed, tmp_path / "three", features=features, progress=False)
    assert len(list(features.glob("speech-*/states.bin"))) == 2 and states.read_bytes() == before


def test_the_speech_encoder_can_be_trained_too(plan: Plan, tmp_path: Path) -> None:
    stage = plan.stage.model_copy(update={"train": ("adapter", "speech_encoder", "heads", "lora"), "max_steps": 2})
    train(replace(plan, stage=stage), tmp_path / "out", progress=False)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    original = load_file(Path(plan.components.speech_encoder) / "model.safetensors")
    name = "layers.0.fc1.weight"
    mine = next(v for k, v in saved.items() if k.endswith(name) and "speech_encoder" in k)
    theirs = next(v for k, v in original.items() if k.endswith("encoder." + name))
    assert not torch.equal(mine, theirs)


def test_stage_by_stage_the_adapter_is_handed_on(plan: Plan, tmp_path: Path) -> None:
    """Alignment without LoRA and emotion encoder, with the warm-up losses; then RE-LLM continues its adapter."""
    alignment = StageOptions(
        tasks=(TaskOptions(prompt="continue"),), train=("adapter",), losses={"response_kl": 1.0, "adapter_ctc": 0.3},
        warm_losses={"adapter_ctc": 1.0}, warm_steps=2, lr=1e-3, batch_size=4, max_steps=4, precision="fp32",
    )  # fmt: skip
    first = replace(
        plan, stage=alignment, model=ModelOptions(fusion="none", adapter=AdapterOptions(bottleneck=16), lora=None)
    )
    train(first, tmp_path / "first", progress=False)
    second, _ = build_model(replace(plan, start=str(tmp_path / "first")))
    model, _ = build_model(replace(first, start=str(tmp_path / "first")))
    states, lengths = torch.randn(2, 40, 16), torch.tensor([40, 31])
    wide = torch.cat([states, torch.zeros(2, 40, 16)], dim=-1)
    with torch.no_grad():
        assert torch.allclose(
            second.adapter(wide, lengths).embeddings, model.adapter(states, lengths).embeddings, atol=1e-5
        )


def test_a_trained_speech_encoder_goes_on_and_what_was_taken_is_told(plan: Plan, tmp_path: Path) -> None:
    short = {"train": ("adapter", "lora", "heads", "speech_encoder"), "max_steps": 2, "lr": 1e-2}
    heard = replace(plan, stage=plan.stage.model_copy(update=short))
    train(heard, tmp_path / "first", progress=False)
    then = replace(
        plan, stage=plan.stage.model_copy(update={"max_steps": 2}), start=str(tmp_path / "first"),
        model=plan.model.model_copy(update={"frozen_dtype": "float32"}),
    )  # fmt: skip
    report = train(then, tmp_path / "second", progress=False)
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    own = {name: value for name, value in first.items() if name.startswith("speech_encoder.")}
    assert own and all(torch.equal(second[name], value) for name, value in own.items())
    told = json.loads((tmp_path / "second" / "start.json").read_text())
    assert told["taken"]["speech_encoder"] == len(own) and told["left_out"] == {}
    assert sum(told["taken"].values()) == len(first)
    assert f"speech_encoder ({len(own)} tensors)" in report.start
    assert report.start == json.loads((tmp_path / "second" / "report.json").read_text())["start"]


def test_frozen_parts_are_held_as_the_recipe_says(plan: Plan) -> None:
    half, _ = build_model(replace(plan, model=plan.model.model_copy(update={"frozen_dtype": "bfloat16"})))
    assert {p.dtype for p in half.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    listening = plan.stage.model_copy(update={"train": ("adapter", "speech_encoder", "heads")})
    model, _ = build_model(
        replace(plan, stage=listening, model=plan.model.model_copy(update={"frozen_dtype": "bfloat16"}))
    )
    assert {p.dtype for p in model.speech_encoder.parameters()} == {torch.float32}
    assert {p.dtype for p in model.emotion_encoder.parameters()} == {torch.bfloat16}


def test_training_lora_without_lora_is_refused(plan: Plan) -> None:
    with pytest.raises(RellmError, match=r"model\.lora is null"):
        build_model(replace(plan, model=plan.model.model_copy(update={"lora": None})))


def test_a_missing_recording_is_named(plan: Plan, tmp_path: Path) -> None:
    copy = tmp_path / "c.jsonl"
    shutil.copy(plan.data[0], copy)
    with pytest.raises(RellmError, match=r"0\.wav|1\d?\.wav"):
        train(replace(plan, data=(copy,)), tmp_path / "out", progress=False)
