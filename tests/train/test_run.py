"""A whole training run on tiny parts: it learns, resumes exactly, caches, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import tiny_world
import torch
from safetensors.torch import load_file

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, write_records
from re_llm.inference import engine
from re_llm.recipe.config import Components, StageOptions, TaskOptions
from re_llm.recipe.options import AdapterOptions, LoraOptions, ModelOptions
from re_llm.train import run
from re_llm.train.features import FeatureStore
from re_llm.train.run import Plan, build_model, train

EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Components:
    root = tmp_path_factory.mktemp("parts")
    return Components(
        llm=str(tiny_world.save_llm(root / "llm")),
        speech_encoder=str(tiny_world.save_whisper(root / "whisper")),
        emotion_encoder=str(tiny_world.save_emotion(root / "emotion")),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve hums of different pitch; the emotion is the pitch."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    for i in range(12):
        soundfile.write(root / f"{i}.wav", tiny_world.wave(1.0 + 0.1 * i, i % 5), 16_000)
        label = EMOTIONS[i % 5]
        known = {"instruction": "", "output": "I hum", "early_stop": False, "llm": "x", "duration": 1.0 + 0.1 * i}
        vad = {"valence": (i % 5) / 5, "arousal": 0.5, "dominance": 0.5}
        rows.append(
            Continuation(key=str(i), corpus="hums", audio=f"{i}.wav", text="a hum", emotion=label, **known, **vad)
        )
    write_records(root / "c.jsonl", rows)
    return root / "c.jsonl"


@pytest.fixture
def plan(parts: Components, data: Path) -> Plan:
    stage = StageOptions(
        tasks=(
            TaskOptions(prompt="continue-speech", fraction=0.6),
            TaskOptions(prompt="recognize", target="emotion", fraction=0.4),
        ),
        losses={"response_ce": 1.0, "response_kl": 0.5, "input_er": 1.0, "input_er_avd": 1.0},
        lr=5e-3, warmup=2, batch_size=4, max_steps=8, save_every=3, precision="fp32",
    )  # fmt: skip
    model = ModelOptions(
        speech_window="trimmed", adapter=AdapterOptions(bottleneck=16), lora=LoraOptions(r=4, dropout=0.1)
    )
    return Plan(parts, model, stage, EMOTIONS, (data,))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "adapter_model.safetensors")}


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


def test_a_resumed_run_equals_an_uninterrupted_one(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(plan, whole, progress=False)

    class Dies(run.ReLlmTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 5:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "ReLlmTrainer", Dies)
        train(plan, broken, progress=False)
    assert (broken / "checkpoints" / "checkpoint-3").is_dir()
    with pytest.raises(RellmError, match=r"other options \(seed differ"):
        train(replace(plan, seed=1), broken, progress=False)
    # A kill or a full disk while a checkpoint is written leaves a part of it: the one before counts.
    torn = broken / "checkpoints" / "checkpoint-4"
    torn.mkdir()
    (torn / "trained.safetensors").write_bytes(b"")
    (torn / "trainer_state.json").write_text('{"global_step": 4,')
    train(plan, broken, progress=False)
    resumed, uninterrupted = weights(broken), weights(whole)
    for name, tensor in uninterrupted.items():
        assert torch.equal(tensor, resumed[name]), name
    again = tmp_path / "again"
    train(replace(plan, seed=1), again, progress=False)
    assert any(not torch.equal(tensor, weights(again)[name]) for name, tensor in uninterrupted.items())


def test_cached_states_are_those_of_the_recordings(plan: Plan, tmp_path: Path) -> None:
    train(plan, tmp_path / "cached", progress=False)
    model, processor = build_model(plan)
    store = FeatureStore(tmp_path / "cached" / "features")
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
    before = (features / "states.bin").stat().st_mtime_ns
    without = replace(
        plan,
        model=plan.model.model_copy(update={"fusion": "none"}),
        stage=plan.stage.model_copy(update={"losses": {"response_ce": 1.0}, "max_steps": 2}),
    )
    train(without, tmp_path / "two", features=features, progress=False)
    assert (features / "states.bin").stat().st_mtime_ns == before
    other = tiny_world.save_whisper(tmp_path / "other", seed=9)
    changed = replace(without, components=without.components.model_copy(update={"speech_encoder": str(other)}))
    train(changed, tmp_path / "three", features=features, progress=False)
    assert (features / "states.bin").stat().st_mtime_ns != before


def test_the_speech_encoder_can_be_trained_too(plan: Plan, tmp_path: Path) -> None:
    stage = plan.stage.model_copy(update={"train": ("adapter", "speech_encoder", "heads", "lora"), "max_steps": 2})
    train(replace(plan, stage=stage), tmp_path / "out", progress=False)
    saved = weights(tmp_path / "out")
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


def test_training_lora_without_lora_is_refused(plan: Plan) -> None:
    with pytest.raises(RellmError, match=r"model\.lora is null"):
        build_model(replace(plan, model=plan.model.model_copy(update={"lora": None})))


def test_a_missing_recording_is_named(plan: Plan, tmp_path: Path) -> None:
    copy = tmp_path / "c.jsonl"
    shutil.copy(plan.data[0], copy)
    with pytest.raises(RellmError, match=r"0\.wav|1\d?\.wav"):
        train(replace(plan, data=(copy,)), tmp_path / "out", progress=False)
