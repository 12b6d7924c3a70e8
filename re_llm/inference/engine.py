"""The one decoding path: encode, recognise, respond, stream. Chat, server, demo and `respond` all go through it.

B batch, S speech tokens, L tokens, D width of the LLM.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch

from re_llm.audio.given import Audio, describe, read
from re_llm.audio.waveform import RATE, Samples
from re_llm.core.answer_parser import parse_answer
from re_llm.core.assets import MINI_MODEL, default_model, hint_at_small, mini_assets, resolve_component
from re_llm.core.records import Utterance
from re_llm.inference import encoding
from re_llm.inference.careful import Said, answered, doubt_about, read_out
from re_llm.inference.decoding import Decoding, DecodingOptions
from re_llm.inference.dialogue import respond_dialogues
from re_llm.inference.estimate import EncodedSpeech, Estimate
from re_llm.inference.generation import generate
from re_llm.inference.many import answer_many
from re_llm.inference.reply import (
    DEFAULT_PROMPT,
    RECOGNITION_PROMPT,
    RECOGNITION_TOKENS,
    History,
    OnBatch,
    Reply,
    ReplyOptions,
    RespondOptions,
)
from re_llm.inference.room import seconds_that_fit
from re_llm.inference.streaming import text_pieces
from re_llm.llm.completion import Completion
from re_llm.llm.device import pick_attention, pick_device, pick_dtype
from re_llm.llm.packed import pack
from re_llm.llm.prompts import Prompt, get_prompt, split_chat
from re_llm.llm.rows import stop_ids

if TYPE_CHECKING:
    from re_llm.inference.conversation import ChatOptions, Conversation
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import ReLlmProcessor

SHIPPED_MODEL = MINI_MODEL  # complete: its parts ship as well


class Engine:
    """A loaded model. Not changed by use: calls may come from several threads, one after another.

    Attributes:
        context: longest row of the LLM in tokens, the answer included; None when its config names no limit.
        lock: held during a pass of the LLM.
        trained_seconds: longest utterance that the model was trained on; None when its config does not say.
        longest_token: bytes of text that a token stands for at most.
        careful: `careful` of config.json: words about harming oneself are answered by rule (`re_llm.core.risk`).
        words_unsure_below: of config.json: mean probability of the words in the speech tokens below which they count as
            not understood, which is then the answer (`re_llm.inference.careful`); None = whatever is heard is answered.
        names, needs_audio, dtype, quantized: see `System`.
    """

    needs_audio = True

    def __init__(self, model: ReLlmForConditionalGeneration, processor: ReLlmProcessor, name: str = ""):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.tokenizer = processor.tokenizer
        self.emotions: tuple[str, ...] = tuple(model.config.emotions)
        self.stops = stop_ids(self.tokenizer, model.language_model)
        text_config = model.config.text_config.get_text_config()
        self.context: int | None = getattr(text_config, "max_position_embeddings", None)
        self.names, self.longest_token = (name,), max(len(token.encode()) for token in self.tokenizer.get_vocab())
        self.dtype: torch.dtype = model.dtype
        self.quantized: str | None = model.quantized
        self.careful = bool(getattr(model.config, "careful", False)) and model.ctc_blank is not None
        limit = getattr(model.config, "words_unsure_below", None)
        self.words_unsure_below: float | None = None if limit is None or model.ctc_blank is None else float(limit)
        self.trained_seconds: float | None = model.config.trained_seconds
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        llm = type(self.model.language_model).__name__
        numbers = str(self.dtype).removeprefix("torch.") + (f", LLM in {self.quantized}" if self.quantized else "")
        return f"<Engine {self.name!r}: {llm} on {self.device}, {numbers}; emotions: {', '.join(self.emotions)}>"

    @property
    def device(self) -> torch.device:
        return self.model.device

    def samples(self, item: Audio, *prompts: tuple[str | Prompt | None, int]) -> np.ndarray:
        """Samples [T] (`re_llm.audio.given.read`) without the silence at the ends (`re_llm.audio.speech.prepare`)."""
        return self.prepared(read(item), describe(item), *prompts)

    def prepared(self, wave: Samples, name: str, *prompts: tuple[str | Prompt | None, int]) -> Samples:
        """As `samples`, of samples [T] at 16 kHz; `name` is for messages."""
        return encoding.prepared(wave, name, self.trained_seconds, self.max_seconds(*prompts))

    def _encoded(self, item: Audio, prompt: str | Prompt, tokens: int) -> list[EncodedSpeech]:
        return self.encode([self.samples(item, (prompt, tokens))], room=self.max_seconds((prompt, tokens)))

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """Seconds of speech that a row of the LLM has room for; infinite when that is more than can be loaded.

        Args:
            prompts: prompts around the speech, each with the tokens that its answer may have; None stands for no
                prompt. Without any, the speech is counted alone.
        """
        return seconds_that_fit(self.processor, self.model.config, self.context, prompts)

    def encode(
        self, samples: Sequence[np.ndarray], emotion_from: Sequence[np.ndarray] | None = None, *,
        room: float = math.inf, window: float | None = None,
    ) -> list[EncodedSpeech]:  # fmt: skip
        """Encodes recordings (16 kHz mono) in one batch; long ones window by window (`re_llm.inference.encoding`).

        Args:
            emotion_from: recordings whose emotion embeddings stand in the place of their own; none is cut then.
            room: see `max_seconds`.
            window: longest window in seconds; None = what the model was trained on.
        """
        trained = self.trained_seconds

        def encode(waves: Sequence[np.ndarray]) -> list[EncodedSpeech]:
            return encoding.encode_batch(self.model, self.processor, waves, emotion_from)

        if emotion_from is not None:
            return encode(samples)
        found = encoding.in_windows(samples, encoding.window_seconds(trained, room, window), encode)
        return [encoding.whole(each, wave, trained, room) for each, wave in zip(found, samples, strict=True)]

    def trajectory(self, item: Audio, *, window: float | None = None) -> Estimate:
        """The emotion of one recording over time, and as its mean; the LLM is not asked.

        Args:
            window: longest window in seconds, 1 to 30; None = what the model was trained on, as everywhere.
        """
        wave = read(item)
        samples = encoding.prepared(wave, describe(item), self.trained_seconds, math.inf, window)
        return encoding.with_trajectory(self.encode([samples], window=window)[0].estimate, wave, samples)

    def answer(
        self,
        encoded: Sequence[EncodedSpeech],
        prompt: str | Prompt = DEFAULT_PROMPT,
        *,
        history: list[dict[str, str]] | None = None,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> list[Completion]:
        """The LLM's answers to one prompt about one batch of utterances.

        Args:
            history: earlier turns of text, in chat-message form.
            on_text: called with the pieces of the answer to a batch of one as they are decoded.
            cancelled: called after every token; True ends the answers there.
            decoding: see `Decoding`.
        """
        before, after = split_chat(self.tokenizer, get_prompt(prompt), history)
        rows = [self.processor.row([before, len(each.embeddings), after]) for each in encoded]
        said = [self.said(each) for each in encoded] if get_prompt(prompt).id.startswith("chat") else None
        speech = [each.embeddings for each in encoded]
        return self.generate(rows, speech, Decoding(**decoding), said=said, on_text=on_text, cancelled=cancelled)

    def said(self, encoded: EncodedSpeech) -> Said:
        """What rules look at in a recording; nothing for a model that has none."""
        if not (self.careful or self.words_unsure_below is not None):
            return Said()
        read, doubt = read_out(self.model, encoded.heard), None
        if self.words_unsure_below is not None:
            seconds = len(encoded.samples) / RATE
            doubt = doubt_about(read, seconds, self.words_unsure_below, encoded.estimate)
        text = str(self.tokenizer.decode(read.ids, clean_up_tokenization_spaces=False)) if self.careful else ""
        return Said(text, doubt)

    def generate(
        self,
        rows: Sequence[list[int]],
        speech: Sequence[torch.Tensor],
        decoding: Decoding,
        *,
        said: Sequence[Said] | None = None,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Completion]:
        """The LLM's answers to finished rows of token ids (`re_llm.inference.generation`); `said`: see `answered`."""

        def decode() -> list[Completion]:
            with self.lock:
                return generate(self.model, self.processor, self.stops, rows, speech, decoding, on_text, cancelled)

        return answered(decode, said, on_text) if said else decode()

    def respond(
        self,
        item: Audio,
        *,
        prompt: str | Prompt = DEFAULT_PROMPT,
        history: list[dict[str, str]] | None = None,
        cancelled: Callable[[], bool] | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> Reply:
        """Responds to one recording.

        Args:
            item: a path, bytes, an array with or without its rate, ...; see `re_llm.audio.given`.
            history, cancelled, decoding: see `answer`.

        Raises:
            RellmError: the recording cannot be used; says why.
        """
        encoded = self._encoded(item, prompt, Decoding(**decoding).most_tokens)
        (completion,) = self.answer(encoded, prompt, history=history, cancelled=cancelled, **decoding)
        return replace(Reply.of(encoded[0].estimate, completion), recordings=(encoded[0].samples,))

    async def arespond(self, item: Audio, **options: Unpack[RespondOptions]) -> Reply:
        """`respond` without blocking the event loop; cancelling the task ends the answer at the next token."""
        left = threading.Event()
        try:
            return await asyncio.to_thread(self.respond, item, cancelled=left.is_set, **options)
        finally:
            left.set()

    def chat(self, **options: Unpack[ChatOptions]) -> Conversation:
        """A conversation of several turns of speech and text; see `Conversation`."""
        from re_llm.inference.conversation import Conversation

        return Conversation(self, **options)

    def recognize(
        self,
        item: Audio,
        *,
        prompt: str = RECOGNITION_PROMPT,
        max_new_tokens: int = RECOGNITION_TOKENS,
        repetition_penalty: float | None = None,
    ) -> Estimate:
        """The emotion of one recording: what the heads predict, and what the LLM names when it is asked."""
        return self.named(self._encoded(item, prompt, max_new_tokens), prompt, max_new_tokens, repetition_penalty)[0]

    def named(
        self, encoded: Sequence[EncodedSpeech], prompt: str, tokens: int, penalty: float | None
    ) -> list[Estimate]:
        """Estimates with the emotion that the LLM names in answer to a recognition prompt."""
        answers = self.answer(encoded, prompt, max_new_tokens=tokens, repetition_penalty=penalty)
        return [
            replace(speech.estimate, named_emotion=parse_answer(answer.text, self.emotions), answer=answer.text)
            for speech, answer in zip(encoded, answers, strict=True)
        ]

    def stream(
        self,
        item: Audio,
        *,
        prompt: str | Prompt = DEFAULT_PROMPT,
        history: list[dict[str, str]] | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> Generator[str, None, None]:
        """Pieces of the response as they are decoded; joined they are that of `respond`, which has the same options.

        Closing the generator, or letting go of it, ends the answer at the next token.
        """
        encoded = self._encoded(item, prompt, Decoding(**decoding).most_tokens)
        yield from text_pieces(partial(self.answer, encoded, prompt, history=history, **decoding))

    def respond_many(
        self,
        items: Sequence[Audio],
        *,
        prompt: str | Prompt | None = DEFAULT_PROMPT,
        recognize: str | None = None,
        recognize_tokens: int = RECOGNITION_TOKENS,
        batch_size: int = 16,
        on_batch: OnBatch | None = None,
        **decoding: Unpack[DecodingOptions],
    ) -> list[Reply]:
        """Replies to many recordings, in their order; batched by length, each is encoded once for both prompts.

        Args:
            prompt: None to recognise only.
            recognize: id of a recognition prompt; its answer goes to `named_emotion` and `answer`.
            recognize_tokens: most tokens of that answer.
            on_batch: called with the indices and replies of every finished batch.
            decoding: see `answer`.

        Raises:
            RellmError: a recording cannot be used; nothing has been answered then.
        """
        prompts = (prompt, Decoding(**decoding).most_tokens), (recognize, recognize_tokens)
        samples = [self.samples(item, *prompts) for item in items]
        return answer_many(self, samples, prompt, prompts[1], batch_size, on_batch, **decoding)

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Replies to the recordings of manifest rows; see `System`."""
        assert samples is not None, "an engine needs recordings"
        if histories:
            return respond_dialogues(self, samples, histories, options, on_batch)
        recognition = options.recognize, options.recognize_tokens
        return answer_many(
            self, samples, options.prompt, recognition, options.batch_size, on_batch, **options.decoding()
        )


def load(
    name: str | os.PathLike[str] | None = None, *,
    device: str = "auto", dtype: str = "auto", quantize: str | None = None, attention: str = "auto",
) -> Engine:  # fmt: skip
    """Loads a checkpoint: a folder, a hub id, `small:re-llm` or `mini:re-llm`.

    Args:
        name: None = RE_LLM_MODEL, else the small model when its parts are here, else the miniature.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`; see `re_llm.llm.device.pick_dtype`.
        quantize: `8bit` or `4bit` for the LLM alone (extra `quantize`); None leaves it in `dtype`.
        attention: `auto`, `eager`, `sdpa`, `flash_attention_2`, of LLM and encoders; see `pick_attention`.

    Raises:
        RellmError: no such folder; a file in it is missing, truncated or does not fit (names the file); no such device.
    """
    from re_llm.model.components import stored_config
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import load_processor

    if name is None:
        name, hint = default_model(), hint_at_small()
        if hint:
            warnings.warn(hint, stacklevel=2)
    folder = resolve_component(str(name))
    where = pick_device(device)
    own = stored_config(folder)
    model = ReLlmForConditionalGeneration.from_pretrained(
        folder, config=own, dtype=pick_dtype(dtype, where, width=own.llm_width), device_map=where, quantize=quantize,
        attn_implementation=pick_attention(attention, where),
    )  # fmt: skip
    model = model.to(where)
    pack(model.language_model)
    return Engine(model, load_processor(folder), name=str(name))


def shipped_recordings() -> Path:
    """Folder of the recordings that ship with the miniature."""
    return mini_assets() / "recordings"
