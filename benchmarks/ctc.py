"""CTC against an LLM's vocabulary: the loss of this package beside the formula over all logits at once.

Random states at the size of SmolLM2-135M (49,152 tokens, 576 wide), 32 utterances of 2 to 5.5 s, forward and backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from _common import head, peak_memory
from torch import Tensor

from re_llm.model import losses

REPEATS = 5
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
    print("| vocabulary in | whole vocabulary at once | this package | ratio | losses |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        given = (speech, lengths, table.to(dtype), blank, targets, counts)
        values = [float(loss(*given).detach()) for loss in (plain, losses.adapter_ctc)]
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(REPEATS):  # in turn
            for loss, kept in zip((losses.adapter_ctc, plain), taken, strict=True):
                kept.append(seconds(loss, given))
        ours, others = (median(each) for each in taken)
        name = str(dtype).removeprefix("torch.")
        print(f"| {name} | {others:.2f} s | {ours:.2f} s | {others / ours:.1f} | {values[0]:.4f}, {values[1]:.4f} |")
    print(f"\nprocessor time, medians of {REPEATS}; peak of the process {peak_memory():.0f} MB")


if __name__ == "__main__":
    main()
