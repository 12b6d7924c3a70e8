"""How recordings and rows of tokens belong together.

Shapes: B recordings, R rows, L row length, S speech tokens, D LLM width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

from re_llm.core.errors import RellmError
from re_llm.model.outputs import SpeechTokens

Generated = TypeVar("Generated", Tensor, ModelOutput)


def positions(attention_mask: Tensor, *, check: bool = True) -> Tensor:
    """Positions that count real tokens only, [R, L].

    Args:
        check: look for padding inside a row, for which the host waits until a GPU has an answer.

    Raises:
        RellmError: padding inside a row.
    """
    mask = attention_mask.bool()
    starts = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    if check and int(starts.max()) > 1:
        raise RellmError(f"row {int(starts.argmax())} has padding between real tokens", allowed="padding at its ends")
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def row_bounds(held: Sequence[int], given: Sequence[int]) -> list[int]:
    """Number of utterances in front of each row's end, for rows with `held` placeholders.

    Raises:
        RellmError: the rows' placeholders are not the speech tokens of whole utterances, in order.
    """
    ends = {total: i for i, total in enumerate(accumulate(given, initial=0))}
    totals = list(accumulate(held))
    if totals[-1] == sum(given) and all(total in ends for total in totals):
        return [ends[total] for total in totals]
    if len(held) == len(given):
        row = next(i for i, (a, b) in enumerate(zip(held, given, strict=True)) if a != b)
        what = f"row {row} holds {held[row]} speech placeholders, its audio gives {given[row]} speech tokens"
    else:
        what = f"the rows hold {list(held)} speech placeholders, the recordings give {list(given)} speech tokens"
    raise RellmError(what, todo="Make rows and audio inputs with the checkpoint's own processor")


def expand_rows(
    input_ids: Tensor, attention_mask: Tensor | None, speech_id: int, lengths: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Rows with one placeholder per recording as rows with one per speech token, padded on the left.

    For adapters whose number of speech tokens depends on the recording (CFormer).

    Args:
        input_ids: [R, L]; `speech_id` once for each recording, in order. attention_mask: [R, L], or no padding.
        lengths: speech tokens of each recording.

    Returns:
        input_ids and attention_mask, [R, L']; those that were given when they have one per speech token already.

    Raises:
        RellmError: the rows hold another number of placeholders than there are recordings.
    """
    found = input_ids == speech_id
    if int(found.sum()) == sum(lengths):
        return input_ids, attention_mask
    if int(found.sum()) != len(lengths):
        raise RellmError(
            f"the rows hold {int(found.sum())} speech placeholders, and there are {len(lengths)} recordings",
            allowed="one placeholder for each recording, or one for each speech token",
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    repeats = torch.ones_like(input_ids)
    repeats[found] = torch.tensor(lengths, device=input_ids.device)
    rows = [
        torch.stack([ids, keep]).repeat_interleave(n, dim=1)
        for ids, keep, n in zip(input_ids, mask, repeats, strict=True)
    ]
    # Behind the mask any id will do that the LLM can embed.
    padded = pad_sequence([row.T for row in rows], batch_first=True, padding_side="left")
    return padded[..., 0], padded[..., 1]


def without_tokens(
    input_ids: Tensor, attention_mask: Tensor, placeholders: Tensor, kept: Tensor, at: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows without some of their speech tokens, padded on the right, and where places in them are then.

    Args:
        input_ids: [R, L]. placeholders: bool [R, L].
        attention_mask: [R, O + L]; what stands in front of `input_ids` stays as it is.
        kept: of the placeholders, row by row, which stay: bool [N].
        at: [K] places in the flattened rows, none of which is left out.

    Returns:
        input_ids [R, L'], attention_mask [R, O + L'], at [K].
    """
    width = input_ids.shape[1]
    stays = attention_mask[:, -width:].bool()
    stays[placeholders] = kept
    order = (~stays).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(stays.sum(1).max())]
    mask = stays.gather(1, order)
    ids = input_ids.gather(1, order).masked_fill(~mask, 0)  # a placeholder that went must not be counted
    place = (stays.cumsum(1) - 1).flatten()[at]
    whole = torch.cat([attention_mask[:, :-width], mask.to(attention_mask.dtype)], dim=1)
    return ids, whole, (at // width) * ids.shape[1] + place


def with_prompts(found: Generated, prompts: Tensor, width: int) -> Generated:
    """What `generate` returned, with these prompts in place of its own, which are `width` tokens long."""
    rows = found if isinstance(found, Tensor) else found.sequences
    rows = torch.cat([prompts.repeat_interleave(len(rows) // len(prompts), dim=0), rows[:, width:]], dim=1)
    if isinstance(found, Tensor):
        return rows
    found.sequences = rows
    return found


def pack_rows(speech: SpeechTokens, held: Sequence[int]) -> SpeechTokens:
    """Speech tokens by row [R, S, D]: transformers repeats rows, not utterances, for beams and samples."""
    bounds = row_bounds(held, speech.lengths.tolist())
    if bounds == list(range(1, len(speech.lengths) + 1)):
        return speech
    rows = []
    for first, last in pairwise([0, *bounds]):
        parts = [speech.embeddings[i, : speech.lengths[i]] for i in range(first, last)]
        rows.append(torch.cat(parts) if parts else speech.embeddings.new_zeros(0, speech.embeddings.shape[2]))
    return SpeechTokens(pad_sequence(rows, batch_first=True), speech.lengths.new_tensor(list(held)))
