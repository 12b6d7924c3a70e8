"""The routes for one recording, the API's own description, and pages of other origins."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_world

pytest.importorskip("openai")
pytest.importorskip("fastapi")

import openai
from fastapi.testclient import TestClient

from re_llm.apps.serve import audio
from re_llm.apps.serve.app import build
from re_llm.apps.serve.options import ServeOptions
from re_llm.audio import silero
from re_llm.audio.waveform import RATE, wav_bytes
from re_llm.core.errors import RellmError
from re_llm.inference import engine
from re_llm.inference.transcribe import Transcriber

GAP = np.zeros(RATE, np.float32)
WAVE = np.concatenate([tiny_world.wave(2.0, 1), GAP, tiny_world.wave(1.0, 2)]).astype(np.float32)
FILE = ("talk.wav", wav_bytes(WAVE), "audio/wav")
EMOTIONS, TRANSCRIPTIONS, CHAT = "/v1/audio/emotions", "/v1/audio/transcriptions", "/v1/chat/completions"


class Words:
    """A recogniser that says how long each window is."""

    def transcribe(self, waves: list[np.ndarray]) -> list[str]:
        return [f"{len(wave) / RATE:.0f} seconds" for wave in waves]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def http(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(silero, "weights", lambda: None)  # hums are no speech to silero-vad
    monkeypatch.setattr(Transcriber, "load", lambda name, **options: Words())
    options = ServeOptions(name="tiny", max_new_tokens=8, cors_origins=("https://friend.example",))
    with TestClient(build(loaded, options), base_url="http://t") as client:
        yield client


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://t/v1", api_key="none", http_client=http, max_retries=0)


def test_the_mean_of_the_windows_is_the_emotion(http: TestClient, loaded: engine.Engine) -> None:
    form = {"trajectory": "true", "window": "2.8"}
    found = http.post(EMOTIONS, files={"file": FILE}, data=form).json()
    weights = [each["end"] - each["start"] for each in found["trajectory"]]
    assert len(weights) == 2 and found["duration"] == 4.0
    for name in ("valence", "arousal", "dominance"):
        assert np.average([each[name] for each in found["trajectory"]], weights=weights) == pytest.approx(
            found[name], abs=1e-3
        )
    alone = http.post(EMOTIONS, files={"file": FILE}).json()
    assert "trajectory" not in alone and alone["valence"] == pytest.approx(loaded.recognize(WAVE).valence, abs=1e-3)


def test_a_long_recording_of_a_conversation_has_its_windows(
    http: TestClient, loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import base64

    monkeypatch.setattr(loaded, "trained_seconds", 2.8)
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(FILE[1]).decode(), "format": "wav"}}
    found = http.post(CHAT, json={"messages": [{"role": "user", "content": [part]}]}).json()
    assert len(found["emotion"]["trajectory"]) == 2 and "up to 2.8 s" in found["emotion"]["notice"]
    assert found["emotions"][0]["trajectory"] == found["emotion"]["trajectory"]


def test_the_openai_client_transcribes(client: openai.OpenAI) -> None:
    create = client.audio.transcriptions.create
    assert create(model="tiny", file=FILE).text == "2 seconds 1 seconds"
    assert create(model="tiny", file=FILE, response_format="text") == "2 seconds 1 seconds\n"
    srt = create(model="tiny", file=FILE, response_format="srt")
    assert srt.startswith("1\n00:00:00,000 --> 00:00:02,350\n2 seconds\n\n2\n")
    vtt = create(model="tiny", file=FILE, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.350\n2 seconds\n\n")
    verbose = create(model="tiny", file=FILE, response_format="verbose_json")
    assert (verbose.duration, [segment.text for segment in verbose.segments]) == (4.0, ["2 seconds", "1 seconds"])
    assert create(model="tiny", file=FILE, timestamp_granularities=["segment"]).text == "2 seconds 1 seconds"


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"language": "en"}, "language", "unsupported_parameter"),
        ({"prompt": "names"}, "prompt", "unsupported_parameter"),
        ({"temperature": 0.5}, "temperature", None),
        ({"response_format": "tsv"}, "response_format", None),
        ({"stream": True}, "stream", "unsupported_parameter"),
        ({"timestamp_granularities": ["segment", "word"]}, "timestamp_granularities", "unsupported_parameter"),
        ({"file": ("a.wav", b"no sound")}, "file", "unusable_audio"),
        ({"file": ("a.wav", wav_bytes(GAP))}, "file", "unusable_audio"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    client: openai.OpenAI, options: dict, param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.audio.transcriptions.create(**{"model": "tiny", "file": FILE, **options})
    assert (raised.value.param, raised.value.code) == (param, code)
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(model="whisper-1", file=FILE)


@pytest.mark.parametrize(
    ("path", "form", "param"),
    [
        (EMOTIONS, {"window": "0.1"}, "window"),
        (EMOTIONS, {"window": "wide"}, "window"),
        (EMOTIONS, {"trajectory": "perhaps"}, "trajectory"),
        (EMOTIONS, {"language": "en"}, "language"),
        (EMOTIONS, {"window": ["2", "3"]}, "window"),
    ],
)
def test_wrong_fields_are_named(http: TestClient, path: str, form: dict[str, str | list[str]], param: str) -> None:
    response = http.post(path, files={"file": FILE}, data=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert "convert" not in response.json()["error"]["message"]


def test_a_server_without_a_decoder_says_so(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, **options: object) -> Words:
        raise RellmError("the Whisper model lacks the tensor x")

    monkeypatch.setattr(Transcriber, "load", missing)
    response = http.post(TRANSCRIPTIONS, files={"file": FILE})
    assert (response.status_code, response.json()["error"]["code"]) == (501, "not_available")
    assert "lacks the tensor x" in response.json()["error"]["message"]


def test_recordings_wait_for_each_other_up_to_the_queue(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*args: object) -> dict[str, str]:
        begun.set()
        assert go.wait(60)
        return {}

    monkeypatch.setattr(audio, "emotion", slow)
    with TestClient(build(loaded, ServeOptions(name="tiny", queue_size=1))) as client:
        first = threading.Thread(target=client.post, args=(EMOTIONS,), kwargs={"files": {"file": FILE}})
        first.start()
        assert begun.wait(60)
        assert client.post(EMOTIONS, files={"file": FILE}).status_code == 429
        go.set()
        first.join()
        assert client.post(EMOTIONS, files={"file": FILE}).status_code == 200
        go.clear()
    begun.clear()
    with TestClient(build(loaded, ServeOptions(name="tiny", timeout_seconds=1.0))) as client:
        assert client.post(EMOTIONS, files={"file": FILE}).status_code == 504
        assert begun.is_set()
        begun.clear()
        assert client.post(EMOTIONS, files={"file": FILE}).status_code == 504  # while the first one still runs
        go.set()
    assert not begun.is_set()  # nobody waits for the second one any more


def test_pages_of_named_origins_may_use_it_and_others_not(http: TestClient) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, allowed in (("https://friend.example", True), ("https://other.example", False)):
        before = http.options(CHAT, headers={"Origin": origin, **asked})
        assert (before.headers.get("access-control-allow-origin") == origin) == allowed
        answer = http.get("/v1/models", headers={"Origin": origin})
        assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
        form = http.post(EMOTIONS, files={"file": FILE}, headers={"Origin": origin})
        assert form.status_code == (200 if allowed else 403)
    with pytest.raises(RellmError, match="no origin"):
        ServeOptions(cors_origins=("*",))


def test_the_api_describes_itself(http: TestClient) -> None:
    spec = http.get("/openapi.json").json()
    text = json.dumps(spec)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert names and names <= set(spec["components"]["schemas"])
    routes = {route.path.replace("{wanted:path}", "{model}") for route in http.app.routes}
    assert set(spec["paths"]) <= routes and {path for path in routes if path.startswith("/v1")} <= set(spec["paths"])
    example = spec["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["example"]
    example["messages"][0]["content"] = "instead of the shortened recording"
    assert http.post(CHAT, json=example).status_code == 200


def test_the_page_of_the_api_stands_alone(http: TestClient) -> None:
    page = http.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|https?://|@import|src=", page.text)
    assert all(path in page.text for path in (CHAT, EMOTIONS, TRANSCRIPTIONS))


def damaged(body: bytes, rng: random.Random) -> bytes:
    """The body of a form with bytes changed, cut out or doubled."""
    at, to = sorted(rng.randrange(len(body)) for _ in range(2))
    return rng.choice(
        [body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :], body[:at] + body[to:], body[:to] + body[at:]]
    )


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("path", [EMOTIONS, TRANSCRIPTIONS])
def test_damaged_forms_leave_it_answering(http: TestClient, path: str, count: int) -> None:
    rng = random.Random(0)
    form = {"window": "2.5"} if path == EMOTIONS else {"response_format": "srt"}
    files = {"file": ("a.wav", wav_bytes(tiny_world.wave(0.1, 1)))}
    whole = http.build_request("POST", path, files=files, data={"model": "tiny", **form})
    body, headers = whole.read(), {"content-type": whole.headers["content-type"]}
    found = {http.post(path, content=damaged(body, rng), headers=headers).status_code for _ in range(count)}
    assert http.post(path, content=body, headers=headers).status_code == 200
    assert found <= {200, 400, 404} and len(found) > 1
