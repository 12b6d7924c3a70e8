"""A chat LLM behind a server: same rows, same order, whatever goes wrong on the way; and what is never sent or told."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest
from chat_world import ChatServerWorld, Echo, Fault, error, said, serving, write_manifest

from re_llm.continuations import continue_manifest
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Record, read_records
from re_llm.llm.completion import Completion
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import Prompt, get_prompt
from re_llm.llm.server import ChatServer
from re_llm.llm.server_bodies import request_body
from re_llm.llm.server_options import ServerOptions, key_from
from re_llm.llm.server_requests import MAX_ANSWER_BYTES, MAX_HOLD, Requests, read_answer, retry_after

ASKED = get_prompt("continue-emotion").with_emotion("sad")


@pytest.fixture
def world() -> Iterator[ChatServerWorld]:
    with serving() as running:
        yield running


def client(world: ChatServerWorld, **changes: object) -> ChatServer:
    return ChatServer(ServerOptions(**{"url": world.url, "model": "echo", "pause": 0.01, "timeout": 20.0, **changes}))


def ask(server: ChatServer, texts: list[str]) -> list[Completion]:
    return server.answer([(ASKED, text) for text in texts], max_new_tokens=48)


def first_time(faults: dict[str, Fault]) -> Callable[[int, str], Fault | None]:
    """Each text meets its fault once."""
    left = dict(faults)
    return lambda number, text: left.pop(text, None)


def test_answers_keep_the_order_of_the_questions_whatever_goes_wrong(world: ChatServerWorld) -> None:
    texts = [f"row {i}" for i in range(40)]
    world.delay = lambda text: 0.02 * (int(text.split()[1]) % 5 == 0)
    soon = format_datetime(datetime.now(UTC), usegmt=True)
    world.fault = first_time(
        {
            "row 3": Fault(429, error("slow down"), {"Retry-After": "0.1"}),
            "row 5": Fault(500, b"Internal Server Error"),
            "row 8": Fault(200, seconds=3.0),  # past the timeout
            "row 11": Fault(None),
            "row 14": Fault(503, error("loading"), {"Retry-After": soon}),
            "row 17": Fault(200, b"<html>not me</html>"),
            "row 20": Fault(200, {"choices": [{"message": {"content": "half"}, "finish_reason": "abort"}]}),
        }
    )
    server = client(world, concurrency=6, timeout=1.0)
    answers = ask(server, texts)
    assert [(a.text, a.finish_reason) for a in answers] == [said(text) for text in texts]
    assert {a.finish_reason for a in answers} == {"stop", "length"}
    assert world.finished != texts and set(world.finished) == set(texts)
    assert len(world.asked) == len(texts) + server.retries.total()
    # At least: on a busy machine another row may miss its time too.
    expected = {"status 429": 1, "status 500": 1, "status 503": 1, "timeout": 1, "connection": 1, "unreadable": 2}
    assert Counter(expected) <= server.retries
    assert world.peers == {"127.0.0.1"}


def test_no_more_requests_at_once_than_allowed(world: ChatServerWorld) -> None:
    world.delay = lambda text: 0.03
    ask(client(world, concurrency=5), [f"row {i}" for i in range(25)])
    assert 1 < world.most <= 5 and len(world.asked) == 25


def test_the_request_is_the_local_prompt_and_greedy(world: ChatServerWorld) -> None:
    ask(client(world), ["I am late."])
    (body,) = world.asked
    assert body["messages"] == [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": ASKED.before + "I am late."},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("echo", 0, 48)
    assert world.headers[0]["Accept-Encoding"] == "identity" and "Authorization" not in world.headers[0]


def test_a_server_that_asks_for_patience_is_left_alone(world: ChatServerWorld) -> None:
    world.fault = first_time({"row 0": Fault(429, headers={"Retry-After": "0.5"})})
    ask(client(world, concurrency=1), ["row 0", "row 1", "row 2"])
    assert world.texts()[0] == "row 0"
    assert world.times[1] - world.times[0] > 0.45


def test_the_rate_is_kept_by_tries_too(world: ChatServerWorld) -> None:
    world.fault = first_time({"row 1": Fault(500)})
    begun = time.monotonic()
    ask(client(world, rate=600), [f"row {i}" for i in range(5)])
    assert len(world.asked) == 6
    assert time.monotonic() - begun > 0.48


@pytest.mark.parametrize("others", [0, 1])
def test_a_row_that_is_turned_away_while_others_are_answered_is_not_given_up(others: int) -> None:
    class TurnedAway(Requests):
        """Too many requests, four times; `others` rows are answered in between."""

        left = 4

        async def _send(self, *_: object) -> tuple[int, httpx2.Headers, bytes]:
            self.left -= 1
            self._answered += others
            said = b'{"choices": [{"message": {"content": "so"}, "finish_reason": "stop"}]}'
            return (429, httpx2.Headers({"Retry-After": "0"}), b"") if self.left >= 0 else (200, httpx2.Headers(), said)

    async def one() -> Completion:
        return await TurnedAway(options, Counter()).answer(ASKED, "a", 8)

    options = ServerOptions("http://127.0.0.1:1/v1", "m", tries=3, pause=0.001)
    if others:
        assert asyncio.run(one()).text == "so"
    else:
        with pytest.raises(RellmError, match="failed 3 times for one row"):
            asyncio.run(one())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(401, error("no such key sk-secret")), r"does not accept the key: no such key \*\*\*.*--key-env"),
        (Fault(404, error("The model `x` does not exist")), r"no model 'echo'.*Allowed: echo, other"),
        (Fault(400, error("unknown field temperature")), r"status 400: unknown field temperature"),
        (Fault(429, error("pay first", "insufficient_quota")), r"gives no more answers.*pay first"),
        (Fault(302, headers={"Location": "http://127.0.0.1:9/v1"}), r"redirects to http://127.0.0.1:9/v1"),
        (Fault(200, b" " * (MAX_ANSWER_BYTES + 1)), r"more than 1048576 bytes"),
        (Fault(418, b"\x1b[31mteapot\n"), r"status 418: \[31mteapot"),
    ],
)
def test_what_cannot_pass_stops_at_once(world: ChatServerWorld, fault: Fault, message: str) -> None:
    world.fault = lambda number, text: fault
    server = client(world, concurrency=1, key="sk-secret")
    with pytest.raises(RellmError, match=message) as raised:
        ask(server, ["a"])
    assert "sk-secret" not in str(raised.value)
    # A row that is rejected may be the only one: another is asked before the run ends.
    assert len(world.asked) == 1 + (fault.status in (200, 400)) and not server.retries


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with serving() as world:
        gone = client(world)
    with pytest.raises(RellmError, match="cannot be reached"):
        ask(gone, ["a"])
    assert not gone.retries


def test_the_run_stops_after_the_tries_and_keeps_what_is_done(world: ChatServerWorld, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.jsonl", 40)
    continue_manifest(manifest, tmp_path / "whole.jsonl", llm=Echo(), chunk=8)
    lost = [f"Line {i} of 40" for i in range(25, 40)]
    world.fault = lambda number, text: Fault(503) if text in lost or not text else None
    out = tmp_path / "c.jsonl"
    with pytest.raises(RellmError, match=r"failed 3 times for one row, and answers no other.*503.*same command again"):
        continue_manifest(manifest, out, llm=client(world, tries=3, concurrency=4), chunk=8)
    before = [row.key for row in read_records(out, Continuation)]
    assert before == [f"u{i}" for i in range(25) if i % 9 != 4]
    world.fault = lambda number, text: None
    world.asked.clear()
    report = continue_manifest(manifest, out, llm=client(world, concurrency=4), chunk=8)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    dropped = [(tmp_path / name).with_suffix(".dropped.jsonl").read_bytes() for name in ("c.jsonl", "whole.jsonl")]
    assert dropped[0] == dropped[1]
    assert report.resumed == len(before) and not {f"Line {i} of 40" for i in range(25)} & set(world.texts())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(
    ("fault", "reason", "detail"),
    [
        (Fault(500, error("CUDA error in this row")), "server-failed", "status 500: CUDA error in this row"),
        (Fault(None), "server-failed", "the connection broke"),
        (Fault(200, b"not JSON"), "server-failed", "no chat completion"),
        (Fault(400, error("odd character")), "server-rejected", "status 400: odd character"),
        (Fault(200, b" " * (MAX_ANSWER_BYTES + 1)), "server-rejected", "more than 1048576 bytes"),
    ],
)
def test_a_row_that_always_fails_is_dropped_and_the_others_are_kept(
    world: ChatServerWorld, tmp_path: Path, concurrency: int, fault: Fault, reason: str, detail: str
) -> None:
    bad = {"Line 3 of 12", "Line 11 of 12"}  # in the middle, and the last one
    world.fault = lambda number, text: fault if text in bad else None
    manifest = write_manifest(tmp_path / "m.jsonl", 12)
    server = client(world, tries=2, concurrency=concurrency)
    report = continue_manifest(manifest, tmp_path / "c.jsonl", llm=server)
    assert dict(report.dropped) == {reason: 2, "no-text": 1} and report.rows == 9
    assert report.dropped_file is not None
    dropped = [row.model_dump() for row in read_records(report.dropped_file, Record)]
    assert [row["key"] for row in dropped] == ["u3", "u4", "u11"] and detail in dropped[0]["dropped_detail"]
    world.asked.clear()
    continue_manifest(manifest, tmp_path / "c.jsonl", llm=client(world))
    assert world.asked == [], "the run is complete"


def test_the_model_that_answered_is_recorded(world: ChatServerWorld, tmp_path: Path) -> None:
    world.model = "echo-2030-01-31"
    report = continue_manifest(write_manifest(tmp_path / "m.jsonl", 4), tmp_path / "c.jsonl", llm=client(world))
    rows = list(read_records(tmp_path / "c.jsonl", Continuation))
    assert {(row.llm, row.served_model) for row in rows} == {("echo", "echo-2030-01-31")}
    assert report.models == {"echo-2030-01-31": 4} and "echo-2030-01-31" in (tmp_path / "c.provenance.json").read_text()
    world.model = "echo"
    report = continue_manifest(tmp_path / "m.jsonl", tmp_path / "d.jsonl", llm=client(world))
    assert {row.served_model for row in read_records(tmp_path / "d.jsonl", Continuation)} == {None}
    assert report.models == {"echo": 4}


def test_reasoning_is_no_target(tmp_path: Path) -> None:
    answers = ["<think>\nHm.\n</think>\n\nAnd so it ended.", "Hm.</think>It ended.", "<think>\nHm, the", "I think so."]
    with serving(lambda messages, _: (answers.pop(0), "stop")) as world:
        server = client(world, concurrency=1)
        report = continue_manifest(write_manifest(tmp_path / "m.jsonl", 4), tmp_path / "c.jsonl", llm=server)
    outputs = [row.output for row in read_records(tmp_path / "c.jsonl", Continuation)]
    assert outputs == ["And so it ended.", "It ended.", "I think so."] and dict(report.dropped) == {"reasoning": 1}


def test_rows_that_the_server_cannot_take_are_left_out_with_the_reason(world: ChatServerWorld, tmp_path: Path) -> None:
    long = error("This model's maximum context length is 16 tokens", "context_length_exceeded")
    filtered = {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}
    faults = {"Line 2 of 8": Fault(400, long), "Line 5 of 8": Fault(200, filtered)}
    world.fault = lambda number, text: faults.get(text)
    report = continue_manifest(write_manifest(tmp_path / "m.jsonl", 8), tmp_path / "c.jsonl", llm=client(world))
    assert dict(report.dropped) == {"server-context-length": 1, "no-text": 1, "server-content-filter": 1}
    assert report.dropped_file is not None
    listed = [(row.key, row.model_dump()["dropped"]) for row in read_records(report.dropped_file, Record)]
    assert listed == [("u2", "server-context-length"), ("u4", "no-text"), ("u5", "server-content-filter")]


def test_templates_without_a_system_role_and_servers_without_extras(world: ChatServerWorld) -> None:
    def fault(number: int, text: str) -> Fault | None:
        if "chat_template_kwargs" in world.asked[number]:
            return Fault(400, error("Unknown parameter: 'chat_template_kwargs'."))
        if world.asked[number]["messages"][0]["role"] == "system":
            return Fault(400, error("System role not supported"))
        return None

    world.fault = fault
    server = client(world, concurrency=2)
    assert [a.text for a in ask(server, ["a", "b", "c", "d", "e"])] == [said(t)[0] for t in "abcde"]
    assert world.asked[-1]["messages"][0]["content"].startswith("You are a helpful assistant.\n\nContinue the")
    assert not server.retries and len(world.asked) <= 5 + 2 * 2  # told once, not row by row


def test_the_key_is_sent_and_nowhere_written(
    world: ChatServerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    server = client(world, key=key_from("SOME_KEY"))
    continue_manifest(write_manifest(tmp_path / "m.jsonl", 5), tmp_path / "c.jsonl", llm=server)
    assert {headers["Authorization"] for headers in world.headers} == {"Bearer sk-secret"}
    assert "sk-secret" not in repr(server.options)
    assert not [path for path in tmp_path.iterdir() if b"sk-secret" in path.read_bytes()]
    monkeypatch.setenv("SOME_KEY", "two\nlines")
    with pytest.raises(RellmError, match="SOME_KEY holds characters"):
        key_from("SOME_KEY")
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(RellmError, match="SOME_KEY is not set"):
        key_from("SOME_KEY")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "not the address of a server"),
        ({"url": "file:///etc/passwd"}, "not the address of a server"),
        ({"url": "http://me:secret@host/v1"}, "holds a password"),
        ({"rate": 0}, "rate is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
    ],
)
def test_contradictions_fail_before_anything_is_sent(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RellmError, match=message) as raised:
        ServerOptions(**{"url": "http://127.0.0.1:1/v1", "model": "m", **changes})
    assert "secret" not in str(raised.value)


def test_inside_an_event_loop_it_says_what_to_do() -> None:
    async def inside() -> None:
        ask(ChatServer(ServerOptions("http://127.0.0.1:1/v1", "m")), ["a"])

    with pytest.raises(RellmError, match="event loop"):
        asyncio.run(inside())


def test_half_a_character_becomes_a_replacement() -> None:
    raw = b'{"choices": [{"message": {"content": " so \\ud83d "}, "finish_reason": "length"}]}'
    assert read_answer(raw) == Completion("so \N{REPLACEMENT CHARACTER}", 0, "length")


def test_retry_after_holds_seconds_or_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after(later) or 0) <= 30
    assert [retry_after(v) for v in ("2", "-3", "1e9", "nan", "soon", None)] == [2.0, 0.0, MAX_HOLD, None, None, None]


@pytest.fixture(scope="module")
def llm(assets: Path) -> ChatLlm:
    return ChatLlm.load("mini:llm", device="cpu", tokens="joined")


@pytest.mark.parametrize("prompt", ["continue", "continue-emotion", "continue-emotion-code"])
def test_the_same_model_behind_a_server_writes_the_same_file(prompt: str, llm: ChatLlm, tmp_path: Path) -> None:
    """The shipped LLM, asked as a server asks: its chat template over the messages, tokenised as one text."""
    from re_llm.core.records import Utterance, write_records
    from re_llm.mini.grammar import world as sentences

    rows = [
        Utterance(key=f"s{s.id}", corpus="mini", split="train", audio=f"{s.id}.flac", text=s.text, emotion="angry")
        for s in sentences()[:1200:100]
    ]
    write_records(tmp_path / "m.jsonl", rows)

    def reply(messages: list[dict[str, str]], max_tokens: int) -> tuple[str, str]:
        text = llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        with world.lock:
            (answer,) = llm.generate([llm.tokenizer(text)["input_ids"]], max_new_tokens=max_tokens)
        return answer.text, answer.finish_reason

    options = {"prompt": prompt, "max_new_tokens": 12}
    report = continue_manifest(tmp_path / "m.jsonl", tmp_path / "local.jsonl", llm=llm, batch_size=4, **options)
    with serving(reply) as world:
        behind = client(world, model="mini:llm", concurrency=4)
        continue_manifest(tmp_path / "m.jsonl", tmp_path / "server.jsonl", llm=behind, **options)
    assert (tmp_path / "server.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert report.rows == 12 and report.early_stops


@pytest.mark.slow
def test_our_own_server_is_one_of_them(llm: ChatLlm, tmp_path: Path) -> None:
    """FastAPI and uvicorn instead of the server of these tests; to text the shipped RE-LLM answers as its LLM does."""
    uvicorn = pytest.importorskip("uvicorn")
    from re_llm.apps.serve.app import build
    from re_llm.apps.serve.options import ServeOptions
    from re_llm.inference import engine

    manifest, options = write_manifest(tmp_path / "m.jsonl", 8), {"max_new_tokens": 12}
    continue_manifest(manifest, tmp_path / "local.jsonl", llm=llm, **options)
    app = build(engine.load("mini:re-llm", device="cpu"), ServeOptions(name="mini:llm"))
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        behind = ChatServer(ServerOptions(address, "mini:llm", concurrency=4))
        continue_manifest(manifest, tmp_path / "server.jsonl", llm=behind, **options)
        running.should_exit = True
        thread.join()
    assert (tmp_path / "server.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()


def test_the_content_stands_where_the_local_prompt_has_it() -> None:
    cascade = get_prompt("cascade").with_emotion("sad")
    body = request_body("m", cascade, "I lost it.", 8)
    assert body["messages"][1]["content"] == cascade.before + "I lost it." + cascade.after
    plain = request_body("m", Prompt("own"), "Hi.", 8, without=["system", "template options"])
    assert plain["messages"] == [{"role": "user", "content": "You are a helpful assistant.\n\nHi."}]
    assert "chat_template_kwargs" not in plain
