"""Answers by rule: to words about harming oneself, and to recordings in which no words are understood.

Both need the words that stand in speech tokens. Shapes: S speech tokens, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from re_llm.core.risk import at_risk, careful_reply
from re_llm.inference.estimate import Estimate
from re_llm.llm.completion import Completion
from re_llm.model.modeling import ReLlmForConditionalGeneration

TOKENS_A_SECOND = 0.6  # fewer are no speech: who speaks slowly says two words in a second
NO_SPEECH = "I could not hear anybody speak in that recording. Could you try again?"
UNCLEAR = "I could not make out the words{sounds}. Could you say that again?"
SOUNDS = {
    "sad": "sad",
    "angry": "angry",
    "happy": "happy",
    "surprise": "surprised",
    "fear": "afraid",
    "disgust": "disgusted",
}


@dataclass(frozen=True)
class Said:
    """What somebody says, as far as rules look at it.

    Attributes:
        doubt: the answer where nothing of it is understood.
    """

    text: str = ""
    doubt: str | None = None


class ReadOut(NamedTuple):
    """Token ids that stand in speech tokens, and their mean probability; 0 where there are none."""

    ids: list[int]
    confidence: float


@torch.inference_mode()
def read_out(model: ReLlmForConditionalGeneration, embeddings: torch.Tensor) -> ReadOut:
    """What stands in speech tokens [S, D] of a model trained with `adapter_ctc`, repetitions joined, without blanks."""
    chosen, probability = model.read_tokens(embeddings)
    spoken = chosen >= 0
    confidence = probability[spoken].mean() if spoken.any() else torch.zeros(())
    return ReadOut([token for token in chosen.unique_consecutive().tolist() if token >= 0], float(confidence))


def doubt_about(read: ReadOut, seconds: float, least: float, heard: Estimate) -> str | None:
    """The answer to a recording in which no words are understood; None for one in which they are.

    Args:
        least: confidence of the words of nearly all speech that the model understands.
        heard: its emotion is named, unless it is unsure.
    """
    if len(read.ids) < TOKENS_A_SECOND * seconds:
        return NO_SPEECH
    if read.confidence >= least:
        return None
    sounds = None if heard.unsure else SOUNDS.get(heard.predicted_emotion or "")
    return UNCLEAR.format(sounds=f", but you sound {sounds}" if sounds else "")


def answered(
    decode: Callable[[], list[Completion]], said: Sequence[Said], on_text: Callable[[str], None] | None
) -> list[Completion]:
    """What `decode` answers to rows, but for those that need care; it is not called when all of them do.

    Args:
        said: what the last turn of each row says.
        on_text: called with the text of an answer by rule to a batch of one.
    """
    rules = [rule(each) for each in said]
    if all(rules):
        if on_text:
            on_text(str(rules[0]))
        return [Completion(str(rule)) for rule in rules]
    return [answer if rule is None else Completion(rule) for answer, rule in zip(decode(), rules, strict=True)]


def rule(said: Said) -> str | None:
    """The answer by rule; None where the LLM answers."""
    return careful_reply(said.text) if at_risk(said.text) else said.doubt
