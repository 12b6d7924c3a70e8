"""The weighted sum of a stage's losses on one batch. N target tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from re_llm.model import losses
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.outputs import SpeechTokens
from re_llm.recipe.config import StageOptions
from re_llm.train.collate import Batch, TextBatch


@dataclass(frozen=True)
class Loss:
    """Loss of one batch.

    Attributes:
        total: scalar, the weighted sum of `terms`.
        logits: [N, V] at the positions that were asked for; None when nothing reads the LLM's output.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    logits: Tensor | None


class Objective:
    """Losses of a stage; RE-LLM eq. 10 weighs them equally."""

    def __init__(self, options: StageOptions):
        self.options = options

    def weights(self, step: int) -> Mapping[str, float]:
        """Weight by loss at an optimiser step."""
        warm = self.options.warm_losses if step < self.options.warm_steps else None
        return warm or self.options.losses

    def __call__(
        self, model: nn.Module, bare: ReLlmForConditionalGeneration, batch: Batch, weights: Mapping[str, float]
    ) -> Loss:
        """Loss of a batch.

        Args:
            model: the model as the Trainer has wrapped it, whose `forward` is called.
            bare: the model itself, for everything else.
        """
        logits = None
        if any(name.startswith(("response", "input_kl")) for name in weights):
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                logits_to_keep=batch["logits_at"],
                **batch["speech"],
            )
            speech, logits = output.speech, output.logits
        else:  # nothing reads the LLM's output
            speech = bare.encode_speech(**batch["speech"])
        terms = {} if logits is None else self._llm_terms(bare, weights, batch, logits)
        terms |= self._speech_terms(bare, weights, batch, speech)
        if terms:
            total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        else:  # every row of this batch answers with the label, and only losses with a teacher were asked for
            assert logits is not None, weights
            total = 0.0 * logits.sum()
        return Loss(total, terms, logits)

    def _llm_terms(
        self, model: ReLlmForConditionalGeneration, weights: Mapping[str, float], batch: Batch, logits: Tensor
    ) -> dict[str, Tensor]:
        """Losses on what the LLM says: of the response [N, V], and at the transcript for input_kl."""
        terms: dict[str, Tensor] = {}
        if "response_ce" in weights:
            terms["response_ce"] = losses.response_ce(_chosen(logits, batch, "response_at"), batch["targets"])
        taught = {"response_kl", "input_kl"} & weights.keys()
        given = batch.get("teacher")
        if taught and given is not None:
            read = model.text_forward(given["input_ids"], given["attention_mask"], logits_to_keep=given["logits_at"])
            assert read.logits is not None, "a pass of the LLM has logits"
            temperature = self.options.temperature
            if "input_kl" in taught:
                spoken, written = _chosen(logits, batch, "input_at"), _chosen(read.logits, given, "input_at")
                terms["input_kl"] = losses.input_kl(spoken, written, temperature=temperature)
            if "response_kl" in taught:
                at: Where = "kl_at" if "kl_at" in batch else "response_at"
                student, teacher = _chosen(logits, batch, at)[given["of_target"]], _chosen(read.logits, given, at)
                terms["response_kl"] = losses.response_kl(student, teacher, temperature=temperature)
        return terms

    def _speech_terms(
        self, model: ReLlmForConditionalGeneration, weights: Mapping[str, float], batch: Batch, speech: SpeechTokens
    ) -> dict[str, Tensor]:
        """Losses on the adapter's output and on the heads."""
        terms: dict[str, Tensor] = {}
        if {"input_er", "input_er_avd"} & weights.keys():
            emotion_logits, dimensions = model.predict_emotion(speech)
            if "input_er" in weights:
                terms["input_er"] = losses.input_er(emotion_logits, batch["emotions"])
            if "input_er_avd" in weights:
                terms["input_er_avd"] = losses.input_er_avd(dimensions, batch["dimensions"])
        if "cif" in weights:
            assert speech.fired is not None, "unfit() lets cif train a cformer only"
            terms["cif"] = losses.cif(speech.fired, batch["transcript_lengths"])
        if "adapter_ctc" in weights:
            assert model.ctc_blank is not None, "build_model adds it for adapter_ctc"
            terms["adapter_ctc"] = losses.adapter_ctc(
                speech.embeddings,
                speech.lengths,
                cast(nn.Embedding, model.get_input_embeddings()).weight,
                model.ctc_blank,
                batch["transcripts"],
                batch["transcript_lengths"],
            )
        return terms


Where = Literal["response_at", "kl_at", "input_at"]


def _chosen(logits: Tensor, batch: TextBatch | Batch, where: Where) -> Tensor:
    """Logits [N, V] at the positions `where`, out of those of all losses; all of them where there are no others."""
    at = batch.get(where)
    return logits if at is None else logits[at[batch["logits_at"]]]
