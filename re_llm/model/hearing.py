"""From audio to speech tokens: the encoders and the adapter, whatever LLM is given the tokens.

Shapes: B utterances, F mel frames, N samples, T encoder states, S speech tokens, M mel bands, D LLM width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from re_llm.core.errors import RellmError
from re_llm.model.adapter import Subsampler
from re_llm.model.cformer import CFormer
from re_llm.model.emotion_encoder import EmotionEncoder, align_frames
from re_llm.model.outputs import EncodedAudio, SpeechTokens
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.model.speech_encoder import SpeechEncoder


class Hearing:
    """The part of a model that hears: a mixin of modules that have these parts."""

    config: Any  # ReLlmConfig; transformers types its models' configs so
    speech_encoder: SpeechEncoder
    emotion_encoder: EmotionEncoder | SharedEmotionEncoder | None
    adapter: Subsampler | CFormer

    @property
    def _speech_is_trained(self) -> bool:
        return False

    def encode_audio(
        self,
        input_features: Tensor | None = None,
        feature_lengths: Tensor | None = None,
        emotion_values: Tensor | None = None,
        emotion_lengths: Tensor | None = None,
    ) -> EncodedAudio:
        """What the encoders make of a batch of utterances; as long as they stay frozen it can be kept.

        Args:
            input_features: [B, M, F] log-mel frames.
            feature_lengths: [B] real frames.
            emotion_values: [B, N] samples at 16 kHz; needed by an emotion encoder of its own.
            emotion_lengths: [B] real samples.

        Raises:
            RellmError: an encoder's input is missing.
        """
        if input_features is None or feature_lengths is None:
            raise RellmError("speech needs input_features and feature_lengths, or encoded states")
        if isinstance(self.emotion_encoder, SharedEmotionEncoder):  # both are frozen
            with torch.no_grad():
                states, lengths, layers = self.speech_encoder.with_layers(
                    input_features, feature_lengths, self.emotion_encoder.layers
                )
                return EncodedAudio(states, lengths, self.emotion_encoder(layers, lengths).embedding)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._speech_is_trained):
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
        self, speech: EncodedAudio | None = None, *, token_lengths: Tensor | None = None, **audio: Any
    ) -> SpeechTokens:
        """Speech tokens of a batch of utterances; the one way in for training, generation, chat and serving.

        Args:
            speech: the result of `encode_audio`; None = it is made of its arguments, given as `audio`.
            token_lengths: [B], tokens of each transcript, for training a CFormer.
        """
        if speech is None:
            speech = self.encode_audio(**audio)
        states = speech.speech_states.to(self.adapter.dtype)
        if (speech.emotion_states is None) != (self.config.fusion == "none"):
            raise RellmError(f"the fusion is {self.config.fusion!r}, but the encoded states were made for another one")
        if speech.emotion_states is not None:
            emotion = speech.emotion_states.to(states.dtype)
            if emotion.dim() == 2:
                emotion = emotion[:, None].expand(-1, states.shape[1], -1)
            states = torch.cat([states, emotion], dim=-1)
        known = {} if token_lengths is None else {"token_lengths": token_lengths}
        return self.adapter(states, speech.speech_lengths, **known)
