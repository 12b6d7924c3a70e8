"""The one decoding path: hear, recognise, answer, stream. Chat, server, demo and the `respond` stage all go through it.

B batch, S speech tokens, L tokens, E emotions.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from re_llm.audio import waveform
from re_llm.core.assets import mini_assets, resolve_component
from re_llm.core.emotions import parse_answer
from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion, Trimmer
from re_llm.llm.device import pick_device, pick_dtype
from re_llm.llm.local import batches_by_length, read_completions, stop_ids
from re_llm.llm.prompts import Prompt, get_prompt, split_chat
from re_llm.llm.vocabulary import require_words

Audio = str | os.PathLike[str] | np.ndarray
DEFAULT_PROMPT = "chat-empathetic"
RECOGNIZE_PROMPT = "recognize"
SHIPPED_MODEL = "mini:re-llm"
ANSWER_TOKENS = 128  # unless asked otherwise
NAME_TOKENS = 16  # of the answer to a recognition prompt, which is one short sentence


@dataclass(frozen=True)
class Estimate:
    """What the model heard in one utterance.

    Attributes:
        emotion: the emotion that the model names in answer to the recognition prompt (RE-LLM section II-C); None when
            its answer names none. For `respond`, which does not ask, the likeliest of `probabilities`.
        answer: that answer, word for word.
        probabilities: of the categorical head, by emotion; empty for who only reads.
        valence, arousal, dominance: of the dimensional head, about 0..1; None when the model was trained without.
    """

    emotion: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    valence: float | None = None
    arousal: float | None = None
    dominance: float | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Reply(Estimate):
    """An estimate and the answer to the utterance. `finish_reason`: "stop", or "length" when it was cut."""

    response: str = ""
    tokens: int = 0
    finish_reason: str = "stop"


@dataclass(frozen=True)
class EncodedSpeech:
    """Speech of one utterance, ready for any number of prompts.

    Attributes:
        embeddings: [S, D] speech tokens.
        estimate: what the heads say.
    """

    embeddings: torch.Tensor = field(repr=False)
    estimate: Estimate


class Engine:
    """A loaded model. Not changed by use: calls may come from several threads, one after another."""

    def __init__(self, model: Any, processor: Any, name: str = ""):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.tokenizer = processor.tokenizer
        self.emotions: tuple[str, ...] = tuple(model.config.emotions)
        self.stops = stop_ids(self.tokenizer, model.language_model)
        pad = self.tokenizer.pad_token_id
        self.pad = pad if pad is not None else self.stops[0]
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def context(self) -> int | None:
        """Longest row of the LLM in tokens, the answer included; None when its config names no limit."""
        return getattr(self.model.config.text_config.get_text_config(), "max_position_embeddings", None)

    def samples(self, item: Audio, *asked: tuple[str | Prompt | None, int]) -> np.ndarray:
        """16 kHz mono float32 samples of a path, or of an array that is that already.

        Args:
            asked: what will be asked about them, as for `longest`.

        Raises:
            RellmError: see `re_llm.audio.waveform.load`; the array is not one-dimensional and finite; it is silent; or
                the LLM has no room for it.
        """
        name = "the audio array" if isinstance(item, np.ndarray) else os.fspath(item)
        array = np.asarray(item, dtype=np.float32) if isinstance(item, np.ndarray) else waveform.load(item)
        if array.ndim != 1:
            raise RellmError(f"audio array of shape {array.shape}", allowed="one dimension: 16 kHz mono samples")
        if not np.isfinite(array).all():
            raise RellmError(f"{name} holds NaN or infinite samples")
        return waveform.refuse_silence(waveform.refuse_long(array, name, self.longest(*asked)), name)

    def longest(self, *asked: tuple[str | Prompt | None, int]) -> float:
        """Seconds of speech that a row of the LLM has room for; infinite when that is more than can be loaded.

        Args:
            asked: every prompt that will stand around the speech, with the tokens that its answer may have; a prompt
                that is None is not asked. Nothing counts the speech alone.
        """
        if self.context is None or not self.model.config.adapter_settings.counts_beforehand:
            return math.inf  # a CFormer tells only when it has heard; the model refuses a row that is too long
        room = self.context - max((self._around(prompt) + tokens for prompt, tokens in asked if prompt), default=0)
        tenths = range(1, round(10 * waveform.MAX_SECONDS) + 1)
        fit = bisect_right(tenths, room, key=lambda n: self.processor.speech_token_count(n * waveform.RATE // 10))
        return math.inf if fit == len(tenths) else fit / 10

    def _around(self, prompt: str | Prompt) -> int:
        """Tokens of a prompt without the speech."""
        chosen = get_prompt(prompt) if isinstance(prompt, str) else prompt
        return sum(len(self._tokens(piece)) for piece in split_chat(self.tokenizer, chosen))

    @torch.inference_mode()
    def encode(self, samples: Sequence[np.ndarray]) -> list[EncodedSpeech]:
        """Encodes one batch of recordings (16 kHz mono)."""
        inputs = {k: v.to(self.device) for k, v in self.processor.audio_inputs(list(samples)).items()}
        with self._lock:
            speech = self.model.encode_speech(**inputs)
            logits, dimensions = self.model.predict_emotion(speech)
        probabilities = logits.float().softmax(-1).tolist()
        dimensions = dimensions.float().tolist()
        lengths = speech.lengths.tolist()
        return [
            EncodedSpeech(speech.embeddings[i, : lengths[i]], self._estimate(probabilities[i], dimensions[i]))
            for i in range(len(samples))
        ]

    def _estimate(self, probabilities: Sequence[float], dimensions: Sequence[float]) -> Estimate:
        by_name = dict(zip(self.emotions, probabilities, strict=True))
        valence, arousal, dominance = dimensions
        return Estimate(max(by_name, key=by_name.__getitem__), by_name, valence, arousal, dominance)

    def _row(self, encoded: EncodedSpeech, around: tuple[str, str]) -> list[int]:
        ids = [self._tokens(piece) for piece in around]
        return [*ids[0], *([self.model.config.speech_token_id] * len(encoded.embeddings)), *ids[1]]

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _inputs(self, encoded: Sequence[EncodedSpeech] | None, rows: Sequence[list[int]]) -> dict[str, Any]:
        """Left-padded prompt rows with their speech tokens, if they have any."""
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad] * (width - len(r)) + r for r in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=self.device)
        if encoded is None:
            return {"input_ids": ids, "attention_mask": mask}
        lengths = torch.tensor([len(h.embeddings) for h in encoded], device=self.device)
        embeddings = torch.nn.utils.rnn.pad_sequence([h.embeddings for h in encoded], batch_first=True)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "speech_embeddings": embeddings,
            "speech_lengths": lengths,
        }

    @torch.inference_mode()
    def answer(
        self,
        encoded: Sequence[EncodedSpeech],
        prompt: str | Prompt = DEFAULT_PROMPT,
        *,
        history: list[dict[str, str]] | None = None,
        max_new_tokens: int = ANSWER_TOKENS,
        **sampling: Any,
    ) -> list[Completion]:
        """The LLM's answers to one prompt about one batch of utterances. `sampling` goes to `generate`."""
        chosen = get_prompt(prompt) if isinstance(prompt, str) else prompt
        around = split_chat(self.tokenizer, chosen, history)
        rows = [self._row(h, around) for h in encoded]
        return self.answer_rows(rows, encoded, max_new_tokens=max_new_tokens, **sampling)

    @torch.inference_mode()
    def answer_rows(
        self,
        rows: Sequence[list[int]],
        encoded: Sequence[EncodedSpeech] | None = None,
        *,
        max_new_tokens: int,
        **sampling: Any,
    ) -> list[Completion]:
        """The LLM's answers to one batch of finished rows of token ids.

        Args:
            heard: speech of each row, as many embeddings as the row has placeholders; None for rows of text alone.
        """
        inputs = self._inputs(encoded, rows)
        options = {"do_sample": False, **sampling}
        with self._lock:
            out = self.model.generate(
                **inputs, max_new_tokens=max_new_tokens, eos_token_id=self.stops, pad_token_id=self.pad, **options
            )
        return read_completions(self.tokenizer, out[:, inputs["input_ids"].shape[1] :], self.stops)

    def respond(self, item: Audio, *, prompt: str | Prompt = DEFAULT_PROMPT, **options: Any) -> Reply:
        """Answers one recording.

        Args:
            item: path of a recording, or 16 kHz mono samples [N].
            options: see `answer` (`history`, `max_new_tokens`, sampling).

        Raises:
            RellmError: the recording cannot be used; says why.
        """
        (encoded,) = self.encode([self.samples(item, (prompt, options.get("max_new_tokens", ANSWER_TOKENS)))])
        (answer,) = self.answer([encoded], prompt, **options)
        return _reply(encoded.estimate, answer)

    def recognize(self, item: Audio, *, prompt: str = RECOGNIZE_PROMPT) -> Estimate:
        """Asks the model which emotion it hears in one recording."""
        (encoded,) = self.encode([self.samples(item, (prompt, NAME_TOKENS))])
        (answer,) = self.answer([encoded], prompt, max_new_tokens=NAME_TOKENS)
        return self._named(encoded.estimate, answer)

    def _named(self, estimate: Estimate, answer: Completion) -> Estimate:
        return Estimate(
            **{**vars(estimate), "emotion": parse_answer(answer.text, self.emotions), "answer": answer.text}
        )

    def stream(self, item: Audio, *, prompt: str | Prompt = DEFAULT_PROMPT, **options: Any) -> Iterator[str]:
        """Pieces of the answer as they are decoded; joined they are `respond(...)`'s response."""
        from transformers import TextIteratorStreamer

        (encoded,) = self.encode([self.samples(item, (prompt, options.get("max_new_tokens", ANSWER_TOKENS)))])
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self.answer([encoded], prompt, streamer=streamer, **options)
            except BaseException as error:  # handed to the reader, who would wait for ever otherwise
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        trim = Trimmer()
        yield from filter(None, map(trim.feed, streamer))
        thread.join()
        if failure:
            raise failure[0]

    def respond_many(
        self,
        items: Sequence[Audio],
        *,
        prompt: str | Prompt | None = DEFAULT_PROMPT,
        recognize: str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = ANSWER_TOKENS,
        on_batch: Callable[[list[int], list[Reply]], None] | None = None,
        **options: Any,
    ) -> list[Reply]:
        """Answers many recordings, batched by length; every recording is encoded once for both prompts.

        Args:
            prompt: None to recognise only.
            recognize: id of a recognition prompt to ask as well; its answer goes to `emotion` and `answer`.
            on_batch: called with the indices and replies of every finished batch.

        Returns:
            Replies in the order of `items`.

        Raises:
            RellmError: a recording cannot be used, or is too long for the LLM; nothing has been answered then.
        """
        samples = [self.samples(item, (prompt, max_new_tokens), (recognize, NAME_TOKENS)) for item in items]
        replies: list[Reply | None] = [None] * len(samples)
        for batch in batches_by_length([len(s) for s in samples], batch_size):
            encoded = self.encode([samples[i] for i in batch])
            estimates = [h.estimate for h in encoded]
            if recognize:
                asked = self.answer(encoded, recognize, max_new_tokens=NAME_TOKENS)
                estimates = [self._named(e, a) for e, a in zip(estimates, asked, strict=True)]
            answers = [Completion("", 0, "stop")] * len(encoded)
            if prompt:
                answers = self.answer(encoded, prompt, max_new_tokens=max_new_tokens, **options)
            done = [_reply(e, a) for e, a in zip(estimates, answers, strict=True)]
            for i, reply in zip(batch, done, strict=True):
                replies[i] = reply
            if on_batch:
                on_batch(batch, done)
        assert all(r is not None for r in replies)
        return replies  # type: ignore[return-value]


