"""Which token comes next, in every row of a batch.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import log_softmax
from transformers import (
    LogitsProcessorList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from re_llm.inference.decoding import Decoding
from re_llm.inference.generation import generation_options

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine

# Processors that look at the scores alone, not at the tokens in front: they take many rows at once.
_OF_SCORES = (SuppressTokensLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)


@dataclass(frozen=True)
class TokenChoice:
    """A generated token, its log probability, and the likeliest tokens in its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Chooser:
    """How the tokens of one row are chosen: as `generate` does it, with the same processors of transformers."""

    def __init__(self, engine: Engine, ids: list[int], decoding: Decoding):
        model, device = engine.model, engine.device
        options = generation_options(model, engine.processor, engine.stops, decoding, len(ids))
        own = options.pop("logits_processor")
        config, _ = model._prepare_generation_config(None, **options)
        model._prepare_special_tokens(config, True, device=device)
        self.processors: LogitsProcessorList = model._get_logits_processor(
            config, len(ids), torch.tensor([ids]), logits_processor=own, device=device
        )
        self.sampled = bool(decoding.temperature)
        self.generator: torch.Generator | None = None
        if decoding.seed is not None:
            self.generator = torch.Generator(device).manual_seed(decoding.seed)
        alike = all(isinstance(each, _OF_SCORES) for each in self.processors)
        self.group: object = (decoding.temperature, decoding.top_p) if alike else self


def choose(choosers: Sequence[Chooser], tokens_of: Callable[[int], list[int]], logits: torch.Tensor) -> list[int]:
    """The next token of each row.

    Args:
        tokens_of: gives the tokens of a row so far.
        logits: [B, V]
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for row, each in enumerate(choosers):
        groups[each.group].append(row)
    tokens = [0] * len(choosers)
    for group, rows in groups.items():
        first = choosers[rows[0]]
        context = [tokens_of(rows[0])] if group is first else [[]] * len(rows)
        scores = logits if len(rows) == len(choosers) else logits[rows]
        scores = first.processors(torch.tensor(context, dtype=torch.long, device=logits.device), scores)
        if first.sampled:
            drawn = zip(scores.softmax(-1), rows, strict=True)
            found = [int(torch.multinomial(each, 1, generator=choosers[row].generator)) for each, row in drawn]
        else:
            found = scores.argmax(-1).tolist()
        for row, token in zip(rows, found, strict=True):
            tokens[row] = token
    return tokens


def with_likeliest(token: int, logits: torch.Tensor, count: int) -> TokenChoice:
    """A token with its log probability and the `count` likeliest in its place, from logits [V]."""
    likely = log_softmax(logits, -1)
    top = likely.topk(count)
    return TokenChoice(token, float(likely[token]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
