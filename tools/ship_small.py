"""Puts a trained checkpoint in the place of the shipped small:re-llm, in half precision, with the same names of parts.

    python tools/ship_small.py runs/small-train/checkpoints/rejoined

The checkpoint was continued from small:re-llm or made by the same recipe: it has the same tensors. Its
`words_unsure_below` (`re-llm small limit`), length of training speech and report.json are taken over.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from re_llm.core.assets import SMALL_MODEL, resolve_component
from re_llm.core.files import write_json

WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path, help="folder of the trained checkpoint")
    checkpoint, shipped = arguments.parse_args().checkpoint, Path(resolve_component(SMALL_MODEL))
    new = {name: load_file(checkpoint / name) for name in WEIGHTS}
    for name, tensors in new.items():
        old = {key: tensor.shape for key, tensor in load_file(shipped / name).items()}
        if {key: tensor.shape for key, tensor in tensors.items()} != old:
            raise SystemExit(f"{checkpoint / name} has other tensors than the shipped one")
        largest = max(float(tensor.abs().max()) for tensor in tensors.values())
        if not largest < torch.finfo(torch.float16).max:
            raise SystemExit(f"{checkpoint / name} does not fit into half precision: {largest:g}")
    about, trained = (json.loads((folder / "config.json").read_text()) for folder in (shipped, checkpoint))
    about["trained_seconds"] = max(about["trained_seconds"], trained["trained_seconds"])
    about["words_unsure_below"] = trained["words_unsure_below"]
    for name, tensors in new.items():
        halves = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
        save_file(halves, shipped / name, metadata={"format": "pt"})
    write_json(shipped / "config.json", about)
    write_json(shipped / "report.json", json.loads((checkpoint / "report.json").read_text()))
    for name in WEIGHTS:
        print(f"{shipped / name}: {(shipped / name).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
