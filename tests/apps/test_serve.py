"""The server through its own HTTP surface: answers are the engine's, wrong requests are told what is wrong."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from prometheus_client import CONTENT_TYPE_LATEST
from typer.testing import CliRunner

from re_llm.apps import web
from re_llm.apps.serve import protocol, worker
from re_llm.apps.serve import run as serve
from re_llm.apps.serve.app import build
from re_llm.apps.serve.options import ServeOptions
from re_llm.cli import app as command_line
from re_llm.core.assets import default_model
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.risk import careful_reply
from re_llm.inference import engine
from re_llm.inference.batch import RunningBatch

CHAT = "/v1/chat/completions"
TOKENS = 12
NAME = "tiny"
LIMITS = {"max_body_mb": 0.5, "max_audio_seconds": 4.0, "max_new_tokens": 40, "timeout_seconds": 60.0}


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def client(loaded: engine.Engine) -> Iterator[TestClient]:
    with TestClient(build(loaded, ServeOptions(name=NAME, **LIMITS))) as made:
        yield made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same second of sound in three formats, and five seconds of it."""
    import tiny_world

    folder = tmp_path_factory.mktemp("files")
    for name in ("one.wav", "one.flac", "one.ogg"):
        soundfile.write(folder / name, tiny_world.wave(1.0, 2), 16_000)
    soundfile.write(folder / "long.flac", tiny_world.wave(5.0, 2), 16_000)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spoken(data: bytes, form: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": form}}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def ask(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": NAME, "messages": list(messages), "max_tokens": TOKENS, **fields}


def streamed(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("form", ["wav", "flac", "ogg"])
def test_the_answer_is_the_engines(
    client: TestClient, loaded: engine.Engine, files: dict[str, bytes], tmp_path: Path, form: str
) -> None:
    (tmp_path / f"one.{form}").write_bytes(files[f"one.{form}"])
    expected = loaded.respond(tmp_path / f"one.{form}", max_new_tokens=TOKENS)
    response = client.post(CHAT, json=ask(user(spoken(files[f"one.{form}"], form))))
    assert response.status_code == 200, response.text
    found = response.json()
    assert (found["object"], found["model"]) == ("chat.completion", NAME)
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.response}
    assert choice["finish_reason"] == expected.finish_reason
    assert found["usage"]["completion_tokens"] == expected.tokens
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + expected.tokens
    assert found["emotion"]["predicted_emotion"] == expected.predicted_emotion
    assert found["emotion"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-4)
    assert found["emotion"]["arousal"] == pytest.approx(expected.arousal, abs=1e-4)


