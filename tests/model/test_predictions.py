"""Losses in pieces against the same losses on all logits at once: values and gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from re_llm.model import losses, predictions
from re_llm.model.predictions import Predictions, mean_cross_entropy, mean_loss

K, D, V = 23, 16, 50


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MOST_LOGITS", 4 * V)
    monkeypatch.setattr(predictions, "MOST_ALONE", 4 * V)


def states(seed: int) -> torch.Tensor:
    return torch.randn(K, D, generator=torch.Generator().manual_seed(seed))


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(D, V, bias=False).requires_grad_(False)


def gradient(loss: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(3.0 * loss, of)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [4 * V, 1000 * V])
@pytest.mark.parametrize("cached", [V, 3 * V, 1000 * V])
@pytest.mark.parametrize("weights", [None, torch.linspace(0.01, 6, K)])
def test_cross_entropy_in_pieces_is_that_of_all_logits(
    dtype: torch.dtype, most: int, cached: int, weights: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "MOST_ALONE", most)
    monkeypatch.setattr(predictions, "CACHED_LOGITS", cached)
    output, one, other = (each.to(dtype) for each in (layer(), states(1), states(1)))
    one, other = one.requires_grad_(), other.requires_grad_()
    targets = torch.arange(K) % V
    targets[3:9] = losses.IGNORE_INDEX
    found = mean_cross_entropy(Predictions(one, output), targets, weights)
    wanted = losses.response_ce(output(other), targets, weights)
    torch.testing.assert_close(found, wanted)
    rounded = {} if dtype == torch.float32 else {"atol": 1e-3, "rtol": 0.02}  # in another order
    torch.testing.assert_close(gradient(found, one), gradient(wanted, other), **rounded)
    with torch.no_grad():
        torch.testing.assert_close(mean_cross_entropy(Predictions(one, output), targets, weights), wanted)


@pytest.mark.parametrize("weights", [None, torch.ones(K)])
def test_cross_entropy_without_a_target_is_zero(weights: torch.Tensor | None) -> None:
    none = torch.full((K,), losses.IGNORE_INDEX)
    one = states(1).requires_grad_()
    found = mean_cross_entropy(Predictions(one, layer()), none, weights)
    assert found == 0 and not gradient(found, one).any()


def test_cross_entropy_of_logits_that_are_there() -> None:
    logits = torch.randn(K, V, requires_grad=True)
    targets = torch.arange(K) % V
    found, wanted = mean_cross_entropy(Predictions(logits), targets), losses.response_ce(logits, targets)
    assert found == wanted and torch.equal(gradient(found, logits), gradient(wanted, logits))


def test_divergence_from_a_teacher_in_pieces_is_that_of_all_logits(small_pieces: None) -> None:
    output, one, other, teacher = layer(), states(1).requires_grad_(), states(1).requires_grad_(), states(2)
    kl = partial(losses.response_kl, temperature=2.0)
    found = mean_loss(kl, Predictions(one, output), Predictions(teacher, output))
    wanted = kl(output(other), output(teacher))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, one), gradient(wanted, other))


def test_never_more_logits_than_a_piece(small_pieces: None) -> None:
    output, seen = layer(), list[int]()
    output.register_forward_hook(lambda _, args, made: seen.append(made.numel()))
    mean_cross_entropy(Predictions(states(1).requires_grad_(), output), torch.zeros(K, dtype=torch.long))
    assert max(seen) <= 4 * V and len(seen) == -(-K // 4)


def test_without_gradient_nothing_is_kept(small_pieces: None) -> None:
    output = layer()
    with torch.no_grad():
        found = mean_loss(losses.response_ce, Predictions(states(1), output), torch.zeros(K, dtype=torch.long))
    assert not found.requires_grad
    torch.testing.assert_close(found, losses.response_ce(output(states(1)), torch.zeros(K, dtype=torch.long)))


def test_half_precision_keeps_the_dtype_of_the_gradient(small_pieces: None) -> None:
    output, one = layer().bfloat16(), states(1).bfloat16().requires_grad_()
    found = mean_loss(losses.response_ce, Predictions(one, output), torch.zeros(K, dtype=torch.long))
    assert gradient(found, one).dtype == torch.bfloat16 and found.dtype == torch.float32
