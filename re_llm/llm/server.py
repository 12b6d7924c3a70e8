"""A chat LLM behind an OpenAI-compatible server (vLLM, llama.cpp, SGLang, `api.openai.com`), as a text LLM.

Requests run side by side, at most `concurrency` and `rate`; what can pass is sent again with growing pauses; answers
come out in the order of the questions. Traffic goes to the named address only: no proxies, no redirects.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

from re_llm.answers import Answer
from re_llm.errors import RellmError
from re_llm.prompts import Prompt

Question = tuple[Prompt, str]


@dataclass(frozen=True)
class ServerOptions:
    """Where the server is and how it is asked.

    Attributes:
        url: base address, up to and with `/v1`.
        model: name of the model, as the server calls it.
        concurrency: requests under way at once.
        rate: requests a minute, those sent again included; None for no limit.
        timeout: seconds for one request, from sending it to the last byte of its answer.
        tries: how often one row is asked before the run stops.
        pause: seconds before the second try; doubled for each further one, up to a minute.
        key: sent as bearer token; see `key_from`. Never shown or written.
    """

    url: str
    model: str
    concurrency: int = 32
    rate: float | None = None
    timeout: float = 120.0
    tries: int = 8
    pause: float = 0.5
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        at = urlsplit(self.url)
        if at.scheme not in ("http", "https") or not at.hostname or at.query or at.fragment:
            raise RellmError(
                f"{self.url!r} is no address of a server", allowed="http://HOST:PORT/v1 or https://HOST/v1"
            )
        if at.username or at.password:
            raise RellmError("the address of the server holds a password", todo="Give the key with --key-env NAME")
        for name in ("concurrency", "timeout", "tries", "pause"):
            if not getattr(self, name) > 0:
                raise RellmError(f"{name} is {getattr(self, name)}", allowed="more than 0")
        if self.rate is not None and not self.rate > 0:
            raise RellmError(f"rate is {self.rate}", allowed="more than 0 requests a minute")


def key_from(variable: str | None) -> str | None:
    """The key that an environment variable holds; None when no variable is named.

    Raises:
        RellmError: it is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RellmError(f"the environment variable {variable} is not set", todo=f"Run: export {variable}=...")
    if not (key.isascii() and key.isprintable()):
        raise RellmError(f"the environment variable {variable} holds characters that no key has")
    return key


def _not_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RellmError(
        "a server cannot be asked from inside a running event loop, as notebooks have one",
        todo="Call it in a thread (asyncio.to_thread), or run the command `re-llm continue`",
    )


class ChatServer:
    """Asks a server, greedily, with the messages that the local LLM is asked with.

    Attributes:
        name: the model's name.
        retries: requests that had to be sent again, by reason.
    """

    decoding: Mapping[str, str | None] = MappingProxyType({"asked": "server", "dtype": None, "tokens": "joined"})

    def __init__(self, options: ServerOptions):
        self.options, self.name = options, options.model
        self.retries: Counter[str] = Counter()

    def stream(self, rows: Iterable[Question], *, max_new_tokens: int) -> Iterator[Answer]:
        """Answers in the order of the questions, each as soon as it and all before it are there.

        Questions are taken as they are needed, at most twice `concurrency` ahead.

        Raises:
            RellmError: the server refuses, or gives no answer to a row after `tries`.
        """
        from re_llm.chat_requests import ended, opened, result

        _not_inside_a_loop()
        questions = iter(rows)
        under_way: deque[asyncio.Task[Answer]] = deque()
        with asyncio.Runner() as runner:
            requests = runner.run(opened(self.options, self.retries))
            try:
                while True:
                    while len(under_way) < 2 * self.options.concurrency and (following := next(questions, None)):
                        prompt, content = following
                        asked = requests.answer(prompt, content, max_new_tokens)
                        under_way.append(runner.get_loop().create_task(asked))
                    if not under_way:
                        return
                    yield runner.run(result(under_way.popleft()))
            finally:
                runner.run(ended(under_way))
                runner.run(requests.close())

    def answer(
        self,
        rows: Sequence[Question],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """Answers to (prompt, content) rows, in their order. The server batches: `batch_size` has no meaning here."""
        answers = []
        for answer in self.stream(rows, max_new_tokens=max_new_tokens):
            answers.append(answer)
            if on_batch:
                on_batch(1)
        return answers
