"""Length control: a reply of whole sentences within a number of words, which ends with one question if wanted.

The LLM answers as ever. Of a longer answer the whole sentences that fit are kept; nothing is cut inside a sentence.
Where a question is wanted and the answer holds none, the LLM goes on behind what was kept, under `Question`, which lets
it write a question and nothing else. V vocabulary, B batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

QUESTION_TOKENS = 20  # of a question that the LLM adds
QUESTION_WORDS = 12  # room that is left for it
FEELING = "How do you feel about"  # how the question about a feeling begins
_SENTENCE = re.compile(r"\S.*?(?:[.!?。！？…]+[\"'”’)\]]*(?=\s|$)|[。！？]+|$)", re.DOTALL)  # noqa: RUF001 (Chinese signs)
_ENDS = re.compile(r"[.!?。！？…][\"'”’)\]]*$")  # noqa: RUF001
_ASKS = re.compile(r"[?？][\"'”’)\]]*$")  # noqa: RUF001
_BREAKS = frozenset(".!;:\n。！；…Ċ")  # noqa: RUF001 (Ċ: how byte-level tokenizers write a newline)
_OPENERS = ("What", "How", "Do", "Did", "Would", "Could", "Can", "Is", "Are", "Was", "Have", "Has", "When", "Where",
            "Who", "Which", "Why", "Does", "Will", "Should")  # fmt: skip

# Goes on behind the given texts, each behind the row of its number, with questions.
Ask = Callable[[Sequence[int], Sequence[str]], list[Completion]]


@dataclass(frozen=True)
class Length:
    """How long a reply may be, and how it ends.

    Attributes:
        max_words: words of a reply (characters of Chinese count as one each); a first sentence that is longer stays.
        question: it ends with exactly one question.
    """

    max_words: int | None = None
    question: bool = False

    def __post_init__(self) -> None:
        if self.max_words is not None and self.max_words < 1:
            raise RellmError(f"max_words is {self.max_words}", allowed="1 and more")

    def __bool__(self) -> bool:
        return self.question or self.max_words is not None


FREE = Length()


def count_words(text: str) -> int:
    """Words between blanks; every Chinese character is one."""
    chinese = re.findall(r"[\u4e00-\u9fff]", text)
    return len(chinese) + len(re.sub(r"[\u4e00-\u9fff]", " ", text).split())


def sentences(text: str) -> list[str]:
    return [found.group().strip() for found in _SENTENCE.finditer(text) if found.group().strip()]


def is_question(sentence: str) -> bool:
    return bool(_ASKS.search(sentence))


def _within(parts: Sequence[str], words: int | None) -> list[str]:
    """The first sentences that fit into a number of words, at least one."""
    kept: list[str] = []
    for part in parts:
        if kept and words is not None and count_words(" ".join([*kept, part])) > words:
            break
        kept.append(part)
    return kept


def keep(text: str, length: Length) -> tuple[str, bool]:
    """The sentences of an answer that stay, and whether a question has still to be asked.

    An unfinished last sentence goes when there is another. With a question wanted, the answer's own first question
    moves to the end, and its other questions go.
    """
    parts = sentences(text)
    if len(parts) > 1 and not _ENDS.search(parts[-1]):
        parts = parts[:-1]
    if not length.question:
        return " ".join(_within(parts, length.max_words)), False
    own = next((part for part in parts if is_question(part)), None)
    left = None if length.max_words is None else length.max_words - (count_words(own) if own else QUESTION_WORDS)
    said = [part for part in parts if not is_question(part)]
    kept = [] if own and left is not None and said and count_words(said[0]) > left else _within(said, left)
    return " ".join([*kept, own] if own else kept), own is None


def shaped(completions: Sequence[Completion], length: Length, ask: Ask) -> list[Completion]:
    """Answers under length control.

    Args:
        ask: see `Ask`; called at most once, with the rows that lack a question.
    """
    pairs = [keep(each.text, length) for each in completions]
    lacking = [i for i, (_, lacks) in enumerate(pairs) if lacks]
    added = dict(zip(lacking, ask(lacking, [pairs[i][0] for i in lacking]), strict=True)) if lacking else {}
    return [_with(each, text, added.get(i)) for i, (each, (text, _)) in enumerate(zip(completions, pairs, strict=True))]


def _with(completion: Completion, text: str, question: Completion | None) -> Completion:
    if question:
        text = f"{text} {question.text}".strip()
    tokens = completion.tokens + (question.tokens if question else 0)
    ended = text != completion.text or completion.finish_reason == "stop"
    return replace(completion, text=text, tokens=tokens, finish_reason="stop" if ended else completion.finish_reason)


@dataclass(frozen=True)
class _Marks:
    """Token ids by what they do to a sentence: begin a question, end it with a question mark, or break it off."""

    openers: tuple[int, ...]
    asking: tuple[int, ...]
    breaking: tuple[int, ...]
    mark: int


@lru_cache(maxsize=8)
def _marks(tokenizer: PreTrainedTokenizerBase) -> _Marks:
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    asking = tuple(i for i, piece in enumerate(pieces) if piece and "?" in piece and not _BREAKS & set(piece))
    breaking = tuple(i for i, piece in enumerate(pieces) if piece and (_BREAKS & set(piece) or piece == "<0x0A>"))
    first = {tokenizer(f"{blank}{word}", add_special_tokens=False)["input_ids"][0]
             for word in _OPENERS for blank in (" ", "")}  # fmt: skip
    mark = tokenizer("?", add_special_tokens=False)["input_ids"][-1]
    return _Marks(tuple(sorted(first)), asking, breaking, mark)


class Question:
    """A logits processor: from the end of the prompt on one question, and after its question mark the end of the turn.

    Args:
        prompt_length: tokens of the padded rows.
        stops: ids that end a turn.
        begun: the question has begun already, so that any word may come next.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt_length: int, stops: Sequence[int], begun: bool):
        self.marks, self.start, self.stops, self.begun = _marks(tokenizer), prompt_length, list(stops), begun
        special = set(tokenizer.all_special_ids) | set(stops)
        self.never, self.size = sorted({*self.marks.breaking, *special}), len(tokenizer)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[B, L] ids and [B, V] scores -> [B, V] scores, -inf for what may not come next."""
        import torch

        done = input_ids.shape[1] - self.start
        asked = torch.isin(input_ids[:, self.start :], input_ids.new_tensor(self.marks.asking)).any(dim=1)
        if done == 0 and not self.begun:
            allowed = self._only(scores, self.marks.openers)
        elif done >= QUESTION_TOKENS - 1:
            allowed = self._only(scores, (self.marks.mark,))
        else:
            allowed = scores.clone()
            allowed[:, self.never if done else [*self.never, *self.marks.asking]] = -torch.inf
            allowed[:, self.size :] = -torch.inf  # rows of the output layer without a token
        return torch.where(asked[:, None], self._only(scores, self.stops), allowed)

    @staticmethod
    def _only(scores: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        import torch

        out = torch.full_like(scores, -torch.inf)
        out[:, list(ids)] = scores[:, list(ids)]
        return out
