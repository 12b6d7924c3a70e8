"""A chat LLM behind an OpenAI-compatible server (vLLM, llama.cpp, SGLang, `api.openai.com`), as a text LLM.

Requests run side by side, at most `concurrency` and `rate`; transient failures are retried with growing pauses; answers
come out in the order of the rows. Traffic goes to the named address only: no proxies, no redirects.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Content, Prompt
from re_llm.llm.server_options import ServerOptions
from re_llm.llm.server_requests import Requests


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RellmError(
        "a server cannot be called from inside a running event loop, as notebooks have one",
        todo="Call it in a thread (asyncio.to_thread), or run the command `re-llm continue`",
    )


class ChatServer:
    """Answers text, or speech, through a server, greedily, with the messages that the local LLM gets.

    Attributes:
        name: the model's name.
        retries: requests that had to be sent again, by reason.
    """

    decoding: Mapping[str, str | None] = MappingProxyType({"backend": "server", "dtype": None, "tokens": "joined"})

    def __init__(self, options: ServerOptions):
        self.options, self.name = options, options.model
        self.retries: Counter[str] = Counter()

    def stream(
        self,
        rows: Iterable[tuple[Prompt, Content]],
        *,
        max_new_tokens: int,
        on_answer: Callable[[int, Completion], None] | None = None,
    ) -> Iterator[Completion]:
        """Answers in the order of the rows, each as soon as it and all before it are there.

        Rows are taken as they are needed, at most twice `concurrency` ahead.

        Args:
            on_answer: called with the number of a row and its answer as soon as that is there, in any order.

        Raises:
            RellmError: the server refuses, or answers nothing any more. A row that alone gets no answer after `tries`
                is refused (`server-failed`, `server-rejected`).
        """
        _refuse_running_loop()
        waiting = enumerate(rows)
        pending: deque[asyncio.Task[Completion]] = deque()
        requests = Requests(self.options, self.retries)

        async def one(number: int, row: tuple[Prompt, Content]) -> Completion:
            got = await requests.answer(*row, max_new_tokens)
            if on_answer:
                on_answer(number, got)
            return got

        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            try:
                while True:
                    while len(pending) < 2 * self.options.concurrency and (row := next(waiting, None)):
                        pending.append(loop.create_task(one(*row)))
                    if not pending:
                        return
                    yield loop.run_until_complete(pending.popleft())
            finally:
                runner.run(requests.close(pending))

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answers to (prompt, content) rows, in their order. The server batches: `batch_size` has no meaning here."""
        answers = []
        for answer in self.stream(rows, max_new_tokens=max_new_tokens):
            answers.append(answer)
            if on_batch:
                on_batch(1)
        return answers
