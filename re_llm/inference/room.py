"""How much speech a row of the LLM has room for."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from re_llm.audio import waveform
from re_llm.llm.prompts import Prompt, get_prompt, split_chat
from re_llm.model.configuration import ReLlmConfig
from re_llm.model.processing import ReLlmProcessor


def seconds_that_fit(
    processor: ReLlmProcessor,
    config: ReLlmConfig,
    context: int | None,
    prompts: Sequence[tuple[str | Prompt | None, int]],
) -> float:
    """Seconds of speech that fit beside the longest of the prompts; infinite when that is more than can be loaded.

    Args:
        context: longest row of the LLM in tokens; None without a limit.
        prompts: each with the tokens that its answer may have; None stands for no prompt.
    """
    if context is None or config.adapter.kind == "cformer":
        return math.inf  # a CFormer's tokens are counted once it has run; the model refuses a row that is too long
    around = [
        len(processor.row(split_chat(processor.tokenizer, get_prompt(prompt)))) + tokens
        for prompt, tokens in prompts
        if prompt
    ]
    room = context - max(around, default=0)
    tenths = range(1, round(10 * waveform.MAX_SECONDS) + 1)
    fit = bisect_right(tenths, room, key=lambda n: processor.speech_token_count(n * waveform.RATE // 10))
    return math.inf if fit == len(tenths) else fit / 10
