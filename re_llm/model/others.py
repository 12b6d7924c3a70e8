"""The logsumexp over a vocabulary without the few entries that are scored anyway.

CTC asks for the probabilities of a transcript's own tokens and of the blank. What all other tokens of the LLM weigh is
one number a frame, and its gradient one vector. So the logits of a whole vocabulary are held for a few frames at a time
and computed once, and nothing is computed for padding.

Shapes: N frames, V vocabulary, D width, K scored tokens of a frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

PIECE = 2**23  # logits held at once: 32 MB


class _Others(torch.autograd.Function):
    """log sum_v exp(h v) over the vocabulary without the scored tokens; its gradient is the mean of v by softmax."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, vocabulary: Tensor, scored: Tensor, weights: Tensor | None) -> Tensor:
        half = vocabulary.dtype == torch.bfloat16
        table = vocabulary if half else vocabulary.float()
        sums = frames.new_empty(len(frames), dtype=torch.float32)
        means = torch.empty_like(frames, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        for piece in torch.arange(len(frames), device=frames.device).split(max(1, PIECE // len(table))):
            at = slice(int(piece[0]), int(piece[-1]) + 1)
            logits = (frames[at].to(table.dtype) @ table.T).float()
            if weights is not None:
                logits += weights
            logits.scatter_(1, scored[at], -torch.inf)
            sums[at] = logits.logsumexp(1)
            if means is not None:
                logits.sub_(sums[at, None]).exp_()
                means[at] = (logits.to(table.dtype) @ table).float()
        if means is not None:
            ctx.save_for_backward(means)
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (means,) = ctx.saved_tensors
        return gradient[:, None] * means, None, None, None


def others(frames: Tensor, vocabulary: Tensor, scored: Tensor, sample: int | None = None) -> Tensor:
    """What all tokens weigh together that are not scored: their logsumexp, [N] in float32.

    Args:
        frames: [N, D] float32.
        vocabulary: [V, D], which gets no gradient. In bfloat16 the products are bfloat16 as well.
        scored: [N, K] token ids that are left out of each frame's sum; an id may stand there twice.
        sample: an estimate (sampled softmax, Jean et al. 2015): of the tokens that no frame scores this many, drawn
            anew in every call, stand for all; those that some frame scores are all counted. None = all tokens.
    """
    table, weights = vocabulary.detach(), None
    used = scored.unique() if sample is not None else None
    if used is not None and sample is not None and len(used) + sample < len(table):
        unused = torch.ones(len(table), dtype=torch.bool, device=table.device)
        unused[used] = False
        left = unused.nonzero()[:, 0]
        drawn = left[torch.randperm(len(left))[:sample].to(left.device)]
        chosen = torch.cat([used, drawn])
        weights = torch.zeros(len(chosen), device=table.device)
        weights[len(used) :] = math.log(len(left) / sample)
        scored, table = torch.searchsorted(used, scored), table[chosen]
    found: Tensor = _Others.apply(frames, table, scored, weights)
    return found
