"""Requests and responses of the API: OpenAI's chat completions with `input_audio`, and one field of ours, `emotion`.

A field of a request that would change the answer and is not supported is refused, not ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from re_llm.core.errors import RellmError
from re_llm.inference.conversation import ChatCompletion
from re_llm.inference.reply import Decoding, Estimate

MAX_RECORDINGS = 16  # of one request; each costs an encoder pass however short it is
MAX_TURNS = 256
MESSAGE_CHARS = 400  # of an error message: what it quotes may be long
# Fields of OpenAI's API that do not change the answer.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
# Fields that are accepted with these values, which are what happens anyway.
ONLY = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "stop": ([],),
    "logit_bias": ({},),
}


class ApiError(Exception):
    """An HTTP status and OpenAI's error object."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        text = self.message if len(self.message) <= MESSAGE_CHARS else self.message[:MESSAGE_CHARS] + " ..."
        return {"error": {"message": text, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Recording:
    """A recording as an encoded file, and its place in the request."""

    data: bytes
    where: str


@dataclass(frozen=True)
class ChatRequest:
    """A valid request. `turns`: (role, parts); `usage`: whether the stream ends with the token counts."""

    turns: tuple[tuple[Literal["user", "assistant"], tuple[str | Recording, ...]], ...]
    system: str | None
    decoding: Decoding
    stream: bool
    usage: bool


class _InputAudio(BaseModel):
    data: str
    format: Literal["wav", "mp3", "flac", "ogg", "opus"]


class _Text(BaseModel):
    type: Literal["text"]
    text: str


class _Audio(BaseModel):
    type: Literal["input_audio"]
    input_audio: _InputAudio


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[_Text | _Audio, Field(discriminator="type")]]

    @field_validator("content", mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[_Message] = Field(min_length=1, max_length=MAX_TURNS)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)


def parse(body: bytes, *, model: str, max_new_tokens: int) -> ChatRequest:
    """Reads the body of a request.

    Args:
        model: the name that is served; a request may leave it out, another name is refused.
        max_new_tokens: the server's limit, used where the request asks for more or names none.

    Raises:
        ApiError: 400 with the place of the error, 404 for another model.
    """
    try:
        request = _Body.model_validate(_loaded(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = _path(first["loc"])
        raise ApiError(400, f"{where or 'the request'}: {first['msg']}", param=where or None) from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON", code="invalid_json") from None
    if request.model not in (None, model):
        raise ApiError(
            404, f"there is no model {request.model!r} here, only {model!r}", param="model", code="model_not_found"
        )
    _refuse_unknown(request.model_extra or {})
    system, messages = _split_system(request.messages)
    turns = tuple(_turn(message, i) for i, message in enumerate(messages, start=len(request.messages) - len(messages)))
    if sum(isinstance(part, Recording) for _, parts in turns for part in parts) > MAX_RECORDINGS:
        raise ApiError(400, f"more than {MAX_RECORDINGS} recordings in one request", param="messages")
    if not turns or turns[-1][0] != "user" or not any(turns[-1][1]):
        raise ApiError(400, "there is nothing to answer: the last message must be the user's", param="messages")
    options = request.stream_options or _StreamOptions()
    return ChatRequest(turns, system, _decoding(request, max_new_tokens), request.stream, options.include_usage)


def _loaded(body: bytes) -> Any:
    """The JSON value of a body; unpaired surrogates, which cannot be encoded as UTF-8, are refused."""
    value = json.loads(body)
    if b"\\ud" in body.lower():  # a surrogate stands escaped in JSON; encoding megabytes again is slow
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            message = "a text holds an unpaired surrogate (\\ud800 to \\udfff), which is no character"
            raise ApiError(400, message, code="invalid_unicode") from None
    return value


def _path(location: Sequence[str | int]) -> str:
    """`messages[0].content[1].text` of pydantic's location, whose union tags are left out."""
    path = ""
    for i, key in enumerate(location):
        if isinstance(key, int):
            path += f"[{key}]"
        elif not (i > 1 and location[i - 2] == "content"):
            path += f".{key}" if path else key
    return path


def _refuse_unknown(extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        if value is None or name in WITHOUT_EFFECT or value in ONLY.get(name, ()):
            continue
        allowed = f"; it may be {json.dumps(ONLY[name][0])}" if name in ONLY else ""
        raise ApiError(400, f"{name} is not supported here{allowed}", param=name[:64], code="unsupported_parameter")


def _split_system(messages: list[_Message]) -> tuple[str | None, list[_Message]]:
    count = next((i for i, m in enumerate(messages) if m.role not in ("system", "developer")), len(messages))
    texts = []
    for i, message in enumerate(messages[:count]):
        if not all(isinstance(part, _Text) for part in message.content):
            raise ApiError(400, "a system message holds text only", param=f"messages[{i}].content")
        texts += [part.text for part in message.content if isinstance(part, _Text)]
    for i, message in enumerate(messages[count:], start=count):
        if message.role in ("system", "developer"):
            raise ApiError(400, "system messages must come before all others", param=f"messages[{i}].role")
    return ("\n\n".join(texts) if texts else None), messages[count:]


def _turn(message: _Message, index: int) -> tuple[Literal["user", "assistant"], tuple[str | Recording, ...]]:
    parts: list[str | Recording] = []
    for i, part in enumerate(message.content):
        where = f"messages[{index}].content[{i}]"
        if isinstance(part, _Text):
            parts.append(part.text)
        elif message.role == "assistant":
            raise ApiError(400, "an assistant's turn holds text only", param=where)
        else:
            parts.append(Recording(_decoded(part.input_audio.data, where), where))
    return ("assistant" if message.role == "assistant" else "user"), tuple(parts)


def _decoded(data: str, where: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        message = "input_audio.data is not base64 (a plain base64 text, neither a URL nor a data: URL)"
        raise ApiError(400, message, param=f"{where}.input_audio.data", code="invalid_base64") from None


def _decoding(request: _Body, limit: int) -> Decoding:
    wanted = next((n for n in (request.max_completion_tokens, request.max_tokens) if n is not None), limit)
    try:
        return Decoding(
            max_new_tokens=min(wanted, limit),
            temperature=0.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
        )
    except RellmError as error:
        raise ApiError(400, str(error)) from None


@dataclass(frozen=True)
class Writer:
    """Response objects of one answer: a whole completion, or its chunks."""

    id: str
    created: int
    model: str

    def completion(self, completion: ChatCompletion, estimate: Estimate | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": completion.text}
        choice = {"index": 0, "message": message, "finish_reason": completion.finish_reason, "logprobs": None}
        emotion = estimate and estimate.predictions()
        return {**self._head(""), "choices": [choice], "usage": _usage(completion), "emotion": emotion}

    def opening(self, estimate: Estimate | None) -> str:
        """The first chunk: the role, and the emotion of the last recording (null without one)."""
        chunk = self._chunk({"role": "assistant", "content": ""})
        return _event({**chunk, "emotion": estimate and estimate.predictions()})

    def piece(self, text: str) -> str:
        return _event(self._chunk({"content": text}))

    def closing(self, completion: ChatCompletion, usage: bool) -> Iterator[str]:
        yield _event(self._chunk({}, completion.finish_reason))
        if usage:
            yield _event({**self._head(".chunk"), "choices": [], "usage": _usage(completion)})
        yield "data: [DONE]\n\n"

    def failure(self, error: ApiError) -> str:
        """An error after the stream has started."""
        return _event(error.body())

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": f"chat.completion{kind}", "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        return {**self._head(".chunk"), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(completion: ChatCompletion) -> dict[str, int]:
    total = completion.prompt_tokens + completion.tokens
    return {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.tokens, "total_tokens": total}
