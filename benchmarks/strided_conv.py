"""The adapter's convolutions in training: torch's own beside a product of matrices, forwards and both gradients.

Sizes of the laptop benchmark (1,024 channels to 2,048), of a wider adapter (1,792 to 3,584), of the small model (576 to
1,152, kernel 3); utterances of 4 s, stride 2, one thread, processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from _common import head

import torch  # isort: skip - after _common, which sets the environment
from torch import Tensor, nn

from re_llm.model.adapter import StridedConv

REPEATS = 5
SIZES = ((4, 1024, 2048, 5), (16, 1024, 2048, 5), (4, 1792, 3584, 5), (2, 576, 1152, 3), (32, 576, 1152, 3))


def milliseconds(conv: Callable[[Tensor], Tensor], hidden: Tensor, half: bool) -> float:
    """Of a forward and a backward pass."""
    begun = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        found = conv(hidden)
    found.float().sum().backward()
    return 1e3 * (time.process_time() - begun)


def main() -> None:
    head("Strided convolutions of the adapter in training")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| utterances, channels, kernel | precision | torch, ms | this package, ms | ratio |\n|---|---|---|---|---|")
    for count, channels, out, kernel in SIZES:
        plain = nn.Conv1d(channels, out, kernel, 2, kernel // 2)
        ours = StridedConv(channels, out, kernel, 2, kernel // 2)
        ours.load_state_dict(plain.state_dict())
        hidden = torch.randn(count, channels, 200, requires_grad=True)
        for half in (True, False):
            ways = (plain, ours)
            taken: tuple[list[float], ...] = ([], [])
            for turn in range(REPEATS + 1):
                for way, kept in zip(ways, taken, strict=True):
                    spent = milliseconds(way, hidden, half)
                    if turn:
                        kept.append(spent)
            theirs, own = (median(kept) for kept in taken)
            name = "bfloat16" if half else "float32"
            print(
                f"| {count}, {channels} to {out}, {kernel} | {name} | {theirs:.0f} | {own:.0f} | {theirs / own:.2f} |"
            )
    print(f"\nmedians of {REPEATS}")


if __name__ == "__main__":
    main()
