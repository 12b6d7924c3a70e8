"""An answer piece by piece while it is decoded, and what ends it early."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from transformers import StoppingCriteria, TextStreamer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


class Cancelled(StoppingCriteria):
    """Ends the answer after the token at which `cancelled()` is true."""

    def __init__(self, cancelled: Callable[[], bool]):
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._cancelled(), dtype=torch.bool, device=input_ids.device)


def text_pieces(tokenizer: PreTrainedTokenizerBase, decode: Callable[[TextPieces], object]) -> Iterator[str]:
    """Pieces of the answer that `decode(streamer)` decodes in a thread of its own; raises what it raises."""
    pieces: queue.Queue[str | BaseException | None] = queue.Queue()

    def work() -> None:
        try:
            decode(TextPieces(tokenizer, pieces.put))
            pieces.put(None)
        except BaseException as error:  # raised in the reader's thread, which would wait for ever otherwise
            pieces.put(error)

    threading.Thread(target=work, daemon=True).start()
    while isinstance(piece := pieces.get(), str):
        yield piece
    if piece is not None:
        raise piece
