"""Puts a trained checkpoint and its emotion encoder in the place of shipped ones: large matrices and the LoRA in int8.

    python tools/ship_small.py runs/small-train/checkpoints/rejoined runs/emotion-open --name small:re-llm-open
    python tools/ship_small.py runs/small-nc/checkpoints/people runs/emotion
    python tools/ship_small.py runs/small-llm/lora --name small:llm

What the checkpoint has in common with the adapter of `--adapter-of` is left there; the tokenizer is that of small:llm.
`words_unsure_below` (`re-llm small limit`) has to be measured before. The folder's README is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from re_llm.core.assets import OPEN_MODEL, PACKAGE, SHIPPED, SMALL_MODEL
from re_llm.core.files import write_json
from re_llm.core.part_list import PARTS
from re_llm.core.parts import PREFIX
from re_llm.model.weights import in_int8

WEIGHTS, LORA = "model.safetensors", "adapter_model.safetensors"
LLM = f"{PREFIX}llm"
COPIED = ("adapter_config.json", "generation_config.json", "processor_config.json")
ENCODER = ("config.json", WEIGHTS)


def halves(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in half precision.

    Raises:
        SystemExit: one of them does not fit.
    """
    held = load_file(path)
    largest = max(float(tensor.abs().max()) for tensor in held.values() if tensor.is_floating_point())
    if not largest < torch.finfo(torch.float16).max:
        raise SystemExit(f"{path} does not fit into half precision: {largest:g}")
    return {name: (t.half() if t.is_floating_point() else t).contiguous() for name, t in held.items()}


def put(checkpoint: Path, emotion: Path, target: Path, adapter_of: Path | None) -> None:
    """Writes the folder `target`, and `emotion` beside it.

    Raises:
        SystemExit: the checkpoint lacks what the shipped one needs, or has nothing in common with `adapter_of`.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("words_unsure_below") is None:
        raise SystemExit(f"{checkpoint} has no words_unsure_below: run re-llm small limit first")
    tensors, parts = in_int8(halves(checkpoint / WEIGHTS)), {"llm": "small:llm", "speech_encoder": "small:whisper"}
    if adapter_of is not None:
        other = load_file(adapter_of / WEIGHTS)
        common = [n for n, t in tensors.items() if n.startswith("adapter.") and n in other and torch.equal(t, other[n])]
        if not common:
            raise SystemExit(f"{checkpoint} has nothing in common with the adapter of {adapter_of}")
        tensors = {name: tensor for name, tensor in tensors.items() if name not in common}
        parts["adapter"] = Path(os.path.relpath(adapter_of, target)).as_posix()
    for folder in (target, target.parent / "emotion"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    save_file(in_int8(halves(checkpoint / LORA), least=0), target / LORA, metadata={"format": "pt"})
    for name in COPIED:
        shutil.copyfile(checkpoint / name, target / name)
    report = json.loads((checkpoint / "report.json").read_text())
    write_json(target / "report.json", {k: v for k, v in report.items() if k != "start"})  # it has paths of the machine
    write_json(
        target / "config.json", config | {"careful": True, "components": parts | {"emotion_encoder": "../emotion"}}
    )
    for name in ENCODER:
        shutil.copyfile(emotion / name, target.parent / "emotion" / name)


def put_lora(lora: Path, target: Path) -> None:
    """Writes the LoRA that makes small:llm into the folder `target`, all its matrices in int8."""
    target.mkdir(parents=True, exist_ok=True)
    save_file(in_int8(load_file(lora / LORA), least=0), target / LORA, metadata={"format": "pt"})
    if lora != target:
        shutil.copyfile(lora / COPIED[0], target / COPIED[0])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path, help="folder of the trained checkpoint, or of the LLM's LoRA")
    arguments.add_argument("emotion", type=Path, nargs="?", help="folder of the emotion encoder it was trained with")
    arguments.add_argument("--name", choices=(SMALL_MODEL, OPEN_MODEL, LLM), default=SMALL_MODEL)
    arguments.add_argument("--adapter-of", choices=(OPEN_MODEL,), help="shipped model with which it shares its adapter")
    given = arguments.parse_args()
    if (given.emotion is None) != (given.name == LLM):
        arguments.error(f"{LLM} has no emotion encoder, the other two need theirs")
    if given.name == LLM:
        lora = PARTS[LLM.removeprefix(PREFIX)].lora
        assert lora is not None
        put_lora(given.checkpoint, PACKAGE / lora)
        written = PACKAGE / lora
    else:
        target = PACKAGE / SHIPPED[given.name]
        put(given.checkpoint, given.emotion, target, PACKAGE / SHIPPED[given.adapter_of] if given.adapter_of else None)
        written = target.parent
    for path in sorted(written.rglob("*.safetensors")):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
