"""How the recorded original systems read a row and decode: padding inside of rows, rounding, rows of any length.

Shapes: R rows, L row length, N new tokens, S speech tokens, V vocabulary, D LLM width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from golden_world import inputs, outputs, padded_pass, special, speech_id
from torch import Tensor


@contextmanager
def released_rounding(model: Any, columns: int) -> Iterator[None]:
    """Inside, the first columns of every row are rounded as the released RE-LLM does it with a speech prompt.

    It casts the input embeddings of a speech row to bfloat16, and so the first RMSNorm returns its normalised value in
    bfloat16 as well, in front of its float32 gain; everything behind is float32. Decoded tokens are not rounded.
    """
    first = model.language_model.model.layers[0]
    norm = first.input_layernorm

    def cast(hidden: Tensor) -> Tensor:
        return torch.cat([hidden[:, :columns].bfloat16().float(), hidden[:, columns:]], dim=1)

    def rounded(hidden: Tensor) -> Tensor:
        scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + norm.variance_epsilon)
        return norm.weight * cast(scaled)

    handle = first.register_forward_pre_hook(lambda _, args: (cast(args[0]), *args[1:]))
    norm.forward = rounded
    try:
        yield
    finally:
        del norm.forward
        handle.remove()


@contextmanager
def beyond_seq_length(model: Any, mask: Tensor) -> Iterator[None]:
    """Inside, the LLM treats rows longer than its `seq_length` as Qwen version 1 does in eval mode.

    Args:
        mask: [R, L] of the prompt, which sets the rotary bases (dynamic NTK) for the tokens decoded behind it, too.
    """
    inner, config = model.language_model.model, model.config.text_config
    rotary, limit = inner.rotary_emb, config.max_position_embeddings
    size = config.hidden_size // config.num_attention_heads
    stretch = torch.ones(len(mask))
    if mask.shape[1] > limit:
        stretch = (2 ** ((mask.sum(1) / limit).log2() + 1).ceil() - 1).clamp(min=1)
    bases = config.rope_parameters["rope_theta"] * stretch ** (size / (size - 2))

    def turned(_: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = bases[:, None] ** -(torch.arange(0, size, 2) / size)
        angles = position_ids[..., None] * frequencies[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    def scaled(_: Any, __: Any, queries: Tensor) -> Tensor:
        columns = torch.arange(1, queries.shape[1] + 1)
        return queries * (columns.log() / np.log(limit)).clamp(min=1)[:, None]

    handles = [layer.self_attn.q_proj.register_forward_hook(scaled) for layer in inner.layers]
    rotary.forward = turned
    try:
        yield
    finally:
        del rotary.forward
        for handle in handles:
            handle.remove()


def prompt_rows(case: str, adapter_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts of the recorded generation: ids and mask, [R, L], padding inside as recorded."""
    given = inputs()
    parts = [(given["gen_prefix_ids"], given["gen_prefix_mask"])]
    parts += [(torch.full_like(adapter_mask, speech_id(case)), adapter_mask)]
    parts += [(given["gen_suffix_ids"], given["gen_suffix_mask"])]
    ids, mask = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    return ids, mask


class Decoded(NamedTuple):
    """What greedy decoding gives: ids [R, N] of the new tokens, logits [N, R, V] in front of them."""

    ids: Tensor
    logits: Tensor
    prefill: Tensor  # [R, L, V] of the prompt


@torch.no_grad()
def decode(
    model: Any, ids: Tensor, mask: Tensor, embeddings: Tensor, *, steps: int, stops: tuple[int, ...] | None = None
) -> Decoded:
    """Greedy decoding of a batch as recorded: positions are columns, a stop word ends one step late.

    Args:
        stops: by default the ids that begin and end a turn.
    """
    end = special().last
    stop = torch.tensor(special()[:2] if stops is None else stops)
    done, said, seen, prefill = torch.zeros(len(ids), dtype=torch.bool), [], [], None
    for _ in range(steps):
        whole = padded_pass(model, ids, mask, embeddings)
        logits = whole[:, -1]
        new = logits.argmax(-1)
        if not said:
            prefill = whole
            new = logits.index_fill(1, torch.tensor([end]), -torch.inf).argmax(-1)  # one token at least
        else:
            new[torch.isin(said[-1], stop)] = end
        new[done] = end
        done |= new == end
        said.append(new)
        seen.append(logits)
        ids, mask = torch.cat([ids, new[:, None]], dim=1), torch.cat([mask, torch.ones_like(new)[:, None]], dim=1)
        if done.all():
            break
    assert prefill is not None, steps
    return Decoded(torch.stack(said, dim=1), torch.stack(seen), prefill)


def new_tokens(case: str) -> int:
    """Limit of the recorded generations; they hold one bos more."""
    return max(value.shape[1] for name, value in outputs(case).items() if name.endswith("_ids")) - 1


def single_prompt(case: str, sample: int, count: int) -> Tensor:
    """The prompt of one utterance without padding, ids [1, L], with `count` placeholders."""
    given = inputs()
    around = [given[f"gen_{n}_ids"][sample][given[f"gen_{n}_mask"][sample].bool()] for n in ("prefix", "suffix")]
    return torch.cat([around[0], torch.full((count,), speech_id(case)), around[1]])[None]