def test_the_stream_joined_is_the_answer(client: TestClient, files: dict[str, bytes]) -> None:
    question = ask(user(spoken(files["one.wav"])))
    whole = client.post(CHAT, json=question).json()
    response = client.post(CHAT, json={**question, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, usage = streamed(response.text)
    assert {chunk["id"] for chunk in (first, *middle, last, usage)} == {first["id"]}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert first["emotion"] == whole["emotion"]
    pieces = [chunk["choices"][0]["delta"]["content"] for chunk in middle]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    ended = {"index": 0, "delta": {}, "finish_reason": whole["choices"][0]["finish_reason"], "logprobs": None}
    assert last["choices"][0] == ended
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_silence_around_a_recording_is_cut(client: TestClient, files: dict[str, bytes]) -> None:
    wave, rate = soundfile.read(io.BytesIO(files["one.wav"]), dtype="float32")
    silence, around = np.zeros(rate, np.float32), io.BytesIO()
    soundfile.write(around, np.concatenate([silence, wave, silence]), rate, format="WAV")
    rows = [client.post(CHAT, json=ask(user(spoken(data)))).json() for data in (files["one.wav"], around.getvalue())]
    alone, longer = (row["usage"]["prompt_tokens"] for row in rows)
    assert longer - alone <= 5  # 0.6 s stay; two seconds would be 13 tokens


def test_the_page_asks_for_the_microphone_as_it_is(client: TestClient) -> None:
    page = client.get("/").text
    for name in ("autoGainControl", "noiseSuppression", "echoCancellation"):
        assert f"{name}: false" in page
    assert "OfflineAudioContext" not in page  # the device's rate is sent


def test_text_alone_and_turns_before(client: TestClient, files: dict[str, bytes]) -> None:
    text = client.post(CHAT, json=ask({"role": "user", "content": "hello"})).json()
    assert text["emotion"] is None
    assert text["usage"]["completion_tokens"] > 0
    turns = [
        user(spoken(files["one.wav"])),
        {"role": "assistant", "content": "good day"},
        user("and", spoken(files["one.ogg"], "ogg")),
    ]
    system = {"role": "system", "content": "be kind"}
    both = client.post(CHAT, json=ask(system, *turns)).json()
    single = client.post(CHAT, json=ask(system, turns[0])).json()
    assert both["emotion"]["probabilities"]
    assert single["usage"]["prompt_tokens"] < both["usage"]["prompt_tokens"]


def test_the_servers_limit_cuts_and_says_so(client: TestClient) -> None:
    found = client.post(CHAT, json=ask(user("hello"), max_tokens=100_000)).json()
    assert found["usage"]["completion_tokens"] <= LIMITS["max_new_tokens"]
    short = client.post(CHAT, json=ask(user("hello"), max_tokens=1)).json()
    assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (1, "length")


def test_seeded_sampling_repeats(client: TestClient) -> None:
    fields = {"temperature": 1.5, "top_p": 0.9, "seed": 3}
    first, second = (client.post(CHAT, json=ask(user("hello"), **fields)).json() for _ in range(2))
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [user("")]}, 400, "nothing to answer"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, 400, "nothing to answer"),
        ({"messages": [{"role": "robot", "content": "hello"}]}, 400, "messages[0].role"),
        ({"messages": [user("a"), {"role": "system", "content": "b"}]}, 400, "before all others"),
        ({"messages": [user({"type": "image_url", "image_url": {"url": "x"}})]}, 400, "image_url"),
        ({"messages": [user({"type": "input_audio", "input_audio": {"data": "?!", "format": "wav"}})]}, 400, "base64"),
        ({"messages": [user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})]}, 400, "empty"),
        ({"messages": [user({"type": "input_audio", "input_audio": {"data": "", "format": "doc"}})]}, 400, "format"),
        ({"messages": [user(spoken(b"this is no sound"))]}, 400, "not audio that can be read"),
        ({"messages": [user(*[spoken(b"x")] * 17)]}, 400, "more than 16 recordings"),
        ({"model": "gpt-4o"}, 404, "there is no model 'gpt-4o' here, only 'tiny'"),
        ({"n": 9}, 400, "n: Input should be less than or equal to 8"),
        ({"stop": ["x"] * 5}, 400, "stop: up to 4 texts"),
        ({"top_logprobs": 2}, 400, "top_logprobs needs logprobs"),
        ({"presence_penalty": 1}, 400, "presence_penalty is not supported here; it may be 0"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ({"max_tokens": 0}, 400, "max_tokens: Input should be greater"),
        ({"temperature": 9}, 400, "temperature: Input should be less"),
        ({"temperature": "warm"}, 400, "temperature"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    client: TestClient, change: dict[str, Any], status: int, message: str
) -> None:
    for stream in (False, True):
        response = client.post(CHAT, json=ask(user("hello"), **change, stream=stream) | change)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert message in error["message"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"


def test_an_error_names_the_part_it_is_about(client: TestClient, files: dict[str, bytes]) -> None:
    error = client.post(CHAT, json=ask(user("hear", spoken(b"nothing")))).json()["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[1]", "unusable_audio")
    long = io.BytesIO()
    soundfile.write(long, np.zeros(5 * 16_000), 16_000, format="WAV")
    error = client.post(CHAT, json=ask(user("hear", spoken(long.getvalue())))).json()["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[1]", "audio_too_long")
    wrong = {"type": "input_audio", "input_audio": {"data": 5, "format": "wav"}}
    error = client.post(CHAT, json=ask(user(wrong))).json()["error"]
    assert error["param"] == "messages[0].content[0].input_audio.data"


def test_too_much_is_refused(client: TestClient, files: dict[str, bytes]) -> None:
    long = client.post(CHAT, json=ask(user(spoken(files["long.flac"], "flac"))))
    assert long.status_code == 400
    assert "Allowed: 4 s of audio in one request" in long.json()["error"]["message"]
    together = client.post(CHAT, json=ask(user(*[spoken(files["one.ogg"], "ogg")] * 5)))
    assert together.json()["error"]["param"] == "messages[0].content[4]"
    large = client.post(CHAT, json=ask(user("x" * 600_000)))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    unannounced = client.post(
        CHAT, content=(b"x" * 60_000 for _ in range(10)), headers={"content-type": "application/json"}
    )
    assert unannounced.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]"])
def test_a_body_that_is_no_request(client: TestClient, body: bytes) -> None:
    response = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "Traceback" not in response.text


@pytest.mark.parametrize("field", ["content", "\\ud800"])
def test_half_a_surrogate_pair_is_refused_and_a_whole_one_read(client: TestClient, field: str) -> None:
    headers = {"content-type": "application/json"}
    for text, status in (("\\ud83d\\ude00", 200), ("a \\uD83D b", 400)):
        body = f'{{"max_tokens": 2, "messages": [{{"role": "user", "content": "hi", "{field}": "{text}"}}]}}'
        response = client.post(CHAT, content=body, headers=headers)
        assert response.status_code == (status if field == "content" else 400), response.text
        if response.status_code == 400:
            assert response.json()["error"]["code"] == "invalid_unicode"


def test_a_form_of_a_foreign_page_is_refused(client: TestClient) -> None:
    assert client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.get(CHAT).json()["error"]["message"] == "Method Not Allowed"
    assert client.get("/nowhere").json()["error"]["type"] == "invalid_request_error"


def test_the_key(loaded: engine.Engine) -> None:
    with TestClient(build(loaded, ServeOptions(name=NAME, api_key="secret"))) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            for response in (client.get("/v1/models", headers=headers), client.post(CHAT, json={}, headers=headers)):
                assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).json()["data"][0]["id"] == NAME
        assert client.get("/healthz").status_code == client.get("/").status_code == 200


