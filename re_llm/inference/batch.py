"""Answers several rows at once: a row joins while others are decoded, and leaves when it is complete.

transformers' own continuous batching takes token ids alone; our rows hold speech embeddings. Rows that arrive together
are prefilled together, behind the keys and values of what they all begin with. B rows, L row length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from re_llm.inference.choice import Chooser, TokenChoice, choose, with_likeliest
from re_llm.inference.decoding import Decoding
from re_llm.inference.estimate import EncodedSpeech
from re_llm.inference.row_cache import Opening, RowCache
from re_llm.inference.streaming import StopText, TextPieces
from re_llm.llm.completion import Completion
from re_llm.llm.rows import batches_by_length, pad_rows, read_completions
from re_llm.model.outputs import SpeechTokens

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine


PREFILLED = 8  # rows in one pass
SPREAD = 1.5  # the longest row of a pass by its shortest: more would be padding


@dataclass(eq=False)
class Row:
    """A conversation that is being answered.

    Attributes:
        ids, encoded: see `re_llm.inference.conversation.row`.
        decoding: `max_new_tokens` has to fit into the context behind `ids`.
        stop: texts that end the answer, which holds none of them.
        top_logprobs: how many likely tokens are kept with every token; None keeps nothing.
        ruled: an answer that is not decoded, by rule (`re_llm.inference.careful`) or made before.
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
    ruled: Completion | None = None
    tokens: list[int] = field(default_factory=list)
    choices: list[TokenChoice] = field(default_factory=list)


@dataclass(eq=False)
class _Running:
    """A row in the batch: how its tokens are chosen and shown."""

    row: Row
    chooser: Chooser
    text: StopText
    pieces: TextPieces


@dataclass(eq=False)
class Prefilled:
    """Rows that may join a batch: their keys and values, and logits [B, V] of their first tokens."""

    rows: list[_Running]
    cache: DynamicCache
    logits: torch.Tensor


