"""One batch of rows through `generate`: how an answer is decoded, and nothing else.

B batch, S speech tokens, L tokens, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, StoppingCriteriaList

from re_llm.inference.decoding import Decoding
from re_llm.inference.streaming import Cancelled, TextPieces
from re_llm.llm.completion import Completion
from re_llm.llm.length import QUESTION_TOKENS, Question, shaped
from re_llm.llm.rows import read_completions
from re_llm.model.outputs import SpeechTokens

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import ReLlmProcessor


def generate(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    stops: list[int],
    rows: Sequence[list[int]],
    speech: Sequence[torch.Tensor],
    decoding: Decoding,
    on_text: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Completion]:
    """The LLM's answers to one batch of finished rows of token ids.

    Args:
        speech: embeddings [S, D] of each row, one for every placeholder; empty for rows of text alone.
        on_text: called with the pieces of the answer to a batch of one as they are decoded; under length control with
            the whole answer, since what stays of it is known at its end.
        cancelled: called after every token; True ends the answers there.
    """
    if not decoding.length:
        return _decode(model, processor, stops, rows, speech, decoding, on_text, cancelled)
    answers = _decode(model, processor, stops, rows, speech, decoding, None, cancelled)
    answers = controlled(model, processor, stops, rows, speech, decoding, answers)
    if on_text:
        on_text(answers[0].text)
    return answers


def controlled(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    stops: list[int],
    rows: Sequence[list[int]],
    speech: Sequence[torch.Tensor],
    decoding: Decoding,
    answers: Sequence[Completion],
) -> list[Completion]:
    """Decoded answers to rows under length control; the LLM adds the questions that they lack."""

    def ask(which: Sequence[int], texts: Sequence[str]) -> list[Completion]:
        own = [speech[i] for i in which] if speech else []
        return ask_behind(model, processor, stops, [rows[i] for i in which], own, texts, decoding)

    return shaped(answers, decoding.length, ask)


def ask_behind(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    stops: list[int],
    rows: Sequence[list[int]],
    speech: Sequence[torch.Tensor],
    texts: Sequence[str],
    decoding: Decoding,
    *,
    begun: bool = False,
) -> list[Completion]:
    """Questions with which the LLM goes on behind the beginnings of its answers; see `Question`.

    Args:
        texts: beginnings of the answers to the rows. begun: they end inside the question.
    """
    tokenizer = processor.tokenizer
    longer = [
        [*row, *tokenizer(text, add_special_tokens=False)["input_ids"]] for row, text in zip(rows, texts, strict=True)
    ]
    asked = replace(decoding, max_new_tokens=QUESTION_TOKENS + 1, max_words=None, end_with_question=False)
    question = Question(tokenizer, max(map(len, longer)), stops, begun)
    return _decode(model, processor, stops, longer, speech, asked, processors=[question])


@torch.inference_mode()
def _decode(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    stops: list[int],
    rows: Sequence[list[int]],
    speech: Sequence[torch.Tensor],
    decoding: Decoding,
    on_text: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    processors: Sequence[Question] = (),
) -> list[Completion]:
    """One pass of `generate`, without length control."""
    inputs = processor.pad_rows(rows)
    prompt_length = inputs["input_ids"].shape[1]
    tokens = None
    if speech:
        lengths = torch.tensor([len(each) for each in speech], device=model.device)
        tokens = SpeechTokens(torch.nn.utils.rnn.pad_sequence(list(speech), batch_first=True), lengths)
    if decoding.seed is not None:
        torch.manual_seed(decoding.seed)
    options = generation_options(model, processor, stops, decoding, prompt_length)
    options["logits_processor"] = LogitsProcessorList([*options["logits_processor"], *processors])
    out = model.generate(
        **{name: tensor.to(model.device) for name, tensor in inputs.items()},
        speech=tokens,
        **options,
        streamer=TextPieces(processor.tokenizer, on_text) if on_text else None,
        stopping_criteria=StoppingCriteriaList([Cancelled(cancelled)] if cancelled else []),
    )
    return read_completions(processor.tokenizer, out[:, prompt_length:], stops)


def generation_options(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    stops: list[int],
    decoding: Decoding,
    prompt_length: int,
) -> dict[str, Any]:
    """Arguments of `generate` that decide the tokens."""
    return {
        **decoding.generation_options(),
        "max_new_tokens": decoding.max_new_tokens,
        "eos_token_id": stops,
        "pad_token_id": processor.pad_token_id,
        "num_beams": 1,  # one answer, whatever the checkpoint's own settings are
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
        "logits_processor": _penalty(model, decoding, prompt_length),
        "repetition_penalty": 1.0,  # transformers' own counts the prompt, speech placeholders included
    }


def _penalty(model: ReLlmForConditionalGeneration, decoding: Decoding, prompt_length: int) -> LogitsProcessorList:
    """The repetition penalty over the response alone: the released code gives the LLM no ids of the prompt."""
    penalty = decoding.repetition_penalty or model.generation_config.repetition_penalty or 1.0
    if penalty == 1.0:
        return LogitsProcessorList()
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(float(penalty), prompt_ignore_length=prompt_length)])
