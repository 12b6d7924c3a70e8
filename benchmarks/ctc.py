"""CTC against an LLM's vocabulary: the loss of this package beside the formula over all logits at once.

Random states at the size of SmolLM2-135M (49,152 tokens, 576 wide), 32 utterances of 2 to 5.5 s, forward and backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from _common import head, peak_memory
from torch import Tensor

from re_llm.model import losses

REPEATS = 5
SAMPLE = 8192
VOCABULARY, WIDTH, UTTERANCES, TOKENS = 49_152, 576, 32, 20


def plain(
    speech: Tensor, lengths: Tensor, vocabulary: Tensor, blank: Tensor, targets: Tensor, counts: Tensor
) -> Tensor:
    """The same number, with the log-softmax of all tokens in every frame, padding included."""
    scores = speech.float() @ torch.cat([vocabulary.float(), blank[None]]).T
    logs = scores.log_softmax(-1).transpose(0, 1)
    return torch.nn.functional.ctc_loss(logs, targets, lengths, counts, blank=len(vocabulary), zero_infinity=True)


def seconds(loss: Callable[..., Tensor], given: tuple[Tensor, ...]) -> float:
    """Processor time of one forward and backward pass."""
    speech, _, _, blank, *_ = given
    speech.grad = blank.grad = None
    begun = time.process_time()
    loss(*given).backward()
    return time.process_time() - begun


def main() -> None:
    head("CTC against the vocabulary of an LLM")
    torch.manual_seed(0)
    lengths = torch.randint(25, 70, (UTTERANCES,))
    speech = torch.randn(UTTERANCES, int(lengths.max()), WIDTH, requires_grad=True)
    blank = torch.randn(WIDTH, requires_grad=True)
    targets, counts = torch.randint(0, VOCABULARY, (UTTERANCES, TOKENS)), torch.randint(5, TOKENS, (UTTERANCES,))
    table = 0.05 * torch.randn(VOCABULARY, WIDTH)
    sampled = partial(losses.adapter_ctc, sample=SAMPLE)
    print(f"| vocabulary in | whole vocabulary at once | this package | `ctc_sample: {SAMPLE}` | ratios | losses |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        given = (speech, lengths, table.to(dtype), blank, targets, counts)
        ways: tuple[Callable[..., Tensor], ...] = (plain, losses.adapter_ctc, sampled)
        values = [float(loss(*given).detach()) for loss in ways]
        taken: tuple[list[float], ...] = ([], [], [])
        for _ in range(REPEATS):  # in turn
            for loss, kept in zip(ways, taken, strict=True):
                kept.append(seconds(loss, given))
        others, ours, drawn = (median(each) for each in taken)
        name = str(dtype).removeprefix("torch.")
        spent = f"{others:.2f} s | {ours:.2f} s | {drawn:.2f} s | {others / ours:.1f}, {others / drawn:.1f}"
        print(f"| {name} | {spent} | {', '.join(f'{value:.4f}' for value in values)} |")
    print(f"\nprocessor time, medians of {REPEATS}; peak of the process {peak_memory():.0f} MB")


if __name__ == "__main__":
    main()
