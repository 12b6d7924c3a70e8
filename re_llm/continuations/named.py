"""An LLM that is loaded when it is first asked: not at all when nothing is left to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from re_llm.core.assets import resolve_component
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt
from re_llm.model.hub import locate

if TYPE_CHECKING:
    from re_llm.llm.local import ChatLlm


@dataclass
class NamedLlm:
    """A chat LLM by its name, as one of `TextLlm`.

    Attributes:
        name: folder, hub id, or `mini:NAME`.
        dtype: its own name, not `auto`, which could be something else on every machine.
        tokens: `pieces` or `joined`, see `ChatLlm`.
    """

    name: str
    device: str
    dtype: str
    tokens: str

    @classmethod
    def of(cls, name: str, *, device: str = "auto", dtype: str = "auto", tokens: str = "pieces") -> NamedLlm:
        """The LLM; a repository of the hub is downloaded, so that its content is known.

        Raises:
            RellmError: there is none of this name, or no such device or dtype.
        """
        from re_llm.llm.device import pick_device, pick_dtype

        locate(resolve_component(name))
        return cls(name, device, str(pick_dtype(dtype, pick_device(device))).removeprefix("torch."), tokens)

    @property
    def decoding(self) -> Mapping[str, str | None]:
        """What decides its answers beside its weights."""
        return {"backend": "local", "dtype": self.dtype, "tokens": self.tokens}

    @cached_property
    def loaded(self) -> ChatLlm:
        from re_llm.llm.local import ChatLlm

        return ChatLlm.load(self.name, device=self.device, dtype=self.dtype, tokens=self.tokens)

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """See `TextLlm`."""
        return self.loaded.answer(rows, max_new_tokens=max_new_tokens, batch_size=batch_size, on_batch=on_batch)
