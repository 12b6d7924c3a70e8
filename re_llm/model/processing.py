"""From text and recordings to model inputs, and the layout of rows.

Shapes: B recordings, R rows, N samples (16 kHz), M mel bins, F mel frames, L row length.
No torch until a batch is made: a processor can be loaded to count tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from transformers import (
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    WhisperFeatureExtractor,
)

from re_llm.audio.speech import at_level
from re_llm.core.errors import RellmError
from re_llm.llm.vocabulary import require_words
from re_llm.model.configuration import SPEECH_TOKEN, WINDOWS, ReLlmConfig
from re_llm.model.hub import locate, read_json, reading
from re_llm.model.inputs import (
    add_speech_token,
    emotion_input_kind,
    load_extractor,
    load_tokenizer,
    named_llm,
    refuse_audio,
    with_speech,
    without_speech,
)
from re_llm.model.mel import frame_count, speech_inputs
from re_llm.model.recordings import (
    MIN_SAMPLES,
    SAMPLE_RATE,
    Message,
    Recording,
    Samples,
    as_list,
    checked,
    flatten_messages,
    normalized,
    samples,
    stack,
)
from re_llm.recipe.options import AdapterOptions

if TYPE_CHECKING:
    from torch import Tensor

EMOTION_INPUTS = ("raw", "normalized")
Name = str | os.PathLike[str]


class ReLlmProcessor(ProcessorMixin):
    """Tokenizer, log-mel features for Whisper, and waveforms for the emotion encoder.

    Args:
        feature_extractor: Whisper's.
        tokenizer: the LLM's; gets the placeholder `<|speech|>` if it has none.
        emotion_input: `normalized` (zero mean, unit variance per utterance), `raw`, or None without an emotion
            encoder.
        speech_window: `full` pads the spectrogram to whole windows of 30 s, `trimmed` to the longest of the batch.
        speech_level: dB of full scale to which every recording is brought for the speech encoder
            (`re_llm.audio.speech.at_level`); None = as recorded.
        adapter: `AdapterOptions`, for the number of speech tokens.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        emotion_input: str | None = None,
        speech_window: str = "full",
        adapter: Mapping[str, object] | AdapterOptions | None = None,
        chat_template: str | None = None,
        speech_level: float | None = None,
    ):
        if emotion_input not in (None, *EMOTION_INPUTS):
            raise RellmError(f"emotion_input is {emotion_input!r}", allowed=", ".join(EMOTION_INPUTS))
        if speech_window not in WINDOWS:
            raise RellmError(f"speech_window is {speech_window!r}", allowed=", ".join(WINDOWS))
        if speech_level is not None and not -60 <= speech_level <= 0:
            raise RellmError(f"speech_level is {speech_level!r}", allowed="-60 to 0 dB of full scale")
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        add_speech_token(self.tokenizer)
        refuse_audio(self.tokenizer)
        template = chat_template or self.tokenizer.chat_template
        self.chat_template = with_speech(template) if isinstance(template, str) else template
        self.emotion_input, self.speech_window, self.speech_level = emotion_input, speech_window, speech_level
        self.adapter = AdapterOptions.read(adapter, "adapter").model_dump(mode="json")
        self.speech_token_id = int(self.tokenizer.convert_tokens_to_ids(SPEECH_TOKEN))

    @classmethod
    def from_components(
        cls,
        llm: Name,
        speech_encoder: Name,
        emotion_encoder: Name | None = None,
        *,
        speech_window: str = "full",
        speech_level: float | None = None,
        adapter: AdapterOptions | Mapping[str, object] | None = None,
    ) -> ReLlmProcessor:
        """The processor that goes with `ReLlmForConditionalGeneration.from_components` of the same components."""
        folder = locate(speech_encoder)
        return cls(
            load_extractor(folder),
            load_tokenizer(locate(llm)),
            emotion_input=None if emotion_encoder is None else emotion_input_kind(locate(emotion_encoder)),
            speech_window=speech_window,
            speech_level=speech_level,
            adapter=adapter,
        )

    def save_pretrained(self, save_directory: Name, **options: Any) -> list[str]:
        """Writes a folder, as every processor; its one chat template is the tokenizer's, which reads it as well."""
        kept = self.chat_template
        self.chat_template = without_speech(kept) if isinstance(kept, str) else kept
        try:
            return list(super().save_pretrained(save_directory, **options))
        finally:
            self.chat_template = kept

    # --- audio -------------------------------------------------------------------------------------------------

    def frame_count(self, samples: int) -> int:
        """Mel frames of a recording: those that begin inside it."""
        return frame_count(self.feature_extractor, samples)

    def speech_token_count(self, n_samples: int) -> int:
        """Speech tokens that the model makes of a recording of `n_samples` at 16 kHz (about 6.25 a second).

        Raises:
            RellmError: the adapter is a CFormer, whose number of tokens depends on the recording.
        """
        states = (self.frame_count(n_samples) - 1) // 2 + 1
        return AdapterOptions.read(self.adapter, "adapter").token_count(states)

    def audio_inputs(self, audio: Sequence[Samples]) -> dict[str, Tensor]:
        """Model inputs of recordings (float32, 16 kHz, mono).

        Returns:
            input_features [B, M, F], feature_lengths [B] in frames, and for an emotion encoder emotion_values [B, N],
            emotion_lengths [B] in samples; torch tensors.

        Raises:
            RellmError: a recording that is not mono float samples, or shorter than 25 ms.
        """
        import torch

        waves = [checked(wave, i) for i, wave in enumerate(audio)]
        level = self.speech_level
        heard = waves if level is None else [at_level(wave, level) for wave in waves]
        batch = speech_inputs(self.feature_extractor, heard, self.speech_window)
        if self.emotion_input is not None:
            values = [normalized(wave) if self.emotion_input == "normalized" else wave for wave in waves]
            batch["emotion_values"] = torch.from_numpy(stack(values))
            batch["emotion_lengths"] = torch.tensor([len(wave) for wave in waves])
        return batch

    # --- rows --------------------------------------------------------------------------------------------------

    def row(self, pieces: Sequence[str | int]) -> list[int]:
        """Token ids of one row. A text is tokenised on its own, a number stands for as many speech tokens."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, int):
                ids += [self.speech_token_id] * piece
            elif piece:
                ids += self.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return ids

    def pad_rows(
        self, rows: Sequence[Sequence[int]], *, padding_side: Literal["left", "right"] = "left"
    ) -> dict[str, Tensor]:
        """Rows of token ids as input_ids and attention_mask, [R, L]: left for generation, right for training."""
        from re_llm.llm.rows import pad_rows

        ids, mask = pad_rows(rows, self.pad_token_id, padding_side)
        return {"input_ids": ids, "attention_mask": mask}

    @property
    def pad_token_id(self) -> int:
        tokenizer = self.tokenizer
        return int(next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None))

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Recording | Sequence[Recording] | None = None,
        *,
        padding_side: Literal["left", "right"] = "left",
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **_: object,
    ) -> BatchFeature:
        """Model inputs of texts that hold one `<|speech|>` per recording.

        Each placeholder becomes as many as the recording gives speech tokens; with a CFormer it stays one, and the
        model's `generate` expands it. The text around it is tokenised piece by piece, as everywhere in this project,
        and gets no special tokens beyond those it spells out.

        Args:
            text: one text or several; None gives the audio inputs alone.
            audio: one recording or several (mono float32 samples at 16 kHz, or paths), in order of the placeholders.
            sampling_rate: checked, when given.

        Raises:
            RellmError: placeholders and recordings differ in number, or the sampling rate is not 16 kHz.
        """
        if sampling_rate not in (None, SAMPLE_RATE):
            raise RellmError(f"sampling_rate is {sampling_rate}", allowed=f"{SAMPLE_RATE}", todo="Resample first")
        if return_tensors != "pt":
            raise RellmError(f"return_tensors is {return_tensors!r}", allowed="pt")
        waves = [samples(item) for item in as_list(audio)]
        texts = [text] if isinstance(text, str) else list(text or [])
        data = self._rows(texts, waves, padding_side) if texts else {}
        return BatchFeature(data | (self.audio_inputs(waves) if waves else {}))

    def _rows(
        self, texts: Sequence[str], waves: Sequence[Samples], padding_side: Literal["left", "right"]
    ) -> dict[str, Tensor]:
        """Rows of texts, with as many placeholders as the recordings give speech tokens."""
        found = sum(text.count(SPEECH_TOKEN) for text in texts)
        if found != len(waves):
            raise RellmError(
                f"the text holds {found} {SPEECH_TOKEN} placeholders, and there are {len(waves)} recordings",
                allowed="one placeholder for each recording",
            )
        known = AdapterOptions.read(self.adapter, "adapter").counts_beforehand
        counts = iter([self.speech_token_count(len(wave)) if known else 1 for wave in waves])
        rows = []
        for text in texts:
            first, *others = text.split(SPEECH_TOKEN)
            rows.append(self.row([first, *(piece for other in others for piece in (next(counts), other))]))
        return self.pad_rows(rows, padding_side=padding_side)

    def apply_chat_template(
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = True,
        padding_side: Literal["left", "right"] = "left",
        **options: Any,
    ) -> str | list[str] | BatchFeature | Tensor:
        """The LLM's chat template over messages whose content may hold `{"type": "audio", "audio": samples or path}`.

        Args:
            conversation: messages of one conversation, or of several.
            tokenize: False gives the text with one placeholder per recording; True the model inputs (their
                `input_ids` alone with `return_dict=False`).

        Raises:
            RellmError: a content of another type, or an audio content without audio.
        """
        single = not conversation or isinstance(conversation[0], Mapping)
        texts: list[str] = []
        recordings: list[Recording] = []
        conversations: Any = [conversation] if single else conversation
        for messages in conversations:
            plain, found = flatten_messages(messages)
            recordings += found
            options["chat_template"] = chat_template or self.chat_template
            texts.append(
                self.tokenizer.apply_chat_template(
                    plain, tokenize=False, add_generation_prompt=add_generation_prompt, **options
                )
            )
        if not tokenize:
            return texts[0] if single else texts
        inputs = self(text=texts, audio=recordings, padding_side=padding_side)
        return inputs if return_dict else inputs["input_ids"]

    @property
    def model_input_names(self) -> list[str]:
        names = ["input_ids", "attention_mask", "input_features", "feature_lengths"]
        return names + (["emotion_values", "emotion_lengths"] if self.emotion_input is not None else [])


def load_processor(folder: Name) -> ReLlmProcessor:
    """The processor of a checkpoint folder, or of one of the hub.

    A folder without a tokenizer takes that of the LLM which its config.json names.

    Raises:
        RellmError: a file of it is missing or broken, or its tokenizer knows no words.
    """
    with reading(f"what prepares text and audio in {folder}", "Copy or download the whole folder again"):
        settings = read_json(path) if (path := Path(folder) / "processor_config.json").is_file() else {}
        llm = None if not settings or (Path(folder) / "tokenizer_config.json").is_file() else named_llm(Path(folder))
        processor = ReLlmProcessor.from_pretrained(folder) if llm is None else _over(llm, Path(folder), settings)
        require_words(processor.tokenizer, folder)
        processor.row(["A word."])  # some broken files show only when they are used
        processor.audio_inputs([np.zeros(MIN_SAMPLES, np.float32)])
    return processor


def _over(llm: Path, folder: Path, settings: Mapping[str, Any]) -> ReLlmProcessor:
    """The processor of a folder with the tokenizer of an LLM's folder."""
    given = ("emotion_input", "speech_window", "speech_level", "adapter")
    options = {name: settings[name] for name in given if name in settings}
    return ReLlmProcessor(load_extractor(folder), load_tokenizer(llm), **options)


AutoProcessor.register(ReLlmConfig, ReLlmProcessor, exist_ok=True)
