"""The weighted sum of a stage's losses on one batch. N target tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from re_llm.model import losses
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.outputs import ReLlmOutput, SpeechTokens
from re_llm.model.predictions import Predictions, TopTokens, logits_are_linear, mean_cross_entropy, mean_loss
from re_llm.model.rows import without_tokens
from re_llm.recipe.stages import StageOptions
from re_llm.train.collate import Batch, TextBatch
from re_llm.train.openings import Openings
from re_llm.train.teacher import TeacherStore


class Loss(NamedTuple):
    """Loss of one batch.

    Attributes:
        total: scalar, the weighted sum of `terms`.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module):
    """A model and the losses of a stage; RE-LLM eq. 10 weighs them equally.

    Its `forward` is the one that training calls and that accelerate wraps: all that is trained passes through it.

    Args:
        teacher: where the teacher's likeliest tokens are kept; None = it reads every batch.
        openings: reads what the rows of a batch begin with, where that is given apart.
    """

    def __init__(
        self,
        model: ReLlmForConditionalGeneration,
        options: StageOptions,
        teacher: TeacherStore | None = None,
        openings: Openings | None = None,
    ):
        super().__init__()
        self.model, self.options, self.teacher, self.openings = model, options, teacher, openings
        # Logits that nothing else is done to need not be held all at once.
        self.in_pieces = logits_are_linear(model)
        self.sharded = False  # each layer is put together in all processes at once: all of them make the same passes
        parts = (model.language_model, model.speech_encoder.whisper)
        # What FSDP shares out by itself: one layer of a part after the other.
        self._no_split_modules = sorted({layer for part in parts for layer in part._no_split_modules or ()})

    def weights(self, step: int) -> Mapping[str, float]:
        """Weight by loss at an optimiser step."""
        warm = self.options.warm_losses if step < self.options.warm_steps else None
        return warm or self.options.losses

    def forward(self, batch: Batch, weights: Mapping[str, float], scales: Mapping[str, Tensor] | None = None) -> Loss:
        """Loss of a batch.

        Args:
            scales: factor by term, where the batch is a part of a larger one; 1 for those that are not named.
        """
        said = None
        if any(name.startswith(("response", "input_kl")) for name in weights):
            opened = None
            if "openings" in batch:
                assert self.openings is not None, "who collates rows apart from their openings gives what reads these"
                opened = self.openings.cache(batch["openings"], batch["opening_of"])
            rows, given = (batch["input_ids"], batch["attention_mask"], batch["logits_at"]), dict(batch["speech"])
            if self.model.config.adapter.spoken_only:  # known only now
                tokens = self.model.encode_speech(**batch["speech"])
                assert tokens.kept is not None, "the adapter leaves tokens out"
                placeholders = batch["input_ids"] == self.model.config.speech_token_id
                kept = tokens.kept[tokens.all.mask()]
                rows = without_tokens(rows[0], rows[1], placeholders, kept, rows[2])
                given = {"speech": tokens}
            output = self.model(
                input_ids=rows[0],
                past_key_values=opened,
                attention_mask=rows[1],
                output_at=rows[2],
                output_states=self.in_pieces,
                **given,
            )
            speech, said = output.speech, self._predictions(output)
        else:  # nothing reads the LLM's output
            speech = self.model.encode_speech(**batch["speech"])
        terms = {} if said is None else self._llm_terms(weights, batch, said)
        terms |= self._speech_terms(weights, batch, speech)
        if scales is not None:
            terms = {name: scales.get(name, 1.0) * term for name, term in terms.items()}
        if terms:
            total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        else:  # every row of this batch answers with the label, and only losses with a teacher were asked for
            assert said is not None, weights
            total = 0.0 * said.values.sum()
        return Loss(total, terms)

    def _predictions(self, output: ReLlmOutput) -> Predictions:
        if output.output_states is not None:
            return Predictions(output.output_states, self.model.get_output_embeddings())
        assert output.logits is not None, "a pass of the LLM has logits"
        return Predictions(output.logits)

    def _llm_terms(self, weights: Mapping[str, float], batch: Batch, said: Predictions) -> dict[str, Tensor]:
        """Losses on what the LLM says: of the response [N, V], and at the transcript for input_kl."""
        terms: dict[str, Tensor] = {}
        if "response_ce" in weights:
            predicted = _chosen(said, batch, "response_at")
            terms["response_ce"] = mean_cross_entropy(predicted, batch["targets"], batch.get("weights"))
        taught = {"response_kl", "input_kl"} & weights.keys()
        given = batch.get("teacher")
        if taught and given is not None:
            terms |= self._taught_terms(taught, batch, given, said)
        elif taught and self.sharded:
            row = torch.zeros(1, 1, dtype=torch.long, device=said.values.device)
            self.model.text_forward(row, torch.ones_like(row))
        return terms

    def _taught_terms(self, taught: Set[str], batch: Batch, given: TextBatch, said: Predictions) -> dict[str, Tensor]:
        """Divergences from the teacher: of the response, and at the transcript for input_kl."""
        terms: dict[str, Tensor] = {}
        temperature = self.options.temperature
        at: Where = "kl_at" if "kl_at" in batch else "response_at"
        if self.teacher is not None:
            top, student = self._top_tokens(self.teacher, given, at), _chosen(said, batch, at)[given["of_target"]]

            def loss(logits: Tensor, top: TopTokens) -> Tensor:
                return losses.top_k_kl(logits, top.ids, top.log_p, temperature=temperature)

            return {"response_kl": mean_loss(loss, student, top)}
        read = self._read(given)
        if "input_kl" in taught:
            spoken, written = _chosen(said, batch, "input_at"), _chosen(read, given, "input_at")
            terms["input_kl"] = mean_loss(partial(losses.input_kl, temperature=temperature), spoken, written)
        if "response_kl" in taught:
            student, teacher = _chosen(said, batch, at)[given["of_target"]], _chosen(read, given, at)
            terms["response_kl"] = mean_loss(partial(losses.response_kl, temperature=temperature), student, teacher)
        return terms

    def _read(self, given: TextBatch) -> Predictions:
        """What the teacher predicts."""
        rows = (given["input_ids"], given["attention_mask"])
        answered = self.model.text_forward(*rows, output_at=given["logits_at"], output_states=self.in_pieces)
        return self._predictions(answered)

    def _top_tokens(self, store: TeacherStore, given: TextBatch, at: Where) -> TopTokens:
        """The teacher's likeliest tokens, of the store where it has all rows; a shared-out LLM makes every pass."""
        kept = None if self.sharded else store.get(given["keys"], given["input_ids"].device)
        if kept is None:
            kept = TopTokens.of(_chosen(self._read(given), given, at), store.k, self.options.temperature)
            store.add(given["keys"], given["counts"], kept)
        return kept

    def _speech_terms(self, weights: Mapping[str, float], batch: Batch, speech: SpeechTokens) -> dict[str, Tensor]:
        """Losses on the adapter's output and on the heads."""
        model, heard = self.model, speech.all
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
        if "intermediate_ctc" in weights:
            assert heard.units is not None, "unfit() lets intermediate_ctc train an adapter with units only"
            spelled = (batch["units"], batch["unit_lengths"])
            terms["intermediate_ctc"] = losses.intermediate_ctc(heard.units, heard.lengths, *spelled)
        if "adapter_ctc" in weights:
            assert model.ctc_blank is not None, "build_model adds it for adapter_ctc"
            terms["adapter_ctc"] = losses.adapter_ctc(
                heard.embeddings,
                heard.lengths,
                cast(nn.Embedding, model.get_input_embeddings()).weight,
                model.ctc_blank,
                batch["transcripts"],
                batch["transcript_lengths"],
                sample=self.options.ctc_sample if torch.is_grad_enabled() else None,
            )
        return terms


Where = Literal["response_at", "kl_at", "input_at"]


def _chosen(predicted: Predictions, batch: TextBatch | Batch, where: Where) -> Predictions:
    """The predictions at the positions `where`, out of those of all losses; all where there are no others."""
    at = batch.get(where)
    return predicted if at is None else predicted[at]


def averaged_over(batch: Batch) -> dict[str, Tensor]:
    """How many tokens (their weights summed), values or rows of a batch each loss is a mean over."""
    none = torch.zeros((), dtype=torch.long)
    rows = torch.tensor(len(batch["emotions"]))
    given = batch.get("teacher")
    return {
        "response_ce": losses.counted(batch["targets"], batch.get("weights")).sum(),
        "response_kl": none if given is None else torch.tensor(len(given["of_target"])),
        "input_kl": torch.tensor(len(batch["input_at"])) if "input_at" in batch else none,
        "input_er": (batch["emotions"] != losses.IGNORE_INDEX).sum(),
        "input_er_avd": (~batch["dimensions"].isnan()).sum(),
        "cif": rows,
        "adapter_ctc": rows,
        "intermediate_ctc": rows,
    }
