"""Fields of a request beside OpenAI's: length control, and a question when the model is unsure."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from re_llm.apps.serve.app import build
from re_llm.apps.serve.options import ServeOptions
from re_llm.audio import waveform
from re_llm.core.records import Utterance
from re_llm.inference import engine
from re_llm.inference.reply import ReplyOptions
from re_llm.inference.variant import Unsure, Variant
from re_llm.inference.varied import varied
from re_llm.llm.length import FEELING, count_words, sentences

CHAT, TOKENS = "/v1/chat/completions", 24


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def client(loaded: engine.Engine) -> Iterator[TestClient]:
    with TestClient(build(loaded, ServeOptions(name="tiny"))) as made:
        yield made


def ask(client: TestClient, path: Path, **fields: Any) -> Any:
    data = base64.b64encode(path.read_bytes()).decode()
    content = [{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]
    return client.post(CHAT, json={"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, **fields})


def chunks(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.split("\n\n") if line and line != "data: [DONE]"]


LENGTHS = [{"max_words": 3}, {"end_with_question": True}, {"max_words": 9, "end_with_question": True}]


@pytest.mark.parametrize("fields", LENGTHS)
def test_length_control_is_the_engines(
    client: TestClient, loaded: engine.Engine, recording: Any, fields: dict[str, Any]
) -> None:
    expected = loaded.respond(recording(), max_new_tokens=TOKENS, **fields)
    found = ask(client, recording(), **fields).json()
    assert found["choices"][0]["message"]["content"] == expected.response
    assert found["usage"]["completion_tokens"] == expected.tokens
    assert "asked" not in found
    if fields.get("end_with_question"):
        assert sentences(expected.response)[-1].endswith("?")
    else:
        assert count_words(expected.response) <= 3 or len(sentences(expected.response)) == 1
    plain = ask(client, recording()).json()["choices"][0]["message"]["content"]
    assert expected.response != plain or fields == {"max_words": 3}


@pytest.mark.parametrize("fields", LENGTHS)
def test_length_control_in_a_stream(client: TestClient, recording: Any, fields: dict[str, Any]) -> None:
    whole = ask(client, recording(), **fields, n=2).json()
    streamed = chunks(ask(client, recording(), **fields, n=2, stream=True).text)
    for choice in whole["choices"]:
        said = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == choice["index"]]
        assert "".join(each["delta"].get("content", "") for each in said) == choice["message"]["content"]
        assert said[-1]["finish_reason"] == choice["finish_reason"]


def test_who_is_unsure_asks(client: TestClient, loaded: engine.Engine, recording: Any) -> None:
    first, second, *_ = sorted(loaded.respond(recording()).probabilities.values(), reverse=True)
    sure, unsure = (first + second) / 2, (first + 1) / 2
    plain = ask(client, recording()).json()
    told = ask(client, recording(), ask_when_unsure=sure).json()
    assert (told.pop("asked"), told["choices"]) == (False, plain["choices"])

    asked = ask(client, recording(), ask_when_unsure=unsure).json()
    sample = loaded.prepared(waveform.load(recording()), "it", ("chat-empathetic", 1))
    options = ReplyOptions(prompt="chat-empathetic", variant=Variant(unsure=Unsure(unsure)))
    row = Utterance(key="it", corpus="it", split="test", audio="it.wav")
    (expected,) = varied(loaded, options, recording().parent).respond_rows([row], [sample], options)
    assert asked["asked"] is True
    assert asked["choices"][0]["message"]["content"] == expected.response
    assert expected.response.startswith(FEELING) and expected.response.endswith("?")
    assert asked["usage"]["completion_tokens"] == expected.tokens

    opening, *rest = chunks(ask(client, recording(), ask_when_unsure=unsure, stream=True).text)
    assert opening["asked"] is True
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in rest) == expected.response


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_words", 0), ("max_words", "few"), ("end_with_question", "often"), ("ask_when_unsure", 1),
     ("ask_when_unsure", 0), ("ask_when_unsure", "maybe"), ("ask_when_unsure", [0.5])],
)  # fmt: skip
def test_wrong_values_are_refused_by_name(client: TestClient, recording: Any, name: str, value: object) -> None:
    response = ask(client, recording(), **{name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


def test_asking_needs_a_recording(client: TestClient) -> None:
    messages = [{"role": "user", "content": "hello"}]
    response = client.post(CHAT, json={"messages": messages, "ask_when_unsure": 0.5})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "ask_when_unsure")
    assert client.post(CHAT, json={"messages": messages, "max_tokens": TOKENS, "max_words": 3}).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [{"max_words": 3}, {"end_with_question": True}, {"ask_when_unsure": 0.5}],
    ids=lambda each: next(iter(each)),
)
def test_log_probabilities_are_of_what_is_decoded(client: TestClient, recording: Any, fields: dict[str, Any]) -> None:
    error = ask(client, recording(), logprobs=True, **fields).json()["error"]
    assert (error["param"], error["code"]) == ("logprobs", "unsupported_parameter")
    assert next(iter(fields)) in error["message"]