def test_a_full_queue_and_a_timeout(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, release = threading.Event(), threading.Event()

    def held(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert release.wait(30)
        return original(*args, **kwargs)

    original = worker.lay_out
    monkeypatch.setattr(worker, "lay_out", held)
    options = ServeOptions(name=NAME, queue_size=1, timeout_seconds=1.5)
    statuses: list[int] = []
    with TestClient(build(loaded, options)) as client:
        question = ask(user("hello"))
        threads = [
            threading.Thread(target=lambda: statuses.append(client.post(CHAT, json=question).status_code))
            for _ in range(2)
        ]
        threads[0].start()
        assert entered.wait(30)
        threads[1].start()
        while "re_llm_queue_length 1" not in client.get("/metrics").text:
            time.sleep(0.01)
        refused = client.post(CHAT, json=question)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"] == "1"
        for thread in threads:
            thread.join()
        assert statuses == [504, 504]
        release.set()
        monkeypatch.setattr(worker, "lay_out", original)
        deadline = time.monotonic() + 30
        while client.post(CHAT, json=question).status_code != 200:  # those given up are still in front
            assert time.monotonic() < deadline
        cancelled = re.search(r"re_llm_cancelled_total (\d+)", client.get("/metrics").text)
        assert int(cancelled[1]) >= 2


def test_a_failure_of_ours_tells_nothing(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said = " ".join(["what", "the", "user", "said"])  # the traceback quotes lines of source

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError(said)

    monkeypatch.setattr(worker, "lay_out", broken)
    with caplog.at_level(logging.DEBUG), TestClient(build(loaded, ServeOptions(name=NAME))) as client:
        for stream in (False, True):
            response = client.post(CHAT, json=ask(user("hello"), stream=stream))
            assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert client.get("/healthz").status_code == 200
    assert "ZeroDivisionError while answering" in caplog.text
    assert said not in caplog.text + response.text


def test_a_failure_in_the_middle_ends_the_streams_and_not_the_server(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(build(loaded, ServeOptions(name=NAME))) as client:
        question = ask(user("hello"), stream=True)
        expected = client.post(CHAT, json=question).text

        def broken(batch: RunningBatch) -> None:
            for each in batch._running:
                each.row.on_text("I am")
            raise RellmError("the row grew too long")

        with monkeypatch.context() as patch:
            patch.setattr(RunningBatch, "step", broken)
            events = client.post(CHAT, json=question).text.split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["choices"][0]["delta"] == {"content": "I am"}
        assert json.loads(events[-2].removeprefix("data: "))["error"]["message"] == "the row grew too long."
        again = client.post(CHAT, json=question).text
    assert [each["choices"] for each in streamed(again)] == [each["choices"] for each in streamed(expected)]


def test_the_emotion_of_a_recording_alone(client: TestClient, files: dict[str, bytes]) -> None:
    url = "/v1/audio/emotions"
    found = client.post(url, files={"file": ("one.wav", files["one.wav"])}, data={"model": NAME}).json()
    whole = client.post(CHAT, json=ask(user(spoken(files["one.wav"])))).json()["emotion"]
    assert found["duration"] == 1.0 and found["predicted_emotion"] == whole["predicted_emotion"]
    assert found["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-3)
    wrong = [
        (client.post(url, files={"sound": b"x"}), 400, "file"),
        (client.post(url, files={"file": b"no recording"}), 400, "file"),
        (client.post(url, json={}), 415, None),
        (client.post(url, content=b"x", headers={"content-type": "multipart/form-data"}), 400, None),
        (client.post(url, files={"file": b"x"}, headers={"origin": "http://evil.example"}), 403, None),
    ]
    for response, status, param in wrong:
        assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_careful_model_answers_by_rule(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "careful", True)
    with TestClient(build(loaded, ServeOptions(name=NAME))) as client:
        for stream in (False, True):
            text = client.post(CHAT, json=ask(user("I want to die"), n=2, stream=stream)).text
            assert text.count(json.dumps(careful_reply("I want to die"))) == 2
        other = client.post(CHAT, json=ask(user("hello"))).json()["choices"][0]["message"]["content"]
    assert other != careful_reply("hello")


def test_a_conversation_that_fills_the_context_is_refused_in_streams_too(client: TestClient) -> None:
    response = client.post(CHAT, json=ask(user("a" * 600), stream=True))
    assert response.status_code == 400
    assert "Leave out earlier turns" in response.json()["error"]["message"]


def test_a_stopping_server_tells_those_who_wait(loaded: engine.Engine) -> None:
    made = worker.Worker(loaded, ServeOptions())
    question = protocol.parse(json.dumps(ask(user("hello"))).encode(), model=NAME, max_new_tokens=4)
    with pytest.raises(protocol.ApiError, match="stopping"):
        made.submit(worker.Job(question, print))
    events: list[worker.Event] = []
    made._jobs.put(worker.Job(question, events.append))
    made._threads = []  # nobody gets to work
    made.close()
    assert [event.status for event in events] == [503]


def test_models_health_and_metrics(client: TestClient, files: dict[str, bytes]) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == (NAME, "model")
    assert client.get("/healthz").json() == {"status": "ok", "model": NAME}
    for path in ("/healthz", "/"):
        head = client.head(path)
        assert head.status_code == 200 and head.content == b""

    def values() -> dict[str, float]:
        page = client.get("/metrics")
        assert page.headers["content-type"] == CONTENT_TYPE_LATEST
        return {k: float(v) for k, v in re.findall(r"^(re_llm\S+) (\S+)$", page.text, re.MULTILINE)}

    before = values()
    client.post(CHAT, json=ask(user(spoken(files["one.wav"]))))
    client.get("/secret/path")
    after = values()
    assert not any(name.endswith("_created") for name in after)
    ok = f're_llm_requests_total{{route="{CHAT}",status="200"}}'
    assert after[ok] - before.get(ok, 0) == 1
    assert after["re_llm_audio_seconds_total"] - before["re_llm_audio_seconds_total"] == pytest.approx(1.0, abs=0.01)
    assert after["re_llm_answer_seconds_count"] - before["re_llm_answer_seconds_count"] == 1
    assert after['re_llm_answer_seconds_bucket{le="+Inf"}'] == after["re_llm_answer_seconds_count"]
    assert 're_llm_requests_total{route="other",status="404"}' in after
    assert not any("secret" in name for name in after)


def test_the_page_stands_alone(client: TestClient) -> None:
    response = client.get("/")
    assert response.text == web.page()
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "understands only its own synthetic world" in response.text
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']*|https?://\w|@import|url\(""", response.text) == []
    assert "innerHTML" not in response.text
    assert "estimate.predicted_emotion" in response.text  # the field of the API


def test_examples_belong_to_the_miniature(client: TestClient) -> None:
    assert client.get("/examples").json() == []
    assert client.get("/examples/..%2F..%2Fetc%2Fpasswd").status_code == 404


def test_the_miniature_offers_its_recordings(
    loaded: engine.Engine, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "a.flac").write_bytes(files["long.flac"])
    entry = {"recording": "a.flac", "sentence": "s", "speaker": "p", "reference": "sad"}
    (folder / "recordings.json").write_text(json.dumps([entry, {**entry, "recording": "gone.flac"}]))
    monkeypatch.setenv("RE_LLM_MINI", str(tmp_path))
    monkeypatch.setattr(loaded, "name", engine.SHIPPED_MODEL)
    with TestClient(build(loaded, ServeOptions())) as client:
        listed = {"name": "a.flac", "sentence": "s", "reference": "sad", "speaker": "p"}
        assert client.get("/examples").json() == [listed]
        assert client.get("/examples/a.flac").content == files["long.flac"]
        assert client.get("/v1/models").json()["data"][0]["id"] == "mini:re-llm"


def test_the_small_model_offers_people(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "name", "small:re-llm")
    with TestClient(build(loaded, ServeOptions())) as client:
        listed = {each["name"]: each for each in client.get("/examples").json()}
        assert listed["kennedy.flac"]["reference"] is None and listed["16a01-sad.flac"]["reference"] == "sad"
        assert client.get("/examples/16a01-sad.flac").content.startswith(b"fLaC")


def test_the_path_of_a_checkpoint_is_not_told(tiny_checkpoint: Path) -> None:
    assert ServeOptions().model_id(str(tiny_checkpoint)) == tiny_checkpoint.name
    assert ServeOptions(name="mine").model_id("x") == "mine"
    assert ServeOptions().model_id("owner/model") == "owner/model"


@pytest.mark.parametrize("wrong", [{"queue_size": 0}, {"max_body_mb": -1}, {"api_key": ""}, {"prompt": "recognize"}])
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(RellmError):
        ServeOptions(**wrong)


def test_the_command_serves_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.delenv("RE_LLM_MODEL", raising=False)
    monkeypatch.setattr(serve, "run", lambda model, options, **others: asked.append(model))
    assert CliRunner().invoke(command_line, ["serve"]).exit_code == 0
    assert asked == [default_model()]


def test_a_port_in_use_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(command_line, ["serve", "--port", port, "--model", "no-such-model"])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in result.stderr


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"re-llm\[serve\]"):
        serve.require()


def test_the_example_of_the_documentation_works(client: TestClient, files: dict[str, bytes]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(\{.*?\})\n```", page, re.DOTALL)
    question = json.loads(example.replace("BASE64", base64.b64encode(files["one.wav"]).decode()))
    assert client.post(CHAT, json=question | {"model": NAME}).status_code == 200
