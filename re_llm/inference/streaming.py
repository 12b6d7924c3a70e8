"""An answer piece by piece while it is decoded, and what ends it early."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from transformers import StoppingCriteria, TextStreamer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", covariant=True)


class TextPieces(TextStreamer):
    """Passes the text on as it is decoded, without white space at its ends: `read_completions` strips that as well.

    Args:
        on_text: called with every piece; joined they are the text of the completion.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text, self._started, self._pending = on_text, False, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """White space is held back until something follows it."""
        text = self._pending + text if self._started else text.lstrip()
        shown = text.rstrip()
        self._pending = text[len(shown) :]
        if shown:
            self._started = True
            self._on_text(shown)


class StopText:
    """Passes text on up to the first of some texts, which end the answer; holds back what may become one of them.

    Attributes:
        found: whether one of them was met.
    """

    def __init__(self, stops: Sequence[str], on_text: Callable[[str], None]):
        self.found = False
        self._stops, self._on_text, self._held = tuple(stops), on_text, ""

    def cut(self, text: str) -> str:
        """The text in front of the first of them."""
        return text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))]

    def take(self, text: str) -> None:
        """More of the answer."""
        if self.found:
            return
        text = self._held + text
        shown = self.cut(text)
        self.found = len(shown) < len(text)
        held = 0 if self.found else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        if shown := shown[: len(text) - held]:
            self._on_text(shown)

    def end(self) -> None:
        """The answer is over: what was held back is part of it."""
        if self._held and not self.found:
            self._on_text(self._held)
        self._held = ""


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that is a beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class Cancelled(StoppingCriteria):
    """Ends the answer after the token at which `cancelled()` is true."""

    def __init__(self, cancelled: Callable[[], bool]):
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._cancelled(), dtype=torch.bool, device=input_ids.device)


class Decode(Protocol[T]):
    """Decodes an answer: calls `on_text` with every piece, and ends early once `cancelled()` is true."""

    def __call__(self, *, on_text: Callable[[str], None], cancelled: Callable[[], bool]) -> T: ...


def text_pieces(decode: Decode[T]) -> Generator[str, None, T]:
    """Pieces of the answer that `decode` decodes in a thread of its own; returns what it returns.

    When the generator is closed, `cancelled()` is true, and the thread ends with it: what follows has the model.

    Raises:
        BaseException: what `decode` raised.
    """
    pieces: queue.Queue[str | None] = queue.Queue()
    left = threading.Event()
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(decode(on_text=pieces.put, cancelled=left.is_set))
        except BaseException as error:  # raised in the reader's thread, which would wait for ever otherwise
            result.set_exception(error)
        finally:
            pieces.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            yield piece
    finally:
        left.set()
        thread.join()
    return result.result()
