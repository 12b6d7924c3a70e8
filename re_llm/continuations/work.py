"""Chunks of rows continued by an LLM that is named, as work for a cluster (re_llm.cluster.work)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from re_llm.continuations.rows import Outcome, continue_rows
from re_llm.core.records import Utterance
from re_llm.llm.prompts import Prompt


@dataclass(frozen=True)
class ContinueWork:
    """A chunk of rows to its outcomes. Every worker loads the LLM by its name: folder, hub id, `mini:NAME`.

    Attributes:
        dtype: by its own name, not `auto`, which could be something else on every machine.
    """

    llm: str
    prompt: Prompt
    max_new_tokens: int
    batch_size: int
    device: str
    dtype: str
    tokens: str
    folder: None = None

    def start(self) -> Callable[[list[Utterance]], list[Outcome]]:
        from re_llm.llm.local import ChatLlm

        llm = ChatLlm.load(self.llm, device=self.device, dtype=self.dtype, tokens=self.tokens)
        return lambda rows: continue_rows(
            rows, llm, self.prompt, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size
        )
