"""A speech LLM behind a server that misbehaves: every recording gets its reply, and nothing paid is asked again."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from chat_world import ChatServerWorld, Fault, error, serving
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.inference.reply import ReplyOptions
from re_llm.inference.respond import RespondReport, respond_manifest
from re_llm.inference.served import ServedSystem, answers_file
from re_llm.llm.prompts import get_prompt
from re_llm.llm.server import ChatServer
from re_llm.llm.server_options import ServerOptions

ROWS = 9
OPTIONS = ReplyOptions("omni", recognize="recognize", max_new_tokens=32)


def reply(messages: list, tokens: int) -> tuple[str, str]:
    """A reply, or an emotion where the question is for one; both tell the length of the recording."""
    seconds = next(part for part in messages[-1]["content"] if part["type"] == "input_audio")
    length = len(seconds["input_audio"]["data"])
    asked = any("identify the emotion" in part.get("text", "") for part in messages[-1]["content"])
    return ("The speaker is sad." if asked else f"I heard {length}.", "stop")


@pytest.fixture
def world() -> Iterator[ChatServerWorld]:
    with serving(reply) as running:
        yield running


@pytest.fixture
def manifest(tmp_path: Path, recording) -> Path:
    rows = []
    for i in range(ROWS):
        recording(f"audio/{i}.wav", 0.5 + i / 10, seed=i)
        rows.append(Utterance(key=f"u{i}", corpus="toy", split="test", audio=f"audio/{i}.wav", emotion="sad", text="x"))
    write_records(tmp_path / "m.jsonl", rows)
    return tmp_path / "m.jsonl"


def respond(world: ChatServerWorld, manifest: Path, out: Path, **changes: object) -> RespondReport:
    options = {"concurrency": 3, "pause": 0.01, "timeout": 20.0, "tries": 3, **changes}
    system = ServedSystem.of(ChatServer(ServerOptions(world.url, "omni", **options)), out)
    return respond_manifest(system, manifest, out, OPTIONS, progress=False)


def seconds_of(i: int) -> str:
    return f"speech of {0.5 + i / 10:g} s"


def by_key(out: Path) -> dict[str, ReplyRecord]:
    return {row.key: row for row in read_records(out, ReplyRecord)}


def test_the_recording_stands_where_the_transcript_would(world: ChatServerWorld, manifest: Path) -> None:
    out = manifest.with_name("r.jsonl")
    report = respond(world, manifest, out)
    assert (report.rows, report.dropped, len(world.asked)) == (ROWS, 0, 2 * ROWS)
    questions = [body["messages"][-1]["content"] for body in world.asked]
    asked = next(each for each in questions if each[0]["type"] == "text")
    assert [part["type"] for part in asked] == ["text", "input_audio"] and asked[0]["text"] == get_prompt(
        "recognize"
    ).before
    alone = next(body["messages"] for body in world.asked if len(body["messages"][-1]["content"]) == 1)
    assert alone[0] == {"role": "system", "content": get_prompt("chat-empathetic").system}
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(alone[-1]["content"][0]["input_audio"]["data"])))
    there = {len(soundfile.read(manifest.parent / f"audio/{i}.wav")[0]): i for i in range(ROWS)}
    truth, _ = soundfile.read(manifest.parent / f"audio/{there[len(wave)]}.wav")
    assert rate == 16_000 and np.abs(wave - truth).max() < 1e-4
    replies = by_key(out)
    assert {row.named_emotion for row in replies.values()} == {"sad"} and replies["u3"].prompt == "chat-empathetic"
    assert len({row.response for row in replies.values()}) == ROWS, "each has the reply to its own recording"


def test_a_server_that_misbehaves_answers_all_in_the_end(world: ChatServerWorld, manifest: Path) -> None:
    left = {
        seconds_of(0): Fault(429, error("slow down"), {"Retry-After": "0.05"}),
        seconds_of(2): Fault(500, b"Internal Server Error"),
        seconds_of(3): Fault(200, b"<html>not me</html>"),
        seconds_of(5): Fault(None),
        seconds_of(6): Fault(200, {"choices": []}),
    }
    world.fault = lambda number, text: left.pop(text, None)
    report = respond(world, manifest, manifest.with_name("r.jsonl"))
    assert (report.rows, report.dropped, left) == (ROWS, 0, {})


def test_what_a_server_said_before_it_stopped_is_kept_and_not_asked_again(
    world: ChatServerWorld, manifest: Path
) -> None:
    out = manifest.with_name("r.jsonl")
    world.fault = lambda number, text: Fault(503, error("out of order")) if number >= 13 else None
    with pytest.raises(RellmError, match=r"answers no other.*run the same command again"):
        respond(world, manifest, out)
    paid = len(answers_file(out).read_text().splitlines())
    assert paid == len(world.finished) == 13 and len(by_key(out)) <= 13 - ROWS
    world.asked.clear()
    world.fault = lambda number, text: None
    assert respond(world, manifest, out).rows == ROWS
    assert len(world.asked) == 2 * ROWS - paid
    with answers_file(out).open("a") as file:
        file.write('{"key": "to')  # a kill tears the last line
    out.unlink()
    world.asked.clear()
    assert respond(world, manifest, out).rows == ROWS and not world.asked, "lost replies cost nothing"
    assert respond(world, manifest, out).skipped


def test_a_row_that_always_fails_is_listed_and_tried_again(world: ChatServerWorld, manifest: Path) -> None:
    out = manifest.with_name("r.jsonl")
    world.fault = lambda number, text: Fault(500, error("CUDA error")) if text == seconds_of(4) else None
    report = respond(world, manifest, out)
    assert (report.rows, report.dropped) == (ROWS - 1, 1) and "u4" not in by_key(out)
    (lost,) = read_records(report.dropped_file, Utterance)
    assert lost.key == "u4" and lost.model_extra["dropped"].startswith("server-failed: status 500: CUDA error")
    world.asked.clear()
    world.fault = lambda number, text: None
    again = respond(world, manifest, out)
    assert (again.rows, again.dropped, again.resumed) == (ROWS, 0, ROWS - 1) and len(world.asked) == 2


def test_what_a_server_will_never_answer_is_not_asked_for_ever(world: ChatServerWorld, manifest: Path) -> None:
    out = manifest.with_name("r.jsonl")
    world.fault = lambda number, text: Fault(400, error("too long for this model")) if text == seconds_of(4) else None
    assert respond(world, manifest, out).dropped == 1
    world.asked.clear()
    assert respond(world, manifest, out).skipped and not world.asked


def test_another_recording_is_another_question(world: ChatServerWorld, manifest: Path, recording) -> None:
    out = manifest.with_name("r.jsonl")
    respond(world, manifest, out)
    recording("audio/1.wav", 0.6, seed=99)
    with pytest.raises(RellmError, match="'u1' changed after the reply"):
        respond(world, manifest, out)
    out.unlink()
    world.asked.clear()
    respond(world, manifest, out)
    assert world.texts() == [seconds_of(1)] * 2


def test_a_killed_run_goes_on_and_asks_for_nothing_that_it_has(world: ChatServerWorld, manifest: Path) -> None:
    out = manifest.with_name("r.jsonl")
    world.delay = lambda text: 0.2
    command = [
        "respond",
        str(manifest),
        "--server",
        world.url,
        "--model",
        "omni",
        "--out",
        str(out),
        "--concurrency",
        "2",
    ]
    with subprocess.Popen([sys.executable, "-m", "re_llm", *command], stderr=subprocess.DEVNULL) as run:
        while not (answers_file(out).is_file() and answers_file(out).read_bytes().count(b"\n") >= 3):
            assert run.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        run.kill()
    paid = answers_file(out).read_bytes().count(b"\n")
    assert 3 <= paid < ROWS
    world.delay = lambda text: 0.0
    time.sleep(0.5)  # what was under way when it died
    world.asked.clear()
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and len(by_key(out)) == ROWS
    assert len(world.asked) == ROWS - paid


def test_from_the_command_line(world: ChatServerWorld, manifest: Path) -> None:
    out = manifest.with_name("r.jsonl")
    command = ["respond", str(manifest), "--server", world.url, "--model", "omni", "--recognize"]
    assert CliRunner().invoke(app, command).exit_code == 2, "a manifest needs --out"
    done = CliRunner().invoke(app, [*command, "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["rows"] == ROWS
    assert Counter(row.system for row in by_key(out).values()) == {"omni": ROWS}, "named after its model, not re-llm"
    other = manifest.with_name("other.jsonl")
    done = CliRunner().invoke(app, [*command, "--system", "theirs", "--out", str(other)])
    assert done.exit_code == 0 and {row.system for row in by_key(other).values()} == {"theirs"}
    alone = CliRunner().invoke(
        app, ["respond", str(manifest), "--server", world.url, "--out", str(out)], env={"RE_LLM_MODEL": None}
    )
    assert alone.exit_code == 2 and "--model NAME" in alone.output
    asked = len(world.asked)
    refused = CliRunner().invoke(app, [*command, "--out", str(other), "--commercial"])
    assert refused.exit_code == 2 and "--commercial or --server" in refused.output and len(world.asked) == asked
