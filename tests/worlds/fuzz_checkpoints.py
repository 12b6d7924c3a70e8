"""Damaged checkpoints, parts and released checkpoints: what is wrong in them is the user's error, or is an answer."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden_world as golden
import numpy as np
import tiny_world
import torch
from fuzz_text import ODD
from mutations import mutated

from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.model import ReLlmForConditionalGeneration, ReLlmProcessor
from re_llm.model.convert.run import convert

WAVE = tiny_world.wave(0.5)
# Values beside those of any JSON: numbers and words that a config takes, in the wrong place or of the wrong size.
MORE = (
    "0", "3", "7", "1e9", "2147483647", "1e-9", '"0"', '"gelu"', '"none"', "[0]", "[1, 2, 3]", '["a"]', '"float64"',
    '"bfloat16"', '"../.."', '"/"', '"a/b"', '"qwen2"', '"whisper"', '"re_llm"', "[null]", "{}", "65536", "-3", "17",
)  # fmt: skip


def write_checkpoint(root: Path, *, self_contained: bool) -> Path:
    """A tiny checkpoint; without `self_contained` its parts lie beside it."""
    parts = (
        tiny_world.save_llm(root / "llm"), tiny_world.save_whisper(root / "whisper"),
        tiny_world.save_emotion(root / "emotion"),
    )  # fmt: skip
    torch.manual_seed(0)
    options = {"adapter": tiny_world.ADAPTER}
    model = ReLlmForConditionalGeneration.from_components(*parts, **options, lora={"r": 2})
    model.save_pretrained(root / "checkpoint", self_contained=self_contained)
    ReLlmProcessor.from_components(*parts, **options).save_pretrained(root / "checkpoint")
    return root / "checkpoint"


def write_released(root: Path) -> Path:
    """A released BLSP-Emo with LoRA, recorded with random weights."""
    folder = root / "released"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(golden.FOLDER / "blsp_b_lora_audio" / name, folder)
    (folder / "generation_config.json").write_text(
        json.dumps({"chat_format": "chatml", "top_p": 0.8, "do_sample": True})
    )
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "chunk_length": 30}))
    return folder


def respond(folder: Path) -> None:
    """Loads a checkpoint and lets it answer."""
    engine.load(folder, device="cpu").respond(WAVE, max_new_tokens=2)


def build(root: Path) -> None:
    """Joins parts to a fresh model."""
    ReLlmForConditionalGeneration.from_components(
        root / "llm", root / "whisper", root / "emotion", adapter=tiny_world.ADAPTER, lora={"r": 2}
    )
    ReLlmProcessor.from_components(root / "llm", root / "whisper", root / "emotion", adapter=tiny_world.ADAPTER)


def converted(folder: Path) -> None:
    """Converts a released checkpoint, and back when that went well."""
    for name in ("ours", "back"):
        shutil.rmtree(folder.parent / name, ignore_errors=True)
    convert(folder, folder.parent / "ours", progress=False)
    convert(folder.parent / "ours", folder.parent / "back", to="blsp-emo", progress=False)


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "whole": (lambda root: write_checkpoint(root, self_contained=True), respond),
    "over parts": (lambda root: write_checkpoint(root, self_contained=False), respond),
    "parts": (lambda root: write_checkpoint(root, self_contained=False).parent, build),
    "released": (write_released, converted),
}


def damaged(files: dict[Path, bytes], seed: int, count: int) -> Iterator[tuple[Path, bytes]]:
    """(file, damaged content): a JSON file with odd values or structure, or any file with damaged bytes."""
    names = sorted(files)
    texts = [name for name in names if name.suffix == ".json"]
    for number in range(count):
        rng = random.Random(f"{seed}:{number}")
        if number % 3:
            name = rng.choice(texts)
            yield name, odd_json(json.loads(files[name]), rng)
        else:
            name = rng.choice(names)
            yield name, next(mutated([files[name]], seed * 1_000_003 + number, 1))


def odd_json(value: Any, rng: random.Random) -> bytes:
    """The value as JSON in which one to three members are another value, another name, or gone."""
    for i in range(rng.randint(1, 3)):
        place = value
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
                what = rng.random()
                if what < 0.1:
                    del place[key]
                elif what < 0.2 and isinstance(place, dict):
                    place[f"{key}_"] = place.pop(key)
                else:
                    place[key] = f"\0{i}"  # stands for a value that `json` itself could not write
                break
            place = place[key]
    text = json.dumps(value)
    for i in range(3):
        text = text.replace(json.dumps(f"\0{i}"), rng.choice((*ODD, *MORE)))
    return text.encode("utf-8", "surrogatepass")


def use_damaged(kind: str, root: Path, seed: int, count: int) -> int:
    """Writes damaged files of a kind and uses them; returns how often that is refused. Anything else escapes."""
    write, use = KINDS[kind]
    folder = write(root)
    use(folder)  # whole, it works
    paths = [path for path in (folder if kind != "parts" else root).rglob("*") if path.is_file()]
    if kind == "parts":
        paths = [path for path in paths if "checkpoint" not in path.parts]
    files = {path: path.read_bytes() for path in paths}
    refused = 0
    for path, content in damaged(files, seed, count):
        path.write_bytes(content)
        try:
            with np.errstate(all="ignore"):
                use(folder)
        except RellmError:
            refused += 1
        except BaseException as error:
            error.add_note(f"{path.relative_to(root)}, damaged: {content[:2000]!r}")
            raise
        finally:
            path.write_bytes(files[path])
    return refused
