"""Scores replies with trained bi-encoders, in batches, truncated to a window or whole.

The authors truncate a reply at 64 tokens. `score_whole` moves a window of that size over the whole reply; a window
overlaps the one before by a quarter, so that the last one is never a single word. The level of the reply is the highest
of its windows. W windows of all replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from re_llm.core.errors import RellmError
from re_llm.evaluate.empathy.biencoder import WINDOW, BiEncoder, load_biencoder
from re_llm.evaluate.empathy.epitome import MECHANISMS, Empathy, Level
from re_llm.evaluate.empathy.rationales import Spans, merge
from re_llm.evaluate.empathy.scorer_files import stored_window
from re_llm.llm.device import pick_device

OVERLAP = 4  # a window starts 1/OVERLAP of its length before the end of the one before


@dataclass(frozen=True)
class _Window:
    """A piece of a reply: number of the reply, token ids, and the characters of each token."""

    member: int
    ids: list[int]
    offsets: list[tuple[int, int]]


class BiEncoderScorer:
    """Levels and rationales from one bi-encoder for each mechanism.

    Args:
        models: by mechanism, at least one.
        window: tokens of each text, end marks included (64 in the authors' recipe).
    """

    content: str | None = None  # hash of its files, when it was loaded from some

    def __init__(
        self, models: dict[str, BiEncoder], tokenizer: PreTrainedTokenizerFast, *,
        window: int = WINDOW, batch_size: int = 32, device: str = "cpu",
    ):  # fmt: skip
        if not models:
            raise RellmError("there is no bi-encoder to score with", allowed=", ".join(MECHANISMS))
        original = any(model.original for model in models.values())
        self.name = f"biencoder-{'original-' if original else ''}{window}"
        self.mechanisms = tuple(mechanism for mechanism in MECHANISMS if mechanism in models)
        self.device = pick_device(device)
        self.models = {mechanism: models[mechanism].to(self.device).eval() for mechanism in self.mechanisms}
        self.tokenizer, self.window, self.batch_size = tokenizer, window, batch_size
        self._full = original

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        original: bool = False,
        window: int | None = None,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> BiEncoderScorer:
        """From a folder with the tokenizer of the encoders and a folder for each of ER, IP, EX that was trained.

        Raises:
            RellmError: a part is missing or wrong. Nothing is downloaded.
        """
        folder = Path(folder)
        there = [m for m in MECHANISMS if (folder / m).is_dir()]
        if not there:
            raise RellmError(
                f"{folder} holds no empathy scorer: it has none of the folders {', '.join(MECHANISMS)}",
                todo="Train one: re-llm score train CSV_FOLDER --out FOLDER",
            )
        models = {m: load_biencoder(folder / m, original=original) for m in there}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise RellmError(
                f"{folder} holds no tokenizer: {error}", todo="Put the tokenizer files of the encoder there"
            ) from error
        return cls(models, tokenizer, window=window or stored_window(folder), batch_size=batch_size, device=device)

    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """Levels with probabilities and rationales of what the window holds of each reply.

        Raises:
            ValueError: the two lists differ in length.
        """
        return [each[0] for each in self._score_windows(seekers, responses, whole=False)]

    def score_whole(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        """The same of the whole reply: the window with the highest level, and the rationales of all that have any.

        The seeker's text stays truncated, as it was in training.

        Raises:
            ValueError: the two lists differ in length.
        """
        scored = self._score_windows(seekers, responses, whole=True)
        return [{m: _highest([window[m] for window in windows]) for m in self.mechanisms} for windows in scored]

    def exceeds(self, responses: Sequence[str]) -> list[bool]:
        """Which replies have more tokens than the window holds."""
        encoded = self.tokenizer(list(responses), return_token_type_ids=False) if responses else {"input_ids": []}
        return [len(ids) > self.window for ids in encoded["input_ids"]]

    def _windows(self, responses: Sequence[str], whole: bool) -> list[_Window]:
        if not responses:
            return []
        encoded = self.tokenizer(
            list(responses), truncation=True, max_length=self.window, stride=self.window // OVERLAP if whole else 0,
            return_overflowing_tokens=whole, return_offsets_mapping=True, return_token_type_ids=False,
        )  # fmt: skip
        members = encoded["overflow_to_sample_mapping"] if whole else range(len(responses))
        return [_Window(*each) for each in zip(members, encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _score_windows(self, seekers: Sequence[str], responses: Sequence[str], *, whole: bool) -> list[list[Empathy]]:
        if len(seekers) != len(responses):
            raise ValueError(f"{len(seekers)} seekers but {len(responses)} responses")
        windows = self._windows(responses, whole)
        posts = [window.ids for window in self._windows(seekers, whole=False)]
        found: list[Empathy] = [{} for _ in windows]
        # Alike lengths share a batch: padding costs as much as text.
        order = sorted(range(len(windows)), key=lambda w: len(windows[w].ids) + len(posts[windows[w].member]))
        for start in range(0, len(order), self.batch_size):
            members = order[start : start + self.batch_size]
            batch = [windows[w] for w in members]
            scored = self._score_batch([posts[each.member] for each in batch], batch)
            for w, empathy in zip(members, scored, strict=True):
                found[w] = empathy
        by_reply: list[list[Empathy]] = [[] for _ in responses]
        for window, empathy in zip(windows, found, strict=True):
            by_reply[window.member].append(empathy)
        return by_reply

    def _pad(self, ids: list[list[int]]) -> list[torch.Tensor]:
        # The authors pad to the window, which their attention sees.
        full: dict[str, Any] = {"padding": "max_length", "max_length": self.window} if self._full else {}
        padded = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt", **full)
        return [padded["input_ids"].to(self.device), padded["attention_mask"].to(self.device)]

    @torch.inference_mode()
    def _score_batch(self, posts: list[list[int]], windows: list[_Window]) -> list[Empathy]:
        response = self._pad([window.ids for window in windows])
        inputs = [*self._pad(posts), *response]
        found: list[Empathy] = [{} for _ in windows]
        for mechanism, model in self.models.items():
            output = model(*inputs)
            probabilities = output.empathy_logits.float().softmax(-1).cpu().tolist()
            marked = (output.rationale_logits.argmax(-1).bool() & response[1].bool()).cpu().tolist()
            for row, window in enumerate(windows):
                p = probabilities[row]
                level = p.index(max(p))
                spans = token_spans(window.offsets, marked[row][: len(window.ids)]) if level else ()
                found[row][mechanism] = Level(level, (p[0], p[1], p[2]), spans)
        return found


def _highest(windows: Sequence[Level]) -> Level:
    """The window with the highest level, the surest of them, with the rationales of all windows above level 0."""
    best = max(windows, key=lambda each: (each.level, each.expected))
    spans = merge([span for each in windows if each.level for span in each.rationale])
    return Level(best.level, best.probabilities, spans)


def token_spans(offsets: Sequence[Sequence[int]], marked: Sequence[bool]) -> Spans:
    """Character spans of runs of marked tokens; empty offsets are tokens without text."""
    spans: list[tuple[int, int]] = []
    open_run = False
    for (start, end), mark in zip(offsets, marked, strict=True):
        if not mark or start == end:
            open_run = False
        elif open_run:
            spans[-1] = (spans[-1][0], int(end))
        else:
            spans.append((int(start), int(end)))
            open_run = True
    return tuple(spans)