class RunningBatch:
    """Rows that are answered together; used by one thread, but for `prefill`.

    Args:
        opening: tokens that many rows begin with; their keys and values are computed once and kept.

    Attributes:
        capacity: rows at once; 1 for an LLM whose cache is not plain keys and values, one for each position.
    """

    def __init__(self, engine: Engine, capacity: int = 16, opening: Sequence[int] = ()):
        self.engine = engine
        self._ends = set(engine.stops)
        self._running: list[_Running] = []
        layers = self._new_cache().layers
        self._plain = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)
        self.capacity = capacity if self._plain else 1
        self._rows = RowCache(len(layers))
        self._single = self._new_cache()  # of the one row, where the cache is not plain
        self._opening, self._open_with = Opening(), list(opening) if self._plain else []
        model = engine.model
        with engine.lock:  # a pass in another thread has hooks on the modules, which the twin would copy
            self._decoder = model.partial_lora.twin(model.language_model) if self._plain else None

    def __len__(self) -> int:
        return len(self._running)

    @torch.inference_mode()
    def join(self, *rows: Row) -> None:
        """Prefills rows and decodes the first token of each."""
        assert len(self) + len(rows) <= self.capacity, self.capacity
        for each in self.prefill(*rows):
            self.add(each)

    @torch.inference_mode()
    def prefill(self, *rows: Row) -> list[Prefilled]:
        """Passes of the LLM over rows; any thread may do it. A row that is answered by rule is complete."""
        free = []
        for row in rows:
            if row.ruled is None:
                free.append(row)
            else:
                row.on_text(row.ruled.text)
                row.on_done(row.ruled)
        if free and self._open_with:
            self._opening, self._open_with = self._open(self._open_with), []
        found = []
        for opening in (self._opening, Opening()):
            group = [row for row in free if opening.begins(row.ids)]
            free = [row for row in free if row not in group]
            for batch in batches_by_length([len(row.ids) for row in group], PREFILLED, SPREAD):
                found.append(self._prefill([group[i] for i in batch], opening))
        return found

    @torch.inference_mode()
    def add(self, new: Prefilled) -> None:
        """Rows join, with the first token of each."""
        if self._plain:
            for i, each in enumerate(new.rows):
                self._rows.add(new.cache, i, len(each.row.ids))
        self._single = new.cache
        self._running += new.rows
        self._take(new.rows, new.logits)

    @torch.inference_mode()
    def step(self) -> None:
        """Decodes one token of every row."""
        self._leave([each for each in self._running if each.row.cancelled()])
        if not self._running:
            return
        device = self.engine.device
        last = torch.tensor([[each.row.tokens[-1]] for each in self._running], device=device)
        if self._plain:
            mask, positions = self._rows.begin_step(device)
        else:
            mask, positions = torch.ones(1, self._single.get_seq_length() + 1, dtype=torch.long, device=device), None
        cache = self._rows if self._plain else self._single
        options = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache, "logits_to_keep": 1}
        if self._decoder is not None:
            out = self._decoder(input_ids=last, use_cache=True, **options)
        else:
            with self.engine.lock:
                out = self.engine.model(last, use_cache=True, **options)
        if self._plain:
            self._rows.end_step()
        self._take(list(self._running), out.logits[:, -1])

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.engine.model.config.text_config.get_text_config())

    def _open(self, ids: list[int]) -> Opening:
        cache = self._new_cache()
        with self.engine.lock:
            self.engine.model(
                torch.tensor([ids], device=self.engine.device), past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        return Opening(ids, cache)

    def _prefill(self, rows: list[Row], opening: Opening) -> Prefilled:
        """One pass over rows that begin with an opening and are padded on the right."""
        running = [self._start(row) for row in rows]
        device, start, cache = self.engine.device, len(opening.ids), self._new_cache()
        opening.fill(cache, len(rows))
        ids, mask = pad_rows([row.ids[start:] for row in rows], self.engine.processor.pad_token_id)
        lengths = mask.sum(1)
        ends = (torch.arange(ids.shape[1]) == lengths[:, None] - 1).to(device)
        mask = torch.cat([torch.ones(len(rows), start, dtype=torch.long), mask], dim=1).to(device)
        positions = torch.arange(start, mask.shape[1], device=device).expand(len(rows), -1)
        with self.engine.lock:
            out = self.engine.model(
                ids.to(device),
                mask,
                positions,
                speech=self._speech(rows),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=ends,
            )
        return Prefilled(running, cache, out.logits)

    def _speech(self, rows: list[Row]) -> SpeechTokens | None:
        """Speech tokens of the rows that have some."""
        tokens = [torch.cat([each.embeddings for each in row.encoded]) for row in rows if row.encoded]
        if not tokens:
            return None
        lengths = torch.tensor([len(each) for each in tokens], device=self.engine.device)
        return SpeechTokens(torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True), lengths)

    def _start(self, row: Row) -> _Running:
        text = StopText(row.stop, row.on_text)
        pieces = TextPieces(self.engine.tokenizer, text.take)
        pieces.put(torch.tensor(row.ids))  # the prompt, which is not shown
        return _Running(row, Chooser(self.engine, row.ids, row.decoding), text, pieces)

    def _take(self, rows: list[_Running], logits: torch.Tensor) -> None:
        """Chooses a token of each row from logits [B, V]; complete rows leave."""
        logits, done = logits.float(), []
        chosen = choose([each.chooser for each in rows], lambda i: [*rows[i].row.ids, *rows[i].row.tokens], logits)
        for each, token, scores in zip(rows, chosen, logits, strict=True):
            row = each.row
            row.tokens.append(token)
            if token not in self._ends:
                if row.top_logprobs is not None:
                    row.choices.append(with_likeliest(token, scores, row.top_logprobs))
                each.pieces.put(torch.tensor([token]))
            if token in self._ends or each.text.found or len(row.tokens) >= row.decoding.max_new_tokens:
                done.append(each)
        self._leave(done)

    def _leave(self, done: list[_Running]) -> None:
        for each in done:
            at = self._running.index(each)
            self._running[at] = self._running[-1]  # as the cache does
            self._running.pop()
            if self._plain:
                self._rows.remove(at)
        for each in done:
            each.pieces.end()
            each.text.end()
            each.row.on_done(self._completion(each))

    def _completion(self, done: _Running) -> Completion:
        (found,) = read_completions(self.engine.tokenizer, torch.tensor([done.row.tokens]), self.engine.stops)
        if not done.text.found:
            return found
        shown, choices = done.text.cut(found.text), done.row.choices
        while choices and len(self._text_of(choices[:-1])) >= len(shown):
            choices.pop()  # of what is not shown
        return Completion(shown, found.tokens, "stop")

    def _text_of(self, choices: Sequence[TokenChoice]) -> str:
        text: str = self.engine.tokenizer.decode([each.token for each in choices], skip_special_tokens=True)
        return text.lstrip()
