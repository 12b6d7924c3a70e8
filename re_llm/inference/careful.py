"""Words about harming oneself are answered by rule: the words that stand in speech tokens, and the answers.

Shapes: S speech tokens, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from re_llm.core.risk import at_risk, careful_reply
from re_llm.llm.completion import Completion
from re_llm.model.modeling import ReLlmForConditionalGeneration


@torch.inference_mode()
def read_out(model: ReLlmForConditionalGeneration, embeddings: torch.Tensor) -> list[int]:
    """Token ids in speech tokens [S, D] of a model trained with `adapter_ctc`.

    The nearest of the LLM's embeddings to each, repetitions joined, blanks left out.
    """
    blank, vocabulary = model.ctc_blank, model.get_input_embeddings().weight
    assert blank is not None and isinstance(vocabulary, torch.Tensor)
    scores = embeddings.float() @ torch.cat([vocabulary.float(), blank[None].float()]).T
    best = scores.argmax(-1).unique_consecutive().tolist()
    return [token for token in best if token != len(vocabulary)]


def answered(
    decode: Callable[[], list[Completion]], said: Sequence[str], on_text: Callable[[str], None] | None
) -> list[Completion]:
    """What `decode` answers to rows, but for those that need care; it is not called when all of them do.

    Args:
        said: what the last turn of each row says.
        on_text: called with the text of an answer by rule to a batch of one.
    """
    rules = [rule(text) for text in said]
    if all(rules):
        if on_text:
            on_text(str(rules[0]))
        return [Completion(str(rule)) for rule in rules]
    return [answer if rule is None else Completion(rule) for answer, rule in zip(decode(), rules, strict=True)]


def rule(said: str) -> str | None:
    """The answer to words about harming oneself; None for other words."""
    return careful_reply(said) if at_risk(said) else None
