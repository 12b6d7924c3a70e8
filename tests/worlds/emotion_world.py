"""Recordings whose emotion can be heard: three pitches, by speakers of different loudness, as manifests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from re_llm.core.records import Utterance, write_records
from re_llm.recipe.emotion import EmotionRecipe

PITCH = {"sad": 200.0, "happy": 700.0, "angry": 1900.0}  # Hz


def wave(emotion: str, seed: int, seconds: float = 0.4) -> np.ndarray:
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    tone = np.sin(2 * np.pi * PITCH[emotion] * draw.uniform(0.95, 1.05) * time)
    return (draw.uniform(0.05, 0.3) * tone + 0.005 * draw.standard_normal(len(time))).astype(np.float32)


def manifest(
    folder: Path,
    corpus: str = "toy",
    *,
    speakers: int = 6,
    each: int = 3,
    emotions: tuple[str, ...] = tuple(PITCH),
    splits: dict[str, str] | None = None,
) -> Path:
    """Writes recordings and their manifest. `splits`: speaker -> split."""
    rows = []
    for speaker in range(speakers):
        for emotion in emotions:
            for number in range(each):
                name = f"{corpus}-{speaker}-{emotion}-{number}.wav"
                folder.mkdir(parents=True, exist_ok=True)
                seed = sum(map(ord, name)) * 31 + 7 * speaker + number
                soundfile.write(folder / name, wave(emotion, seed), 16_000)
                rows.append(
                    Utterance(
                        key=name.removesuffix(".wav"),
                        corpus=corpus,
                        split=(splits or {}).get(f"s{speaker}", "all"),
                        audio=name,
                        speaker=f"s{speaker}",
                        emotion=emotion,
                    )
                )
    path = folder / f"{corpus}.jsonl"
    write_records(path, rows)
    return path


def recipe(whisper: Path, **changes: object) -> EmotionRecipe:
    """Small, and for the tiny Whisper of `tests/model/tiny_world.py`."""
    encoder = {
        "kind": "shared", "speech_encoder": str(whisper), "layers": [0, 1, 2], "pool": 5,
        "attention_size": 4, "hidden_size": 16,
    }  # fmt: skip
    settings = {
        "kind": "emotion", "name": "toy", "title": "Toy", "emotion_encoder": encoder, "emotions": list(PITCH),
        "augment": {"copies": 1, "silence": 0.2},
        "fit": {"epochs": 10, "batch_size": 16, "utterances": 160, "lr": 5e-3, "weight_decay": 0.01, "dropout": 0.1},
        **changes,
    }  # fmt: skip
    return EmotionRecipe.model_validate(settings)
