"""What the LLM predicts at some positions, and losses on it that never hold all logits at once.

A vocabulary of 150,000 makes half a gigabyte of logits out of a batch of 16 answers, and a loss and its gradient four
more of that size. Here the output layer, the loss and its gradient run over a few positions at a time, and only the
gradient of the output layer's input is kept (as Liger's fused linear cross-entropy does, Hsu et al. 2024).

Shapes: R rows, L row length, K positions, D LLM width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from re_llm.model.losses import counted, response_ce

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration

MOST_LOGITS = 2**24  # held at once with what a loss makes of them: 64 MB in float32, several times
MOST_ALONE = 2**25  # held at once where nothing else of their size is
CACHED_LOGITS = 2**20  # that the cache of a CPU holds with room for their probabilities


@dataclass(frozen=True)
class Predictions:
    """Logits at K positions, or what they are computed from.

    Attributes:
        values: [K, V] logits; with an `output` layer its input [K, D].
        output: the LLM's frozen output layer.
    """

    values: Tensor
    output: nn.Module | None = None

    def __getitem__(self, at: Tensor | slice) -> Predictions:
        return replace(self, values=self.values[at])

    def __len__(self) -> int:
        return len(self.values)

    def logits(self) -> Tensor:
        """[K, V]."""
        return self.values if self.output is None else self.output(self.values)

    def piece(self, most: int) -> int:
        """Positions whose logits are held at once; pieces are of one size, since a small one costs as much to multiply.

        Args:
            most: logits.
        """
        if self.output is None or not len(self):
            return max(1, len(self))
        weight = self.output.weight
        assert isinstance(weight, Tensor)
        pieces = math.ceil(len(self) / max(1, most // weight.shape[0]))
        return math.ceil(len(self) / pieces)


@dataclass(frozen=True)
class TopTokens:
    """The k likeliest tokens at K positions.

    Attributes:
        ids: [K, k] tokens.
        log_p: [K, k] their log-probabilities, float32.
    """

    ids: Tensor
    log_p: Tensor

    def __getitem__(self, at: slice) -> TopTokens:
        return TopTokens(self.ids[at], self.log_p[at])

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    @torch.no_grad()
    def of(cls, predicted: Predictions, k: int, temperature: float) -> TopTokens:
        """Of what an LLM predicts, the logits of a few positions at a time."""
        found = []
        size = predicted.piece(MOST_LOGITS)
        for first in range(0, len(predicted), size):
            logits = predicted[first : first + size].logits().float() / temperature
            found.append(logits.log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1))
        return cls(torch.cat([each.indices for each in found]), torch.cat([each.values for each in found]))


Target = Tensor | Predictions | TopTokens
Loss = Callable[[Tensor, Any], Tensor]


def mean_loss(loss: Loss, student: Predictions, target: Target, counted: Tensor | None = None) -> Tensor:
    """`loss(logits, target)`, a mean over positions, computed piece by piece where the logits are many.

    Args:
        target: [K] labels, or what a teacher predicts; `loss` is given logits of a teacher that has them.
        counted: [K] bool, positions that the mean is over; None = all.
    """
    size = student.piece(MOST_LOGITS)
    if len(student) <= size:
        return loss(student.logits(), _logits(target))
    if counted is None:
        counted = torch.ones(len(student), dtype=torch.bool, device=student.values.device)
    number = counted.sum().clamp(min=1)
    learns = torch.is_grad_enabled() and student.values.requires_grad
    gradient = torch.empty_like(student.values) if learns else None
    total = torch.zeros((), device=student.values.device)
    for first in range(0, len(student), size):
        part = slice(first, first + size)
        states = student.values[part].detach().requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            found = loss(replace(student, values=states).logits(), _logits(target[part]))
            found = found * (counted[part].sum() / number)
        if gradient is not None:
            (gradient[part],) = torch.autograd.grad(found, states)
        total += found.detach()
    return total if gradient is None else _WithGradient.apply(student.values, total, gradient)


def mean_cross_entropy(student: Predictions, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """`losses.response_ce` of predictions, a piece at a time, with the gradient written over the logits.

    Softmax minus the target's 1 is the gradient, so nothing of it is kept for a backward pass. On a CPU a few rows at
    a time stay in its cache while they are gone over: half of the time that the formula takes for a large vocabulary.

    Args:
        targets: [K], IGNORE_INDEX where nothing is learned.
        weights: [K] of the targets in the mean, positive; None = all alike.
    """
    if student.output is None:
        return response_ce(student.values, targets, weights)
    shares = counted(targets, weights)
    shares = shares / shares.sum().clamp(min=torch.finfo(shares.dtype).tiny)
    learns = torch.is_grad_enabled() and student.values.requires_grad
    gradient = torch.empty_like(student.values) if learns else None
    total = torch.zeros((), device=student.values.device)
    size = student.piece(MOST_ALONE)
    for first in range(0, len(student), size):
        part = slice(first, first + size)
        states = student.values[part].detach().requires_grad_(learns)
        with torch.set_grad_enabled(learns):
            logits = replace(student, values=states).logits()
        total += _become_gradient(logits.detach(), targets[part], shares[part])
        if gradient is not None:
            (gradient[part],) = torch.autograd.grad(logits, states, logits.detach())
    return total if gradient is None else _WithGradient.apply(student.values, total, gradient)


@torch.no_grad()
def _become_gradient(logits: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """The cross-entropy of logits [K, V], each times its share [K] and summed, whose gradient takes their place."""
    total = torch.zeros((), device=logits.device)
    size = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    for first in range(0, len(logits), size):
        part = logits[first : first + size]
        weights = shares[first : first + size, None]
        labels = targets[first : first + size, None].clamp(min=0)
        log_p = part.float().log_softmax(-1)
        total -= (log_p.gather(1, labels) * weights).sum()
        p = log_p.exp_()
        part.copy_(p.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=p.dtype)).mul_(weights))
    return total


def _logits(target: Target) -> Tensor | TopTokens:
    """Labels and likeliest tokens as they are; logits of a teacher, without gradient."""
    if not isinstance(target, Predictions):
        return target
    with torch.no_grad():
        return target.logits()


@contextmanager
def only_at(output_layer: nn.Module, where: Tensor | None, states: list[Tensor] | None = None) -> Iterator[None]:
    """The output layer sees the chosen positions [R, L] alone; whatever the LLM does to its logits still happens.

    Args:
        where: bool [R, L], or [K] places in the flattened rows, in whose case nothing waits for a GPU; None = all.
        states: receives the layer's input at the positions, [K, D]; the layer then runs over the first alone.
    """
    if where is None:
        yield
        return

    def choose(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        chosen = args[0][where] if where.dtype is torch.bool else args[0].flatten(0, -2)[where]
        if states is not None:
            states.append(chosen)
            chosen = chosen[:1].detach()
        return (chosen,)

    handle = output_layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logits_are_linear(model: ReLlmForConditionalGeneration) -> bool:
    """Whether a frozen output layer alone makes the logits, with no cap or scale behind it (Gemma 2, Granite)."""
    layer, states = model.get_output_embeddings(), list[Tensor]()
    if any(p.requires_grad for p in layer.parameters()):
        return False
    embedding = cast(nn.Embedding, model.get_input_embeddings()).weight
    given = torch.linspace(-1, 1, embedding.shape[1], device=embedding.device, dtype=embedding.dtype)
    one = torch.ones(1, 1, dtype=torch.bool, device=embedding.device)
    with model.teacher(), only_at(layer, one, states):
        logits: Tensor = model.language_model(inputs_embeds=given[None, None]).logits
    return torch.equal(logits, layer(states[0]))


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient to `states` is known already."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[0] * gradient).to(gradient.dtype), None, None
