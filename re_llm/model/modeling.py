"""The model: two encoders, an adapter, an LLM with partial LoRA, two emotion heads.

Shapes: B utterances, R rows, F mel frames, N samples, T encoder states, S speech tokens, L row length, D LLM width,
V vocabulary, E emotions, K positions whose logits are computed. Usually a row holds one utterance, so B = R.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    Cache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from re_llm.core.errors import RellmError
from re_llm.llm.output_layer import read_contiguous
from re_llm.model import components, losses, partial_lora, storage, transfer
from re_llm.model.cformer import make_adapter
from re_llm.model.configuration import COMPONENTS, DIMENSIONS, ReLlmConfig
from re_llm.model.emotion_encoder import EmotionEncoder, make_emotion_encoder
from re_llm.model.hearing import Hearing
from re_llm.model.outputs import EncodedAudio, ReLlmOutput, SpeechTokens
from re_llm.model.predictions import only_at
from re_llm.model.reading import Likeliest, likeliest, only_spoken
from re_llm.model.rows import expand_rows, pack_rows, positions, row_bounds, with_prompts
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.trainable import TrainableModel

AUDIO_INPUTS = ("input_features", "feature_lengths", "emotion_values", "emotion_lengths")


class ReLlmForConditionalGeneration(TrainableModel, Hearing, GenerationMixin):
    """A chat LLM that is given what is said and how (RE-LLM section II).

    Use `from_pretrained` for a checkpoint and `from_components` for a fresh model. The constructor builds the parts
    that it is not given from the config, with random weights, and adds no LoRA.

    Args:
        config: what the checkpoint says.
        language_model, speech_encoder, emotion_encoder: ready parts.
    """

    config_class = ReLlmConfig
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # the loss is a mean over the batch: Trainer divides it by the accumulation steps
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    from_pretrained = classmethod(storage.load)
    from_components = classmethod(components.build)
    save_pretrained = storage.save
    push_to_hub = storage.push
    load_trained = storage.load_trained
    continue_from = transfer.continue_from

    def __init__(
        self,
        config: ReLlmConfig,
        *,
        language_model: PreTrainedModel | None = None,
        speech_encoder: SpeechEncoder | None = None,
        emotion_encoder: EmotionEncoder | SharedEmotionEncoder | None = None,
    ):
        super().__init__(config)
        if config.emotion_config is not None and emotion_encoder is None:
            emotion_encoder = make_emotion_encoder(config.emotion_config, config.emotion_outputs)
        self.speech_encoder = speech_encoder or SpeechEncoder(config.speech_config, config.speech_window)
        self.emotion_encoder = emotion_encoder
        width = config.speech_width + config.emotion_width
        self.adapter = make_adapter(width, config.llm_width, config.adapter, config.speech_config)
        self.emotion_head = nn.Linear(config.llm_width, len(config.emotions), bias=False)
        self.dimension_head = nn.Linear(config.llm_width, len(DIMENSIONS), bias=False)
        self.ctc_blank = nn.Parameter(torch.zeros(config.llm_width)) if config.ctc_blank else None
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        read_contiguous(self.get_output_embeddings())
        self.partial_lora = partial_lora.PartialLora(self.language_model, "global")
        # Where the weights of a named component come from: a folder or a hub id; None = the checkpoint itself.
        self.component_sources: dict[str, str | None] = dict.fromkeys(COMPONENTS)
        self.quantized: str | None = None  # how the LLM was quantised when it was loaded
        self.taken_over: transfer.Transfer | None = None  # from the checkpoint of an earlier stage
        with no_init_weights():  # the parts are initialised already, some from files
            self.post_init()

    def predict_emotion(self, speech: SpeechTokens) -> tuple[Tensor, Tensor]:
        """What the heads predict: emotion logits [B, E], and valence, arousal, dominance [B, 3] (RE-LLM eq. 7-9)."""
        return self.emotion_head(speech.pooled), self.dimension_head(speech.pooled)

    def encode_speech(
        self, speech: EncodedAudio | None = None, *, token_lengths: Tensor | None = None, **audio: Any
    ) -> SpeechTokens:
        """See `Hearing.encode_speech`; of an adapter with `spoken_only`, the tokens in which something is said.

        Raises:
            RellmError: the adapter has `spoken_only`, and was trained without adapter_ctc.
        """
        tokens = super().encode_speech(speech, token_lengths=token_lengths, **audio)
        if not self.config.adapter.spoken_only:
            return tokens
        with torch.no_grad():
            spoken = self.read_tokens(tokens.embeddings[tokens.mask()]).ids >= 0
        return only_spoken(tokens, spoken)

    def read_tokens(self, tokens: Tensor) -> Likeliest:
        """What stands in speech tokens [N, D] of a model that was trained with adapter_ctc.

        Raises:
            RellmError: it was not.
        """
        if self.ctc_blank is None:
            raise RellmError("this model has no CTC blank", todo="Train a stage with the loss adapter_ctc")
        vocabulary = self.get_input_embeddings().weight
        assert isinstance(vocabulary, nn.Parameter)
        with torch.autocast(tokens.device.type, enabled=False):  # training must not round otherwise than use
            return likeliest(tokens, vocabulary, self.get_output_embeddings(), self.ctc_blank)

    # --- answering ---------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        input_features: Tensor | None = None,
        feature_lengths: Tensor | None = None,
        emotion_values: Tensor | None = None,
        emotion_lengths: Tensor | None = None,
        speech: EncodedAudio | SpeechTokens | None = None,
        token_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_at: Tensor | None = None,
        output_states: bool = False,
        **llm_options: object,
    ) -> ReLlmOutput:
        """One pass of the LLM over rows that hold one placeholder per speech token.

        Args:
            input_ids: [R, L]; `config.speech_token_id` where a speech token goes.
            attention_mask: [R, L], 0 at padding, which stands at the ends of a row only.
            position_ids: [R, L]; by default real tokens are counted.
            input_features, feature_lengths, emotion_values, emotion_lengths: see `encode_audio`.
            speech: encoder states, or finished speech tokens of each row, instead of audio.
            token_lengths: see `encode_speech`.
            labels: [R, L], IGNORE_INDEX where nothing is learned; the output's `loss` is the next-token cross-entropy.
            logits_to_keep: as in transformers; or bool [R, L], positions whose logits are computed, and the output's
                `logits` are then [K, V]. By default those that predict a label, and without labels all of them.
            output_at: [K] places in the flattened rows, for which no GPU is asked how many a mask holds.
            output_states: give the output layer's input at the chosen positions, [K, D], in place of their logits.

        Raises:
            RellmError: the placeholders do not match the audio, padding stands inside a row, or a row is longer than
                the LLM's positions reach.
        """
        if input_features is not None:
            speech = self.encode_audio(input_features, feature_lengths, emotion_values, emotion_lengths)
        if isinstance(speech, EncodedAudio):
            speech = self.encode_speech(speech, token_lengths=token_lengths)
        self._refuse_too_long(input_ids.shape[1] + (past_key_values.get_seq_length() if past_key_values else 0))
        placeholders = self._placeholders(input_ids, speech, past_key_values)
        chosen = output_at if output_at is not None else _chosen_positions(logits_to_keep, labels)
        states: list[Tensor] | None = [] if output_states else None
        if position_ids is None and attention_mask is not None:
            position_ids = self._positions(attention_mask)[:, -input_ids.shape[1] :]
        lora = self.partial_lora.using(placeholders, (len(input_ids), input_ids.shape[1]))
        with lora, only_at(self.get_output_embeddings(), chosen, states):
            outputs = self.language_model(
                inputs_embeds=self._embed(input_ids, placeholders, speech), attention_mask=attention_mask,
                position_ids=position_ids, past_key_values=past_key_values,
                logits_to_keep=logits_to_keep if chosen is None else 0, **llm_options,
            )  # fmt: skip
        loss = None if labels is None else losses.response_ce(outputs.logits, losses.next_labels(labels)[chosen])
        predicted = (None, None) if speech is None or speech.pooled is None else self.predict_emotion(speech)
        found = ReLlmOutput(loss, outputs.logits, outputs.past_key_values, speech, *predicted)
        if states:
            found.logits, found.output_states = None, states[0]
        return found

    def _positions(self, attention_mask: Tensor) -> Tensor:
        """Positions [R, L]; in training on a GPU without a look at the mask, which the host would wait for."""
        return positions(attention_mask, check=not self.training or attention_mask.device.type == "cpu")

    @torch.no_grad()
    def unsure(self, audio: EncodedAudio) -> list[bool] | None:
        """Of each utterance, whether its emotion is like that of no speech that the emotion encoder was trained on.

        Returns:
            None where the encoder has no categories of its own, or no limit of its training's calibration.
        """
        encoder = self.emotion_encoder
        if not isinstance(encoder, SharedEmotionEncoder) or not encoder.config.unsure_below:
            return None
        assert audio.emotion_states is not None, "a shared encoder is always heard"
        logits = encoder.classify(audio.emotion_states.to(encoder.dtype)).float() * encoder.config.logit_scale
        return (logits.softmax(1).amax(1) < encoder.config.unsure_below).tolist()

    def text_forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        logits_to_keep: int | Tensor = 0,
        output_at: Tensor | None = None,
        output_states: bool = False,
    ) -> ReLlmOutput:
        """The teacher: a text pass of the bare LLM, without gradient (BLSP section 2)."""
        with self.teacher():
            where = {"logits_to_keep": logits_to_keep, "output_at": output_at, "output_states": output_states}
            return self(input_ids, attention_mask, **where)

    @contextlib.contextmanager
    def teacher(self) -> Iterator[None]:
        """Inside, passes run without LoRA whatever its scope, without dropout and without gradient."""
        training = self.language_model.training
        self.language_model.eval()
        try:
            with torch.no_grad(), self.partial_lora.disabled():
                yield
        finally:
            self.language_model.train(training)

    def generate(self, inputs: Tensor | None = None, **options: Any) -> Tensor:
        """Continues rows of `input_ids`; takes the audio inputs of `forward` besides all that transformers takes.

        The audio is encoded once, and its tokens enter with the prompt. Rows are padded on the left. With a CFormer,
        whose number of speech tokens is not known beforehand, a row may hold one placeholder per recording instead;
        the returned rows begin with the rows as they were given.
        """
        input_ids = options.pop("input_ids", inputs)
        audio = {name: options.pop(name) for name in AUDIO_INPUTS if options.get(name) is not None}
        speech = options.pop("speech", None)
        if audio or isinstance(speech, EncodedAudio):
            with torch.no_grad():
                speech = self.encode_speech(speech, **audio)
        rows = input_ids
        if speech is not None:
            cache, token = options.get("past_key_values"), self.config.speech_token_id
            past = cache.get_seq_length() if cache is not None else 0
            if not (past or self.config.adapter.counts_beforehand):
                mask, lengths = options.get("attention_mask"), speech.lengths.tolist()
                rows, options["attention_mask"] = expand_rows(rows, mask, token, lengths)
            options["speech"] = pack_rows(speech, (rows[:, past:] == token).sum(1).tolist())
        found = super().generate(rows, **options)
        return found if rows is input_ids else with_prompts(found, input_ids, rows.shape[1])

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, *, speech: SpeechTokens | None = None, **inputs: object
    ) -> tuple[Tensor, dict[str, object]]:
        """Rows and their speech tokens once for each beam or sample."""
        ids, expanded = super()._expand_inputs_for_generation(expand_size=expand_size, **inputs)
        return ids, expanded | ({} if speech is None else {"speech": speech.repeat(expand_size)})

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, is_first_iteration: bool = False, **kwargs: object
    ) -> dict[str, object]:
        """Speech enters with the prompt; later steps find it in the cache. (transformers asks for `kwargs` by name.)"""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and inputs.get("use_cache", True):
            inputs.pop("speech", None)
        return inputs

    def _placeholders(self, input_ids: Tensor, speech: SpeechTokens | None, cache: Cache | None) -> Tensor | None:
        """True at speech tokens, [R, L]; None in a pass without speech."""
        if speech is None and cache is not None and cache.get_seq_length() > 0:
            return None  # decoding: whatever ids come now are text
        found = input_ids == self.config.speech_token_id
        if self.training and found.device.type != "cpu":  # the host does not wait for an answer at every step
            lengths = input_ids.new_zeros(1) if speech is None else pad(speech.lengths.cumsum(0), (1, 0))
            held = found.sum(1).cumsum(0)
            fits = torch.isin(held, lengths).all() & (held[-1] == lengths[-1])
            torch._assert_async(fits, "the rows' placeholders are not the speech tokens of whole utterances, in order")
            return None if speech is None else found
        if speech is not None:
            row_bounds(found.sum(1).tolist(), speech.lengths.tolist())
            return found
        if found.any():
            raise RellmError(f"the rows hold {int(found.sum())} speech placeholders, but no audio was given")
        return None

    def _refuse_too_long(self, length: int) -> None:
        limit = getattr(self.config.text_config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and length > limit:
            raise RellmError(
                f"a row of {length} tokens, and this LLM was trained up to {limit}",
                todo="Shorten the conversation or the recording, or lower max_new_tokens",
            )

    def _embed(self, input_ids: Tensor, placeholders: Tensor | None, speech: SpeechTokens | None) -> Tensor:
        """Input embeddings [R, L, D]. The placeholder's id may lie outside of the LLM's vocabulary."""
        embed = self.language_model.get_input_embeddings()
        if speech is None or placeholders is None:
            return embed(input_ids)
        embeddings = embed(input_ids.masked_fill(placeholders, 0))
        if not speech.embeddings.numel():
            return embeddings
        tokens = speech.flat()[(placeholders.flatten().cumsum(0) - 1).clamp(min=0)].view_as(embeddings)
        return torch.where(placeholders[..., None], tokens.to(embeddings.dtype), embeddings)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()


def _chosen_positions(logits_to_keep: int | Tensor, labels: Tensor | None) -> Tensor | None:
    """[R, L] bool where logits are computed; None = as transformers reads `logits_to_keep`."""
    if isinstance(logits_to_keep, Tensor) and logits_to_keep.dim() == 2:
        return logits_to_keep
    return None if labels is None else losses.next_labels(labels) != losses.IGNORE_INDEX


AutoModel.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
