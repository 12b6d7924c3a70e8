"""Requests of the API: OpenAI's chat completions with `input_audio` (and vLLM's `audio_url`).

A field of a request that would change the answer and is not supported is refused, not ignored.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from re_llm.inference.decoding import Decoding
from re_llm.inference.variant import Unsure

MAX_RECORDINGS = 16  # of one request; each costs an encoder pass however short it is
MAX_TURNS = 256
MAX_CHOICES = 8
MAX_STOPS, MAX_STOP_CHARS = 4, 200
MESSAGE_CHARS = 400  # of an error message: what it quotes may be long
# Fields of OpenAI's API that do not change the answer.
WITHOUT_EFFECT = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
MESSAGE_WITHOUT_EFFECT = frozenset({"name", "annotations"})
# Fields that are accepted with these values, which are what happens anyway.
ONLY = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
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


def timed_out(seconds: float) -> ApiError:
    return ApiError(504, f"no answer within {seconds:g} s", code="timeout")


@dataclass(frozen=True)
class Recording:
    """A recording as an encoded file, and its place in the request."""

    data: bytes
    where: str


@dataclass(frozen=True)
class ChatRequest:
    """A valid request.

    Attributes:
        turns: (role, parts).
        usage: whether the stream ends with the token counts.
        n: answers.
        logprobs: likely tokens that are told with every token; None tells nothing.
        unsure: when the answer asks how the person feels; None = never.
    """

    turns: tuple[tuple[Literal["user", "assistant"], tuple[str | Recording, ...]], ...]
    system: str | None
    decoding: Decoding
    stream: bool
    usage: bool
    n: int = 1
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    unsure: Unsure | None = None


class _InputAudio(BaseModel):
    data: str
    format: Literal["wav", "mp3", "flac", "ogg", "opus"]


class _Text(BaseModel):
    type: Literal["text"]
    text: str


class _Audio(BaseModel):
    type: Literal["input_audio"]
    input_audio: _InputAudio


class _Url(BaseModel):
    url: str


class _AudioUrl(BaseModel):
    """vLLM's form; data only."""

    type: Literal["audio_url"]
    audio_url: _Url


