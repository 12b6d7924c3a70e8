"""OpenAI's own client against the server: what its users write works, and what it raises tells what was wrong."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_world

pytest.importorskip("openai")
pytest.importorskip("fastapi")

import openai
from fastapi.testclient import TestClient

from re_llm.apps.serve.app import build
from re_llm.apps.serve.options import ServeOptions
from re_llm.audio.waveform import wav_bytes
from re_llm.inference import engine

DATA = [base64.b64encode(wav_bytes(tiny_world.wave(seconds, seed))).decode() for seconds, seed in ((1.0, 2), (0.6, 1))]


@pytest.fixture(scope="module")
def client(tiny_checkpoint: Path) -> Iterator[openai.OpenAI]:
    options = ServeOptions(name="tiny", max_new_tokens=16)
    with TestClient(build(engine.load(tiny_checkpoint, device="cpu"), options), base_url="http://t/v1") as http:
        yield openai.OpenAI(base_url="http://t/v1", api_key="none", http_client=http, max_retries=0)


def spoken(index: int = 0, form: str = "input_audio") -> dict[str, object]:
    if form == "audio_url":
        return {"type": form, "audio_url": {"url": f"data:audio/wav;base64,{DATA[index]}"}}
    data = f"data:audio/x-wav;codecs=1;base64,{DATA[index]}" if form == "data" else DATA[index]
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def ask(client: openai.OpenAI, *parts: object, **options: object) -> object:
    messages = [{"role": "user", "content": list(parts)}]
    return client.chat.completions.create(**{"model": "tiny", "messages": messages, **options})


def test_the_forms_of_a_recording_are_one(client: openai.OpenAI) -> None:
    found = [ask(client, spoken(form=form)) for form in ("input_audio", "data", "audio_url")]
    assert len({each.choices[0].message.content for each in found}) == 1
    assert found[0].emotion["predicted_emotion"] in found[0].emotion["probabilities"]


def test_every_recording_of_the_turn_has_its_emotion_and_a_text_has_none(client: openai.OpenAI) -> None:
    text = {"type": "text", "text": "and"}
    three = ask(client, spoken(0), text, spoken(1), spoken(0))
    assert [each["content_index"] for each in three.emotions] == [0, 2, 3]
    assert three.emotions[0]["probabilities"] == pytest.approx(three.emotions[2]["probabilities"], abs=1e-3)
    assert three.emotion["probabilities"] == three.emotions[2]["probabilities"]
    turns = [
        {"role": "user", "content": [spoken(0)]},
        {"role": "assistant", "content": "so"},
        {"role": "user", "content": "and you?"},
    ]
    found = ask(client, messages=turns)
    assert (found.emotion, found.emotions) == (None, [])


def test_several_answers_and_their_streams(client: openai.OpenAI) -> None:
    options = {"n": 3, "temperature": 1.5, "seed": 7}
    whole = ask(client, spoken(), **options)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and len(set(texts)) > 1
    pieces, ends = [""] * 3, {}
    for chunk in ask(client, spoken(), stream=True, stream_options={"include_usage": True}, **options):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert pieces == texts and chunk.usage == whole.usage
    assert [ends[i] for i in range(3)] == [choice.finish_reason for choice in whole.choices]


def test_stop_and_logprobs(client: openai.OpenAI) -> None:
    whole = ask(client, spoken(), logprobs=True, top_logprobs=2)
    (choice,) = whole.choices
    tokens = choice.logprobs.content
    assert len(tokens) == whole.usage.completion_tokens
    assert all(each.top_logprobs[0].logprob == pytest.approx(each.logprob) for each in tokens)
    streamed = [
        token
        for chunk in ask(client, spoken(), logprobs=True, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert [each.token for each in streamed] == [each.token for each in tokens]
    text = whole.choices[0].message.content
    stop = text[len(text) // 2]
    (cut,) = ask(client, spoken(), stop=stop).choices
    assert (cut.message.content, cut.finish_reason) == (text[: text.index(stop)], "stop")
    (told,) = ask(client, spoken(), stop=stop, logprobs=True).choices  # of what is shown, not of the stop
    shown = "".join(each.token for each in told.logprobs.content)
    assert len(told.logprobs.content) < len(tokens) and shown.startswith(told.message.content)
    assert len("".join(each.token for each in told.logprobs.content[:-1])) < max(1, len(told.message.content))


def test_an_answer_is_sent_back_as_it_came(client: openai.OpenAI) -> None:
    first = ask(client, spoken())
    history = [{"role": "user", "content": [spoken()]}, first.choices[0].message.model_dump()]
    assert ask(client, messages=[*history, {"role": "user", "content": "and?", "name": "me"}]).choices


def test_models(client: openai.OpenAI) -> None:
    assert client.models.retrieve("tiny") == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-4o")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"max_tokens": 0}, "max_tokens", None),
        ({"temperature": 3}, "temperature", None),
        ({"stop": [""]}, "stop", None),
        ({"stop": 5}, "stop", None),
        ({"stop": ["a", 5]}, "stop[1]", None),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", None),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}, {"role": "user", "content": "a"}]},
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
        ({"top_logprobs": 2}, "top_logprobs", None),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, "messages", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "word " * 99_999}]}, "messages", "context_length_exceeded"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "http://a/b.wav"}}]}
                ]
            },
            "messages[0].content[0].audio_url.url",
            "unsupported_url",
        ),
    ],
)
def test_an_error_names_the_parameter(client: openai.OpenAI, options: dict, param: str, code: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, spoken(), **options)
    assert (raised.value.param, raised.value.code) == (param, code)
