"""Requests of `server.ChatServer`: one coroutine a row, with its retries, pauses and limits.

httpx2 does the HTTP; here are a deadline for the whole request, a limit on the size of an answer, no redirects, no
proxies or `.netrc` from the environment, and the choice of failures that are retried.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import numpy as np

from re_llm.audio.waveform import RATE, wav_bytes
from re_llm.core.errors import RellmError
from re_llm.core.version import __version__
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Content, Prompt
from re_llm.llm.server_bodies import request_body
from re_llm.llm.server_options import ServerOptions

MAX_ANSWER_BYTES = 2**20  # of one response; 48 tokens are a few hundred
MAX_PAUSE = 60.0  # s between two tries of a row
MAX_HOLD = 600.0  # s that a server's Retry-After may hold back all requests
_RETRIED = frozenset({408, 409, 425, 429})  # beside all 5xx
_STOPS = frozenset({"stop", "eos_token", "stop_sequence", "end_turn"})
# Errors of servers about one row that is too long for the model; the others may still be answered.
_TOO_LONG = re.compile(r"context.?(length|size|window)|maximum model length|too long|must be <=", re.IGNORECASE)
_FILTERED = re.compile(r"content_filter|content_policy|content management policy", re.IGNORECASE)
# Parts of a request that some servers or chat templates do not know, and how their errors name them.
_EXTRAS = {
    "system": re.compile(r"system.{0,20}role|role.{0,20}system|roles must alternate", re.IGNORECASE),
    "template options": re.compile(r"chat_template_kwargs|extra (fields|inputs)", re.IGNORECASE),
}
_PROBE = Prompt("probe")
_TODO = "Rows that were answered are kept: run the same command again to go on"


class _Retry(Exception):
    """A failure that may pass. `kind` is counted; `after`: seconds of the server's Retry-After."""

    def __init__(self, kind: str, what: str, after: float | None = None, *, busy: bool = False):
        super().__init__(what)
        self.kind, self.after, self.busy = kind, after, busy


class _Rejected(Exception):
    """A request that the server will not answer, however often it is sent."""


class _WithoutExtra(Exception):
    """The server does not know a part of the request: it is left out from now on."""


class _Pace:
    """Spaces requests evenly, and holds all of them back when the server asks for it."""

    def __init__(self, rate: float | None):
        self._gap = 60.0 / rate if rate else 0.0
        self._free_at = 0.0
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        async with self._turn:
            clock = asyncio.get_running_loop().time
            while (left := self._free_at - clock()) > 0:
                await asyncio.sleep(left)
            self._free_at = max(self._free_at, clock() + self._gap)

    def hold(self, seconds: float) -> None:
        self._free_at = max(self._free_at, asyncio.get_running_loop().time() + seconds)