def _reply(estimate: Estimate, answer: Completion) -> Reply:
    return Reply(**vars(estimate), response=answer.text, tokens=answer.tokens, finish_reason=answer.finish_reason)


def load(
    name: str | os.PathLike[str] = SHIPPED_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
) -> Engine:
    """Loads a checkpoint: a folder, a hub id, or `mini:re-llm`, the miniature shipped with the package.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`.
        dtype: `auto`, `float32`, `bfloat16`, `float16`.
        quantize: `8bit` or `4bit` for the LLM alone (extra `quantize`); None leaves it in `dtype`.

    Raises:
        RellmError: no such folder; a file in it is missing, truncated or does not fit (names the file); no such device.
    """
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.processing import ReLlmProcessor

    folder = resolve_component(str(name))
    where = pick_device(device)
    model = ReLlmForConditionalGeneration.from_pretrained(
        folder, dtype=pick_dtype(dtype, where), device_map=where, quantize=quantize
    )
    try:
        processor = ReLlmProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{folder} lacks what prepares text and audio, or holds it broken: {str(error).splitlines()[0]}"
        raise RellmError(what, todo="Copy or download the whole folder again") from None
    require_words(processor.tokenizer, folder)
    return Engine(model.to(where), processor, name=str(name))


def shipped_recordings() -> Path:
    """Folder of the recordings that ship with the miniature."""
    return mini_assets() / "recordings"
