"""An LLM with a LoRA merged into it: how small:llm is made of small:llm-base, on every machine alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from re_llm.core.errors import RellmError
from re_llm.model.weights import LORA_CONFIG, LORA_WEIGHTS, WEIGHTS, stored_file

_PREFIX = "base_model.model."  # in front of the names of peft


def merge_lora(base: Path, lora: Path, out: Path) -> None:
    """Writes the folder of `base` with `lora` added to its weights, in the dtype of each.

    Args:
        lora: folder with the two files of peft; its matrices may be stored in int8 (re_llm.model.weights.in_int8).

    Raises:
        RellmError: the LoRA names a layer that the LLM does not have, or of another shape.
    """
    about = json.loads((lora / LORA_CONFIG).read_text(encoding="utf-8"))
    scale = about["lora_alpha"] / about["r"]
    weights, changes = load_file(base / WEIGHTS), stored_file(lora / LORA_WEIGHTS)
    for name, stored in changes.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        down, up = stored.read(), changes[name.replace(".lora_A.", ".lora_B.")].read()
        held = weights.get(f"{layer}.weight")
        if held is None or held.shape != (up.shape[0], down.shape[1]):
            raise RellmError(f"the LoRA in {lora} does not fit the LLM in {base}: {layer}")
        merged = held.to(torch.float32) + scale * (up.to(torch.float32) @ down.to(torch.float32))
        weights[f"{layer}.weight"] = merged.to(held.dtype)
    out.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.suffix in {".json", ".jinja", ".txt"} and file.name != "part.json":
            shutil.copyfile(file, out / file.name)
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
