"""Rows of token ids for a chat LLM: batches of similar length, padding, where an answer ends. B batch, L tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from re_llm.llm.completion import Completion
from re_llm.llm.prompts import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def batches_by_length(lengths: Sequence[int], batch_size: int, spread: float = math.inf) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first: least padding, and memory runs out at once or never.

    Args:
        spread: the longest of a batch is at most so many times as long as its shortest.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) == batch_size or lengths[batch[0]] > spread * lengths[i]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad_rows(rows: Sequence[Sequence[int]], value: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded with `value`, and their mask (1 for a token, 0 for padding): both [B, L]."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    masks = [torch.ones(len(row), dtype=torch.long) for row in rows]
    return (
        torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=value, padding_side=side),
        torch.nn.utils.rnn.pad_sequence(masks, batch_first=True, padding_side=side),
    )


def stop_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[int]:
    """Ids that end a turn: the generation config's, the tokenizer's, and the chat template's."""
    configured = model.generation_config.eos_token_id
    candidates = configured if isinstance(configured, list) else [configured]
    written = turn_end(tokenizer)[-1:] if tokenizer.chat_template else []
    found = (*candidates, tokenizer.eos_token_id, *written)
    return list(dict.fromkeys(int(token) for token in found if token is not None))


def read_completions(
    tokenizer: PreTrainedTokenizerBase, generated: torch.Tensor, stops: Sequence[int]
) -> list[Completion]:
    """Answers from new token ids [B, L]: each ends before the first stop id."""
    answers = []
    ends = set(stops)
    for row in generated.tolist():
        cut = next((i for i, token in enumerate(row) if token in ends), None)
        ids = row if cut is None else row[:cut]
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        answers.append(Completion(text, len(ids), "length" if cut is None else "stop"))
    return answers
