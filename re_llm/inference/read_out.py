"""The words that stand in speech tokens: S tokens, D width of the LLM."""

from __future__ import annotations

import torch

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
