"""What the rows of a batch begin with, read by the LLM once in a stage and not in every row of every step.

In front of the speech stands a prompt that a stage has few of, and neither LoRA on speech tokens nor anything else that
is trained acts there: its keys and values are constants. A row then costs what it says, not what it is asked.

B rows, P openings, O tokens of the longest of them, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.recipe.stages import StageOptions

KEPT = 32  # openings whose keys and values are remembered
_ATTENTION = ("eager", "sdpa")  # others take a mask with padding at both ends to be padded on the left

Layer = tuple[Tensor, Tensor]  # keys and values [H, O, D]


class Openings:
    """The keys and values of openings, each computed when it is first met."""

    def __init__(self, model: ReLlmForConditionalGeneration):
        self._model = model
        self._config = model.config.text_config.get_text_config()
        self._kept: dict[tuple[int, ...], list[Layer]] = {}

    @classmethod
    def of(cls, model: ReLlmForConditionalGeneration, stage: StageOptions) -> Openings | None:
        """None where what is trained changes them, or the LLM's cache or attention is not of a plain kind."""
        found = cls(model)
        llm, lora = model.language_model, model.partial_lora
        trained = any(p.requires_grad for name, p in llm.named_parameters() if ".lora_" not in name)
        everywhere = bool(lora.layers) and lora.scope != "speech"
        dropout = any("drop" in name and isinstance(rate, float) and rate for name, rate in vars(found._config).items())
        layers = found._empty().layers
        plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
        plain &= llm.config._attn_implementation in _ATTENTION
        return None if trained or everywhere or dropout or stage.gradient_checkpointing or not plain else found

    def cache(self, openings: Sequence[tuple[int, ...]], of_row: Tensor) -> DynamicCache:
        """A cache of B rows, in which each opening ends where the rows go on; shorter ones are padded on the left.

        Args:
            openings: the P openings of a batch. of_row: [B] which of them each row has.
        """
        if len(self._kept) > KEPT:
            self._kept.clear()
        for ids in openings:
            if ids not in self._kept:
                self._kept[ids] = self._read(ids, of_row.device)
        width, cache = max(map(len, openings)), self._empty()
        for number in range(len(cache.layers)):
            kept = [self._kept[ids][number] for ids in openings]
            keys, values = (
                torch.stack([pad(each, (0, 0, width - each.shape[1], 0)) for each in part])[of_row]
                for part in zip(*kept, strict=True)
            )
            cache.update(keys, values, number)
        return cache

    def _empty(self) -> DynamicCache:
        return DynamicCache(config=self._config)

    def _read(self, ids: Sequence[int], device: torch.device) -> list[Layer]:
        cache, row = self._empty(), torch.tensor([ids], device=device)
        with self._model.teacher():
            self._model(row, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]