class Requests:
    """A client of one server; lives in one event loop."""

    def __init__(self, options: ServerOptions, retries: Counter[str]):
        self.options, self.retries = options, retries
        headers = {"Accept-Encoding": "identity", "User-Agent": f"re-llm/{__version__}"}
        if options.key:
            headers["Authorization"] = f"Bearer {options.key}"
        limits = httpx2.Limits(
            max_connections=options.concurrency, max_keepalive_connections=options.concurrency, keepalive_expiry=30.0
        )
        self._client = httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=None, follow_redirects=False, trust_env=False
        )
        self._free = asyncio.Semaphore(options.concurrency)
        self._pace = _Pace(options.rate)
        self._without: set[str] = set()
        self._reached = False
        self._answered = 0

    async def close(self, pending: Iterable[asyncio.Task[Completion]]) -> None:
        """Cancels the requests under way, waits until they have ended, and closes the connections."""
        tasks = list(pending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def answer(self, prompt: Prompt, content: Content, max_new_tokens: int) -> Completion:
        """The server's answer to one row; `refused` when it fails or is rejected and other rows are answered.

        Raises:
            RellmError: the server refuses, or has failed `tries` times and answers no other row either.
        """
        attempt, answered = 0, -1
        while True:
            before = self._answered
            try:
                async with self._free:
                    await self._pace.wait()
                    return await self._once(prompt, content, max_new_tokens)
            except _WithoutExtra:
                continue
            except _Rejected as rejected:
                if await self._answers_others(before, content):
                    return Completion("", 0, "refused", refused="server-rejected", detail=str(rejected))
                raise RellmError(str(rejected)) from None
            except _Retry as failure:
                # 429 while other rows are answered: the server is busy, it does not fail.
                attempt = 1 if failure.busy and self._answered > answered else attempt + 1
                answered = self._answered
                if attempt == self.options.tries:
                    last = self._shown(str(failure))
                    if await self._answers_others(before, content):
                        return Completion("", 0, "refused", refused="server-failed", detail=last)
                    raise RellmError(
                        f"{self.options.url} failed {attempt} times for one row, and answers no other: {last}",
                        todo=_TODO,
                    ) from None
                self.retries[failure.kind] += 1
                pause = min(MAX_PAUSE, self.options.pause * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                if failure.after is not None:
                    self._pace.hold(failure.after)
                    pause = max(0.0, pause - failure.after)
            await asyncio.sleep(pause)

    async def _answers_others(self, before: int, content: Content) -> bool:
        """Whether another row was answered during the last try, when `before` had been, or a short one is now."""
        for _ in range(1 + len(_EXTRAS)):
            if self._answered > before:
                return True
            try:
                await self._once(_PROBE, _probe_content(content), 1)
            except _WithoutExtra:
                continue
            except (_Retry, _Rejected, RellmError):
                return False
        return self._answered > before

    async def _once(self, prompt: Prompt, content: Content, max_new_tokens: int) -> Completion:
        without = frozenset(self._without)
        body = request_body(self.options.model, prompt, content, max_new_tokens, without=without)
        try:
            async with asyncio.timeout(self.options.timeout):
                status, headers, raw = await self._send("POST", "/chat/completions", body)
        except TimeoutError:
            raise _Retry("timeout", f"no answer within {self.options.timeout:g} s") from None
        except httpx2.ConnectError as error:
            if not self._reached:
                raise RellmError(
                    f"{self.options.url} cannot be reached: {error}", todo="Check the address, and that the server runs"
                ) from None
            raise _Retry("connection", f"cannot connect: {error}") from None
        except httpx2.RequestError as error:
            raise _Retry("connection", f"the connection broke: {error or type(error).__name__}") from None
        self._reached = True
        if status == 200:
            answer = read_answer(raw)
            self._answered += 1
            return answer
        message = self._message(raw)
        if status in _RETRIED or status >= 500:
            if "insufficient_quota" in message:
                raise RellmError(f"{self.options.url} gives no more answers to this key: {message}", todo=_TODO)
            after = retry_after(headers.get("retry-after"))
            raise _Retry(f"status {status}", f"status {status}: {message}", after, busy=status == 429)
        if status in (400, 413, 422):
            return self._refused(status, message, without)
        raise await self._refusal(status, message, headers.get("location"))

    async def _send(self, method: str, path: str, body: object = None) -> tuple[int, httpx2.Headers, bytes]:
        url = self.options.url.rstrip("/") + path
        got = bytearray()
        async with self._client.stream(method, url, json=body) as response:
            async for piece in response.aiter_raw():
                got += piece
                if len(got) > MAX_ANSWER_BYTES:
                    raise _Rejected(f"{url} answers with more than {MAX_ANSWER_BYTES} bytes")
        return response.status_code, response.headers, bytes(got)

    def _refused(self, status: int, message: str, without: frozenset[str]) -> Completion:
        """A refused request: the row is dropped, or sent again without an extra, or rejected."""
        for extra, error in _EXTRAS.items():
            if extra not in without and error.search(message):
                self._without.add(extra)
                raise _WithoutExtra
        if _TOO_LONG.search(message):
            return Completion("", 0, "refused", refused="server-context-length")
        if _FILTERED.search(message):
            return Completion("", 0, "refused", refused="server-content-filter")
        raise _Rejected(f"{self.options.url} refuses the request with status {status}: {message}")

    async def _refusal(self, status: int, message: str, location: str | None) -> RellmError:
        where = self.options.url
        if status in (401, 403):
            return RellmError(
                f"{where} does not accept the key: {message}",
                todo="Name the environment variable that holds it: --key-env NAME",
            )
        if location is not None and 300 <= status < 400:
            return RellmError(
                f"{where} redirects to {self._shown(location)}, which is not followed",
                todo="Give that address, if you trust it",
            )
        if status == 404:
            return RellmError(
                f"{where} has no model {self.options.model!r}, or no /chat/completions: {message}",
                allowed=await self._models(),
                todo="An address usually ends in /v1",
            )
        return RellmError(f"{where} refuses the request with status {status}: {message}")

    async def _models(self) -> str | None:
        """Names of the models at the server, or None."""
        try:
            async with asyncio.timeout(self.options.timeout):
                _, _, raw = await self._send("GET", "/models")
            names = [self._shown(model["id"]) for model in json.loads(raw)["data"]]
        except (TimeoutError, httpx2.RequestError, _Rejected):
            return None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # whatever JSON it is
            return None
        return ", ".join(names[:20]) or None

    def _message(self, raw: bytes) -> str:
        """A server's error message, in one short line."""
        try:
            document = json.loads(raw)
            error = document.get("error", document)
            if "message" in error:
                error = " ".join(str(error[key]) for key in ("code", "message") if error.get(key))
        except (ValueError, AttributeError, TypeError, RecursionError):
            error = raw.decode("utf-8", "replace")
        return self._shown(str(error)) or "no message"

    def _shown(self, text: str) -> str:
        # An error message may repeat the key.
        hidden = text.replace(self.options.key, "***") if self.options.key else text
        return " ".join("".join(c if c.isprintable() else " " for c in hidden[:4096]).split())[:300]


def _probe_content(content: Content) -> Content:
    """A short question of the same kind; a server that takes speech may take nothing else."""
    if isinstance(content, str):
        return "Hello."
    return wav_bytes(np.random.default_rng(0).normal(0, 0.01, RATE // 2))


def read_answer(raw: bytes) -> Completion:
    """The answer in a chat completion.

    Raises:
        _Retry: it holds none, or the server stopped before the end.
    """
    try:
        document = json.loads(raw)
        choice = document["choices"][0]
        text, reason = choice["message"].get("content") or "", choice["finish_reason"]
        usage = document.get("usage") or {}
        used, asked = (usage.get(name) or 0 for name in ("completion_tokens", "prompt_tokens"))
        if not isinstance(text, str):
            raise TypeError("the content is no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Retry("unreadable", f"an answer that is no chat completion: {raw[:80]!r}") from None
    if reason == "content_filter":
        return Completion("", 0, "refused", refused="server-content-filter")
    if reason != "length" and reason not in _STOPS:
        raise _Retry("unreadable", f"an answer that ended with finish_reason {reason!r}")
    # Half a character, where the token limit cut one, cannot be written as UTF-8.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
    model = document.get("model")
    return Completion(
        whole,
        used if isinstance(used, int) else 0,
        "length" if reason == "length" else "stop",
        model=model if isinstance(model, str) and model else None,
        prompt_tokens=asked if isinstance(asked, int) else 0,
    )


def retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which holds seconds or a date; at most MAX_HOLD."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_HOLD) if seconds == seconds else None