_Part = Annotated[_Text | _Audio | _AudioUrl, Field(discriminator="type")]
_NO_LIST = PydanticCustomError("text_or_list", "Input should be a text or a list")


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant"]
    content: list[_Part]

    @field_validator("content", mode="before", json_schema_input_type=str | list[_Part])
    @classmethod
    def _plain(cls, value: object) -> object:
        if not isinstance(value, str | list):
            raise _NO_LIST
        return [{"type": "text", "text": value}] if isinstance(value, str) else value


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[_Message] = Field(min_length=1, max_length=MAX_TURNS)
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stop: list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    # Not OpenAI's.
    max_words: int | None = Field(
        default=None, ge=1, description="The whole sentences that fit into so many words, at least one."
    )
    end_with_question: bool | None = Field(default=None, description="The answer ends with one question.")
    ask_when_unsure: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Ask how the person feels unless exactly one emotion of the last recording is so probable.",
    )

    @field_validator("stop", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_stop(cls, value: object) -> object:
        if not isinstance(value, str | list | None):
            raise _NO_LIST
        return [value] if isinstance(value, str) else value


def schema() -> dict[str, Any]:
    """JSON schema of a request; its definitions refer to those of an OpenAPI document."""
    return _Body.model_json_schema(ref_template="#/components/schemas/{model}")


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
        found = "Input should be an object" if first["type"] == "model_type" else first["msg"]
        raise ApiError(400, f"{where or 'the request'}: {found}", param=where or None) from None
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON", code="invalid_json") from None
    if request.model not in (None, model):
        raise ApiError(
            404, f"there is no model {request.model!r} here, only {model!r}", param="model", code="model_not_found"
        )
    _refuse_unknown(request.model_extra or {})
    for i, message in enumerate(request.messages):
        _refuse_unknown(message.model_extra or {}, f"messages[{i}].")
    system, messages = _split_system(request.messages)
    turns = tuple(_turn(message, i) for i, message in enumerate(messages, start=len(request.messages) - len(messages)))
    if sum(isinstance(part, Recording) for _, parts in turns for part in parts) > MAX_RECORDINGS:
        raise ApiError(400, f"more than {MAX_RECORDINGS} recordings in one request", param="messages")
    if not turns or turns[-1][0] != "user" or not any(turns[-1][1]):
        raise ApiError(400, "there is nothing to answer: the last message must be the user's", param="messages")
    options = request.stream_options or _StreamOptions()
    return ChatRequest(
        turns,
        system,
        _decoding(request, max_new_tokens),
        request.stream,
        options.include_usage,
        request.n or 1,
        _stops(request.stop),
        _logprobs(request),
        _unsure(request.ask_when_unsure, turns[-1][1]),
    )


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


def _refuse_unknown(extra: dict[str, Any], of: str = "") -> None:
    """Refuses fields that would change the answer.

    Args:
        of: the message whose fields they are, as `messages[0].`; what an answer is sent back with may be empty there.
    """
    ignored = MESSAGE_WITHOUT_EFFECT if of else WITHOUT_EFFECT
    only = {} if of else ONLY
    for name, value in extra.items():
        if value is None or name in ignored or value in only.get(name, ()) or (of and value == []):
            continue
        allowed = f"; it may be {json.dumps(only[name][0])}" if name in only else ""
        place = of + name[:64]
        raise ApiError(400, f"{place} is not supported here{allowed}", param=place, code="unsupported_parameter")


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
        elif isinstance(part, _Audio):
            parts.append(Recording(_decoded(part.input_audio.data, f"{where}.input_audio.data"), where))
        else:
            url, place = part.audio_url.url, f"{where}.audio_url.url"
            if not _DATA_URL.match(url):
                message_ = "URLs are never fetched: send the recording itself, as data:audio/wav;base64,..."
                raise ApiError(400, message_, param=place, code="unsupported_url")
            parts.append(Recording(_decoded(url, place), where))
    return ("assistant" if message.role == "assistant" else "user"), tuple(parts)


_DATA_URL = re.compile(r"data:(?:audio|application|video)/[\w.+-]{1,60}(?:;[\w=.+-]{1,60})*;base64,", re.ASCII)


def _decoded(data: str, param: str) -> bytes:
    """Bytes of base64 text, bare or as a data: URL."""
    try:
        head = _DATA_URL.match(data)
        return base64.b64decode(data[head.end() :] if head else data, validate=True)
    except (binascii.Error, ValueError):
        message = "the recording is not base64: a plain text of it, or data:audio/wav;base64,..."
        raise ApiError(400, message, param=param, code="invalid_base64") from None


def _stops(given: list[str] | None) -> tuple[str, ...]:
    stops = tuple(given or ())
    if len(stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        message = f"stop: up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
        raise ApiError(400, message, param="stop")
    return stops


def _unsure(probability: float | None, last: Sequence[str | Recording]) -> Unsure | None:
    if probability is None:
        return None
    if not any(isinstance(part, Recording) for part in last):
        raise ApiError(400, "ask_when_unsure needs a recording in the last message", param="ask_when_unsure")
    return Unsure(probability)


def _logprobs(request: _Body) -> int | None:
    if request.logprobs:
        for name in ("max_words", "end_with_question", "ask_when_unsure"):
            if getattr(request, name):
                message = f"logprobs are of what is decoded, and {name} changes it"
                raise ApiError(400, message, param="logprobs", code="unsupported_parameter")
        return request.top_logprobs or 0
    if request.top_logprobs is not None:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    return None


def _decoding(request: _Body, limit: int) -> Decoding:
    wanted = next((n for n in (request.max_completion_tokens, request.max_tokens) if n is not None), limit)
    return Decoding(
        max_new_tokens=min(wanted, limit),
        temperature=0.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=request.seed,
        max_words=request.max_words,
        end_with_question=bool(request.end_with_question),
    )
