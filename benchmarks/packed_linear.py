"""Decoding on a CPU in bfloat16: weights as torch multiplies them, and packed once for oneDNN.

    python benchmarks/packed_linear.py

The output layer alone, widths and vocabularies of `benchmarks/laptop.py` and of SmolLM2-135M; then whole steps of the
first LLM behind 85 tokens. One thread, milliseconds of wall time, medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from _common import head

import torch  # isort: skip - after _common, which sets the environment
from laptop import sizes
from torch.nn.functional import linear
from transformers import DynamicCache, Qwen2ForCausalLM

from re_llm.llm.packed import pack

SIZES = {"512 x 151,936": (512, 151_936), "576 x 49,152": (576, 49_152)}
REPEATS = 15


def median(work: Callable[[], object]) -> float:
    """Milliseconds, after two calls that are not counted."""
    work(), work()
    found = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - begun))
    return sorted(found)[REPEATS // 2]


@torch.inference_mode()
def steps() -> None:
    """Steps of decoding of an LLM, before and behind `pack`."""
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2ForCausalLM(sizes(tiny=False).text).eval()
    torch.set_default_dtype(torch.float32)
    found: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(2):
        for rows, times in found.items():
            cache = DynamicCache(config=model.config)
            model(torch.ones(rows, 85, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
            last = torch.ones(rows, 1, dtype=torch.long)
            times.append(median(lambda last=last, cache=cache: model(last, past_key_values=cache, logits_to_keep=1)))
        pack(model)
    print("\n| LLM, rows | bfloat16 | bfloat16, packed |\n|---|---|---|")
    for rows, times in found.items():
        print(f"| 512 wide, 8 layers, {rows} | " + " | ".join(f"{each:.1f}" for each in times) + " |")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    head("An output layer in bfloat16, plain and packed")
    print("| layer | rows | float32 | bfloat16 | bfloat16, packed | largest difference |\n|---|---|---|---|---|---|")
    for name, (width, vocabulary) in SIZES.items():
        weight = torch.randn(vocabulary, width)
        half = weight.bfloat16()
        for rows in (1, 4, 16):
            wide = torch.randn(rows, width)
            states = wide.bfloat16()
            packed = torch.ops.mkldnn._reorder_linear_weight(half, rows)

            def pointwise(states: torch.Tensor = states, packed: torch.Tensor = packed) -> torch.Tensor:
                found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, None, "none", [], "")
                return found

            far = float((pointwise().float() - linear(states, half).float()).abs().max())
            times = (
                median(lambda x=wide, w=weight: linear(x, w)),
                median(lambda x=states, w=half: linear(x, w)),
                median(pointwise),
            )
            print(f"| {name} | {rows} | " + " | ".join(f"{each:.1f}" for each in times) + f" | {far:g} |", flush=True)
    steps()


if __name__ == "__main__":
    main()
