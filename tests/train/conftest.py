"""A plan of training on tiny parts and twelve hums, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import tiny_world

from re_llm.core.records import Continuation, write_records
from re_llm.recipe.config import Components
from re_llm.recipe.options import AdapterOptions, LoraOptions, ModelOptions
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train import setup
from re_llm.train.plan import Plan
from re_llm.train.run import train

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


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan, Path, int], None]:
    """Trains until a step and dies there."""

    def dies(plan: Plan, out: Path, step: int) -> None:
        class Dies(setup.ReLlmTrainer):
            def training_step(self, *args, **kwargs):
                if self.state.global_step == step:
                    raise KeyboardInterrupt
                return super().training_step(*args, **kwargs)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(setup, "ReLlmTrainer", Dies)
            train(plan, out, progress=False)

    return dies
