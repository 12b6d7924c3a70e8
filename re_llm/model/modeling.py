"""The model: two encoders, an adapter, an LLM with partial LoRA, two emotion heads.

Shapes: B utterances, R rows, F mel frames, N samples, T encoder states, S speech tokens, L row length, D LLM width,
V vocabulary, E emotions, K positions whose logits were asked for. Usually a row holds one utterance, so B = R.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from re_llm.core.errors import RellmError
from re_llm.model import losses, partial_lora
from re_llm.model.cformer import make_adapter
from re_llm.model.configuration import DIMENSIONS, ReLlmConfig
from re_llm.model.emotion_encoder import EmotionEncoder, align_frames, make_emotion_encoder
from re_llm.model.outputs import EncodedAudio, ReLlmOutput, SpeechTokens
from re_llm.model.rows import expand_rows, pack_rows, positions, row_bounds, with_prompts
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.speech_encoder import SpeechEncoder
from re_llm.model.trainable import TrainableModel

AUDIO_INPUTS = ("input_features", "feature_lengths", "emotion_values", "emotion_lengths", "encoded")
SPEECH_INPUTS = (*AUDIO_INPUTS, "speech_embeddings", "speech_lengths")


class ReLlmForConditionalGeneration(TrainableModel, GenerationMixin):
    """A chat LLM that hears what is said and how (RE-LLM section II).

    Use `from_pretrained` for a checkpoint and `from_components` for a fresh model. The constructor builds the parts
    that it is not given from the config, with random weights, and adds no LoRA.

    Args:
        config: what the checkpoint says.
        language_model, speech_encoder, emotion_encoder: ready parts.
    """

    config_class = ReLlmConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

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
        heard = config.speech_width + config.emotion_width
        self.adapter = make_adapter(heard, config.llm_width, config.adapter_settings)
        self.emotion_head = nn.Linear(config.llm_width, len(config.emotions), bias=False)
        self.dimension_head = nn.Linear(config.llm_width, len(DIMENSIONS), bias=False)
        self.ctc_blank = nn.Parameter(torch.zeros(config.llm_width)) if config.ctc_blank else None
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.partial_lora = partial_lora.PartialLora(self.language_model, "global")
        # Where the weights of a named component come from: a folder or a hub id; None = the checkpoint itself.
        self.component_sources: dict[str, str | None] = dict.fromkeys(config.components)
        self.quantized: str | None = None  # how the LLM was quantised when it was loaded
        with no_init_weights():  # the parts are initialised already, some from files
            self.post_init()

    # --- hearing -----------------------------------------------------------------------------------------------

    def encode_audio(
        self,
        input_features: Tensor,
        feature_lengths: Tensor,
        emotion_values: Tensor | None = None,
        emotion_lengths: Tensor | None = None,
    ) -> EncodedAudio:
        """The encoders' part of hearing; as long as they stay frozen it can be computed once and kept.

        Args:
            input_features: [B, M, F] log-mel frames.
            feature_lengths: [B] real frames.
            emotion_values: [B, N] samples at 16 kHz; needed by an emotion encoder of its own.
            emotion_lengths: [B] real samples.

        Raises:
            RellmError: the emotion encoder's input is missing.
        """
        if isinstance(self.emotion_encoder, SharedEmotionEncoder):  # both are frozen
            with torch.no_grad():
                heard = self.speech_encoder.with_layers(input_features, feature_lengths, self.emotion_encoder.layers)
                return EncodedAudio(*heard[:2], self.emotion_encoder(heard[2], heard[1]).embedding)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._hearing_is_trained):
            states, lengths = self.speech_encoder(input_features, feature_lengths)
        if self.emotion_encoder is None:
            return EncodedAudio(states, lengths)
        if emotion_values is None or emotion_lengths is None:
            raise RellmError(
                "this model has an emotion encoder, but emotion_values and emotion_lengths were not given",
                todo="Make the inputs with the checkpoint's own processor",
            )
        if self.config.fusion == "pooled":
            return EncodedAudio(states, lengths, self.emotion_encoder(emotion_values, emotion_lengths))
        frames, counts = self.emotion_encoder.frames(emotion_values, emotion_lengths)
        return EncodedAudio(states, lengths, align_frames(frames, counts, lengths))

    def encode_speech(
        self,
        input_features: Tensor | None = None,
        feature_lengths: Tensor | None = None,
        emotion_values: Tensor | None = None,
        emotion_lengths: Tensor | None = None,
        encoded: EncodedAudio | None = None,
        token_lengths: Tensor | None = None,
    ) -> SpeechTokens:
        """Speech tokens of a batch of utterances; the one way in for training, generation, chat and serving.

        Takes the audio inputs of `encode_audio`, or its result as `encoded`; for training a CFormer also the number
        of transcript tokens [B].
        """
        if encoded is None:
            if input_features is None or feature_lengths is None:
                raise RellmError("speech needs input_features and feature_lengths, or encoded")
            encoded = self.encode_audio(input_features, feature_lengths, emotion_values, emotion_lengths)
        states = encoded.speech_states.to(self.adapter.dtype)
        if (encoded.emotion_states is None) != (self.config.fusion == "none"):
            raise RellmError(f"the fusion is {self.config.fusion!r}, but `encoded` was made for another one")
        if encoded.emotion_states is not None:
            emotion = encoded.emotion_states.to(states.dtype)
            if emotion.dim() == 2:
                emotion = emotion[:, None].expand(-1, states.shape[1], -1)
            states = torch.cat([states, emotion], dim=-1)
        known = {} if token_lengths is None else {"token_lengths": token_lengths}
        return self.adapter(states, encoded.speech_lengths, **known)

    def predict_emotion(self, speech: SpeechTokens) -> tuple[Tensor, Tensor]:
        """What the heads hear: emotion logits [B, E], and valence, arousal, dominance [B, 3] (RE-LLM eq. 7-9)."""
        return self.emotion_head(speech.pooled), self.dimension_head(speech.pooled)

    # --- answering ---------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        input_features: Tensor | None = None,
        feature_lengths: Tensor | None = None,
        emotion_values: Tensor | None = None,
        emotion_lengths: Tensor | None = None,
        encoded: EncodedAudio | None = None,
        token_lengths: Tensor | None = None,
        speech_embeddings: Tensor | None = None,
        speech_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        logits_at: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> ReLlmOutput:
        """One pass of the LLM over rows that hold one placeholder per speech token.

        Args:
            input_ids: [R, L]; `config.speech_token_id` where a speech token goes.
            attention_mask: [R, L], 0 at padding, which stands at the ends of a row only.
            position_ids: [R, L]; by default real tokens are counted.
            input_features, feature_lengths, emotion_values, emotion_lengths, encoded, token_lengths: see
                `encode_speech`.
            speech_embeddings, speech_lengths: [R, S, D] and [R], finished speech tokens instead of audio.
            labels: [R, L], -100 where nothing is to be learned; the output's `loss` is the next-token cross-entropy.
            logits_at: [R, L] bool, positions whose logits are computed; the output's `logits` are then [K, V]. By
                default those that predict a label, and without labels all of them.

        Raises:
            RellmError: the placeholders do not match the audio, padding stands inside a row, or a row is longer than
                the LLM's positions reach.
        """
        speech = None
        if any(value is not None for value in (input_features, encoded)):
            speech = self.encode_speech(
                input_features, feature_lengths, emotion_values, emotion_lengths, encoded, token_lengths
            )
        elif speech_embeddings is not None and speech_lengths is not None:
            speech = SpeechTokens(speech_embeddings, speech_lengths, speech_embeddings.new_empty(0))
        self._refuse_too_long(input_ids.shape[1] + (past_key_values.get_seq_length() if past_key_values else 0))
        placeholders = self._placeholders(input_ids, speech, past_key_values)
        if labels is not None and logits_at is None:
            logits_at = nn.functional.pad(labels[:, 1:] != losses.IGNORE, (0, 1))
        if position_ids is None and attention_mask is not None:
            position_ids = positions(attention_mask)[:, -input_ids.shape[1] :]
        shape = (input_ids.shape[0], input_ids.shape[1])
        with self.partial_lora.using(placeholders, shape), self._only_logits_at(logits_at):
            outputs = self.language_model(
                inputs_embeds=self._embed(input_ids, placeholders, speech),
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep if logits_at is None else 0,
                **kwargs,
            )
        loss = None
        if labels is not None and logits_at is not None:
            loss = losses.response_ce(outputs.logits, losses.next_labels(labels)[logits_at])
        heard = (None, None) if speech is None or speech.pooled.numel() == 0 else self.predict_emotion(speech)
        return ReLlmOutput(loss, outputs.logits, outputs.past_key_values, speech, *heard)

    def text_forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> ReLlmOutput:
        """The teacher: a text pass of the bare LLM, without gradient (BLSP section 2)."""
        with self.teacher():
            return self(input_ids, attention_mask, **kwargs)

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

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Continues rows of `input_ids`; takes the audio inputs of `forward` besides all that transformers takes.

        The audio is encoded once, and its tokens enter with the prompt. Rows are padded on the left. With a CFormer,
        whose number of speech tokens nobody knows before, a row may hold one placeholder per recording instead; the
        returned rows begin with the rows as they were given.
        """
        input_ids = kwargs.pop("input_ids", inputs)
        audio = {name: kwargs.pop(name) for name in AUDIO_INPUTS if kwargs.get(name) is not None}
        rows = input_ids
        if audio:
            with torch.no_grad():
                speech = self.encode_speech(**audio)
            cache = kwargs.get("past_key_values")
            past = cache.get_seq_length() if cache is not None else 0
            token, lengths = self.config.speech_token_id, speech.lengths.tolist()
            if not (past or self.config.adapter_settings.counts_beforehand):
                rows, kwargs["attention_mask"] = expand_rows(rows, kwargs.get("attention_mask"), token, lengths)
            counts = (rows[:, past:] == token).sum(1).tolist()
            kwargs["speech_embeddings"], kwargs["speech_lengths"] = pack_rows(speech, counts)
        found = super().generate(rows, **kwargs)
        return found if rows is input_ids else with_prompts(found, input_ids, rows.shape[1])

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Speech enters with the prompt; later steps find it in the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and inputs.get("use_cache", True):
            for name in SPEECH_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _placeholders(self, input_ids: Tensor, speech: SpeechTokens | None, cache: Any) -> Tensor | None:
        """True at speech tokens, [R, L]; None in a pass without speech."""
        if speech is None and cache is not None and cache.get_seq_length() > 0:
            return None  # decoding: whatever ids come now are text
        found = input_ids == self.config.speech_token_id
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
        tokens = speech.embeddings[speech.mask()].to(embeddings.dtype)
        return embeddings.masked_scatter(placeholders[..., None], tokens)

    @contextlib.contextmanager
    def _only_logits_at(self, where: Tensor | None) -> Iterator[None]:
        """The output layer sees the chosen positions alone; whatever the LLM does to its logits still happens."""
        if where is None:
            yield
            return
        output_layer = self.language_model.get_output_embeddings()
        handle = output_layer.register_forward_pre_hook(lambda _, args: (args[0][where],))
        try:
            yield
        finally:
            handle.remove()

    # --- files -------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *model_args: Any, **kwargs: Any
    ) -> ReLlmForConditionalGeneration:
        """A checkpoint from a folder or the hub; see `re_llm.model.storage.load`."""
        from re_llm.model import storage

        assert not model_args, f"unexpected positional arguments {model_args}"
        return storage.load(cls, pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_components(cls, *args: Any, **kwargs: Any) -> ReLlmForConditionalGeneration:
        """A fresh model over ready-made components; see `re_llm.model.components.build`."""
        from re_llm.model import components

        return components.build(cls, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Writes a checkpoint folder; see `re_llm.model.storage.save`."""
        from re_llm.model import storage

        storage.save(self, save_directory, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads a checkpoint; components that come from local folders are stored in it."""
        from re_llm.model import storage

        return storage.push(self, repo_id, **kwargs)

    def load_trained(self, folder: str | os.PathLike[str]) -> None:
        """Reads a checkpoint's weights into this model, which has the same config; for resuming a training."""
        from re_llm.model import storage

        storage.load_trained(self, folder)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()


AutoModel.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(ReLlmConfig, ReLlmForConditionalGeneration, exist_ok=True)
