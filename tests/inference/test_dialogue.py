"""Replies within a dialogue: history as text or as speech, in batches as alone, of every kind of system."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_world import serving

from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.inference import engine
from re_llm.inference.conversation import Turn, reply
from re_llm.inference.decoding import Decoding
from re_llm.inference.reply import ReplyOptions
from re_llm.inference.respond import RespondReport, respond_manifest
from re_llm.inference.served import ServedSystem
from re_llm.inference.systems import TextSystem
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt
from re_llm.llm.server import ChatServer
from re_llm.llm.server_options import ServerOptions


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def dialogues(tmp_path: Path, recording) -> Path:
    """Three dialogues whose last turns are the same recording; only their beginnings differ."""
    recording("last.wav", 1.0)
    rows = []
    for i in range(3):
        recording(f"first{i}.wav", 0.6 + 0.3 * i, seed=i + 1)
        history = [
            {"role": "user", "text": f"It rains {i}.", "audio": f"first{i}.wav", "emotion": "sad", "key": f"f{i}"},
            {"role": "user", "text": "Again.", "audio": "first0.wav"},
            {"role": "assistant", "text": "Oh dear.", "audio": "first1.wav"},
        ]
        about = {"key": f"d{i}", "corpus": "toy-dialogues", "split": "test", "audio": "last.wav"}
        rows.append(Utterance(**about, text="It stopped.", emotion="happy", history=history))
    write_records(tmp_path / "d.jsonl", rows)
    return tmp_path / "d.jsonl"


def respond(system: object, manifest: Path, name: str, **options: object) -> tuple[list[ReplyRecord], RespondReport]:
    out = manifest.with_name(f"{name}.jsonl")
    report = respond_manifest(system, manifest, out, ReplyOptions(name, max_new_tokens=6, **options), progress=False)
    return sorted(read_records(out, ReplyRecord), key=lambda row: row.key), report


@pytest.mark.parametrize("history", ["text", "speech"])
def test_a_dialogue_is_the_conversation_that_a_user_would_have(
    loaded: engine.Engine, dialogues: Path, history: str
) -> None:
    batched, _ = respond(loaded, dialogues, "batched", history=history, batch_size=4)
    alone, _ = respond(loaded, dialogues, "alone", history=history, batch_size=1)
    assert [row.response for row in batched] == [row.response for row in alone]
    talk = loaded.chat()
    last = talk.turn(dialogues.with_name("last.wav"))
    if history == "text":
        first = Turn("user", ("It rains 0. Again.",))
        turns = [first, Turn("assistant", ("Oh dear.",)), last]
        expected = reply(loaded, turns, decoding=Decoding(6)).text
        assert batched[0].response == expected
    assert [each.emotion for each in batched[0].history] == ["sad", None, None]
    assert batched[0].history[0].audio is None, "whoever reads the record finds no stale path"


def test_the_llm_has_the_sound_of_an_earlier_turn_only_when_it_is_heard(
    loaded: engine.Engine, dialogues: Path, recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    real = engine.Engine.generate
    monkeypatch.setattr(
        engine.Engine,
        "generate",
        lambda self, ids, speech, *a, **k: rows.extend(map(len, speech)) or real(self, ids, speech, *a, **k),
    )
    respond(loaded, dialogues, "text")
    tokens = loaded.processor.speech_token_count
    assert rows == [tokens(16_000)] * 3
    rows.clear()
    respond(loaded, dialogues, "speech", history="speech")
    pause = 4_000
    firsts = [tokens(int((0.6 + 0.3 * i) * 16_000) + pause + 9_600) for i in range(3)]
    assert sorted(rows) == sorted(tokens(16_000) + first for first in firsts)


def test_a_dialogue_without_room_is_listed_and_the_others_are_answered(loaded: engine.Engine, dialogues: Path) -> None:
    rows = list(read_records(dialogues, Utterance))
    rows[1].history[0].text = "long " * 4000
    write_records(dialogues, rows)
    replies, report = respond(loaded, dialogues, "r")
    assert [row.key for row in replies] == ["d0", "d2"] and report.dropped == 1
    (lost,) = read_records(report.dropped_file, Utterance)
    assert lost.model_extra["dropped"].startswith("context-length: the conversation is too long")


def test_a_missing_recording_of_an_earlier_turn_costs_its_dialogue_alone(
    loaded: engine.Engine, dialogues: Path
) -> None:
    dialogues.with_name("first2.wav").unlink()
    assert respond(loaded, dialogues, "text")[1].dropped == 0
    replies, report = respond(loaded, dialogues, "speech", history="speech")
    assert [row.key for row in replies] == ["d0", "d1"] and report.dropped == 1


def test_another_history_is_another_question(loaded: engine.Engine, dialogues: Path) -> None:
    respond(loaded, dialogues, "r")
    rows = list(read_records(dialogues, Utterance))
    rows[1].history[0].text = "It snows."
    write_records(dialogues, rows)
    with pytest.raises(RellmError, match="'d1' changed after the reply"):
        respond(loaded, dialogues, "r")


class Llm:
    """Remembers what it is asked."""

    name = "llm"

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, str]] = []
        self.model = type("Model", (), {"dtype": "torch.float32"})

    def answer(self, rows: list[tuple[Prompt, str]], **_: object) -> list[Completion]:
        self.asked += rows
        return [Completion("Fine.") for _ in rows]


def test_a_text_system_reads_the_reference_transcripts_of_earlier_turns(dialogues: Path) -> None:
    llm = Llm()
    replies, _ = respond(TextSystem(llm), dialogues, "text", recognize="recognize")
    prompts = [prompt for prompt, _ in llm.asked]
    assert prompts[0].history == (("user", "It rains 0. Again."), ("assistant", "Oh dear."))
    assert all(not prompt.history for prompt in prompts if prompt.id == "recognize"), "the last turn alone is judged"
    assert len(replies) == 3


@pytest.mark.parametrize("history", ["text", "speech"])
def test_a_server_gets_the_turns_as_messages(dialogues: Path, history: str) -> None:
    with serving(lambda messages, tokens: ("Fine.", "stop")) as world:
        server = ChatServer(ServerOptions(world.url, "omni", concurrency=1))
        respond(ServedSystem.of(server, dialogues.with_name("s.jsonl")), dialogues, "s", history=history)
        messages = world.asked[0]["messages"]
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "Oh dear." and messages[3]["content"][0]["type"] == "input_audio"
    said = messages[1]["content"]
    assert said == "It rains 0. Again." if history == "text" else [part["type"] for part in said] == ["input_audio"]
