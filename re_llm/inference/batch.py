"""Answers several rows at once: a row joins while others are decoded, and leaves when it is complete.

transformers' own continuous batching takes token ids alone and wants paged attention; our rows hold speech embeddings.
Every row is prefilled on its own, as a single answer is, and its keys and values are padded on the left to those of the
others. B rows, W positions in the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import log_softmax, pad
from transformers import DynamicCache, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from re_llm.inference.generation import generation_options
from re_llm.inference.reply import Decoding, EncodedSpeech
from re_llm.inference.streaming import StopText, TextPieces
from re_llm.llm.completion import Completion
from re_llm.llm.rows import read_completions
from re_llm.model.outputs import SpeechTokens

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine


@dataclass(frozen=True)
class TokenChoice:
    """A generated token, its log probability, and the likeliest tokens in its place with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Row:
    """A conversation that is being answered.

    Attributes:
        ids, encoded: see `re_llm.inference.conversation.row`.
        decoding: `max_new_tokens` has to fit into the context behind `ids`.
        stop: texts that end the answer, which holds none of them.
        top_logprobs: how many likely tokens are kept with every token; None keeps nothing.
        ruled: an answer by rule, which is not decoded; see `re_llm.inference.careful`.
        on_text: called with the pieces of the answer; joined they are its text.
        on_done: called with the whole answer, or with the one so far when `cancelled()` is true.
    """

    ids: list[int]
    encoded: Sequence[EncodedSpeech]
    decoding: Decoding
    on_text: Callable[[str], None]
    on_done: Callable[[Completion], None]
    cancelled: Callable[[], bool] = lambda: False
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    ruled: str | None = None
    tokens: list[int] = field(default_factory=list)
    choices: list[TokenChoice] = field(default_factory=list)


@dataclass(eq=False)
class _Running:
    """A row in the batch: how its tokens are chosen and shown."""

    row: Row
    processors: LogitsProcessorList
    generator: torch.Generator | None
    text: StopText
    pieces: TextPieces

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from logits [V]; as `generate` chooses it."""
        row = self.row
        ids = torch.tensor([[*row.ids, *row.tokens]], device=logits.device)
        scores = self.processors(ids, logits[None])
        if row.decoding.temperature:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))
        else:
            token = int(scores.argmax(-1))
        if row.top_logprobs is not None:
            likely = log_softmax(logits, -1)
            top = likely.topk(row.top_logprobs)
            pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            row.choices.append(TokenChoice(token, float(likely[token]), pairs))
        return token


class RunningBatch:
    """Rows that are answered together; used by one thread.

    Attributes:
        capacity: rows at once; 1 for an LLM whose cache is not plain keys and values, one for each position.
    """

    def __init__(self, engine: Engine, capacity: int = 16):
        self.engine = engine
        self._ends = set(engine.stops)
        self._running: list[_Running] = []
        self._cache = self._new_cache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=engine.device)
        plain = bool(self._cache.layers) and all(type(layer) is DynamicLayer for layer in self._cache.layers)
        self.capacity = capacity if plain else 1

    def __len__(self) -> int:
        return len(self._running)

    @torch.inference_mode()
    def join(self, row: Row) -> None:
        """Prefills a row and decodes its first token."""
        assert len(self) < self.capacity, self.capacity
        if row.ruled is not None:
            row.on_text(row.ruled)
            row.on_done(Completion(row.ruled))
            return
        model, device = self.engine.model, self.engine.device
        cache, mask = self._new_cache(), torch.ones(1, len(row.ids), dtype=torch.long, device=device)
        speech = None
        if row.encoded:
            tokens = torch.cat([each.embeddings for each in row.encoded])[None]
            speech = SpeechTokens(tokens, torch.tensor([tokens.shape[1]], device=device))
        ids = torch.tensor([row.ids], device=device)
        with self.engine.lock:
            out = model(ids, mask, speech=speech, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._add(self._start(row), cache, mask)
        self._take([self._running[-1]], out.logits[:, -1])

    @torch.inference_mode()
    def step(self) -> None:
        """Decodes one token of every row."""
        self._leave([each for each in self._running if each.row.cancelled()])
        if not self._running:
            return
        device = self.engine.device
        last = torch.tensor([[each.row.tokens[-1]] for each in self._running], device=device)
        self._mask = pad(self._mask, (0, 1), value=1)
        with self.engine.lock:
            out = self.engine.model(last, self._mask, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._take(list(self._running), out.logits[:, -1])

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.engine.model.config.text_config.get_text_config())

    def _start(self, row: Row) -> _Running:
        model, tokenizer, decoding = self.engine.model, self.engine.tokenizer, row.decoding
        options = generation_options(model, self.engine.processor, self.engine.stops, decoding, len(row.ids))
        own = options.pop("logits_processor")
        config, _ = model._prepare_generation_config(None, **options)
        model._prepare_special_tokens(config, True, device=self.engine.device)
        processors = model._get_logits_processor(
            config, len(row.ids), torch.tensor([row.ids]), logits_processor=own, device=self.engine.device
        )
        generator = None
        if decoding.seed is not None:
            generator = torch.Generator(self.engine.device).manual_seed(decoding.seed)
        text = StopText(row.stop, row.on_text)
        pieces = TextPieces(tokenizer, text.take)
        pieces.put(torch.tensor(row.ids))  # the prompt, which is not shown
        return _Running(row, processors, generator, text, pieces)

    def _add(self, new: _Running, cache: DynamicCache, mask: torch.Tensor) -> None:
        if not self._running:
            self._running, self._cache, self._mask = [new], cache, mask
            return
        width = max(mask.shape[1], self._mask.shape[1])
        for old, added in zip(self._cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                setattr(old, name, torch.cat([_left(getattr(old, name), width), _left(getattr(added, name), width)]))
        self._mask = torch.cat([pad(each, (width - each.shape[1], 0)) for each in (self._mask, mask)])
        self._running.append(new)

    def _take(self, rows: list[_Running], logits: torch.Tensor) -> None:
        """Chooses a token of each row from logits [B, V]; complete rows leave."""
        done = []
        for each, scores in zip(rows, logits.float(), strict=True):
            token = each.choose(scores)
            each.row.tokens.append(token)
            if token not in self._ends:
                each.pieces.put(torch.tensor([token]))
            elif each.row.choices:
                each.row.choices.pop()  # the end is no part of the answer
            if token in self._ends or each.text.found or len(each.row.tokens) >= each.row.decoding.max_new_tokens:
                done.append(each)
        self._leave(done)

    def _leave(self, done: list[_Running]) -> None:
        if not done:
            return
        keep = [i for i, each in enumerate(self._running) if each not in done]
        self._running = [self._running[i] for i in keep]
        if keep:
            self._mask = self._mask[keep]
            unused = int(self._mask.argmax(1).min())  # columns in which every row is padding
            self._mask = self._mask[:, unused:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[keep, :, unused:], layer.values[keep, :, unused:]
        for each in done:
            each.pieces.end()
            each.text.end()
            each.row.on_done(self._completion(each))

    def _completion(self, done: _Running) -> Completion:
        (found,) = read_completions(self.engine.tokenizer, torch.tensor([done.row.tokens]), self.engine.stops)
        if done.text.found:
            return Completion(done.text.cut(found.text), found.tokens, "stop")
        return found


def _left(states: torch.Tensor, width: int) -> torch.Tensor:
    """Keys or values [B, H, W, D], padded on the left to `width` positions."""
    return pad(states, (0, 0, width - states.shape[2], 0))
