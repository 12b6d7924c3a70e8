"""The output layer multiplies the last states of a prompt as one matrix."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import re_llm
from re_llm.llm.local import ChatLlm
from re_llm.llm.output_layer import read_contiguous

B, L, D, V = 3, 5, 8, 11


@pytest.mark.parametrize("rows", [1, B])
def test_last_states_are_multiplied_in_one_product(rows: int) -> None:
    layer = nn.Linear(D, V, bias=False).requires_grad_(False)
    states = torch.randn(rows, L, D, generator=torch.Generator().manual_seed(0))[:, -1:]
    with torch.profiler.profile() as before:
        wanted = layer(states)
    read_contiguous(layer)
    with torch.profiler.profile() as after:
        found = layer(states)
    torch.testing.assert_close(found, wanted)
    assert "aten::bmm" in {event.key for event in before.key_averages()}, "torch needs no help any more: remove it"
    assert "aten::bmm" not in {event.key for event in after.key_averages()}


def test_gradient_reaches_the_states() -> None:
    layer, states = nn.Linear(D, V, bias=False), torch.randn(B, L, D, requires_grad=True)
    read_contiguous(layer)
    layer(states[:, -1:]).sum().backward()
    gradient = states.grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, -1], layer.weight.detach().sum(0).expand(B, D))


def test_an_llm_without_an_output_layer_is_left_alone() -> None:
    read_contiguous(None)


def whole_matrices(layer: nn.Module) -> list[bool]:
    """Whether what a layer is given from now on has the strides of a tensor of its own, pass by pass."""
    seen: list[bool] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0].stride() == torch.empty(args[0].shape).stride())

    layer.register_forward_pre_hook(keep)
    return seen


@pytest.mark.parametrize("rows", [1, B])
def test_text_llm_and_speech_llm_answer_so(tiny_checkpoint: Path, rows: int) -> None:
    model = re_llm.load(tiny_checkpoint).model
    ids = torch.arange(rows * L).view(rows, L)
    seen = whole_matrices(model.get_output_embeddings())
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    assert seen and all(seen)

    llm = ChatLlm.load(str(tiny_checkpoint.parent / "llm"))
    seen = whole_matrices(llm.model.get_output_embeddings())
    llm.generate(ids.tolist(), max_new_tokens=2)
    assert seen and all(seen)
