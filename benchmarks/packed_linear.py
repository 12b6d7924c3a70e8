"""The output layer of an LLM in a step of decoding on a CPU: as torch multiplies it, and packed once for oneDNN.

    python benchmarks/packed_linear.py

One thread, milliseconds of wall time, medians; widths and vocabularies of `benchmarks/laptop.py` and of SmolLM2-135M.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from _common import head
from torch.nn.functional import linear

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


if __name__ == "__main__":
    main()
