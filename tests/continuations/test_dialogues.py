"""Earlier turns of continuations: which they are, that the LLM reads them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.continuations import continue_manifest
from re_llm.continuations.dialogues import Dialogues
from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite
from re_llm.core.records import Continuation, Utterance, read_records, write_records
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt, get_prompt
from re_llm.llm.server_bodies import request_body
from re_llm.recipe.stages import DialogueOptions

DRAWN = DialogueOptions(turns=4)


class Parrot:
    """Answers with the transcript; keeps what it is asked."""

    name = "parrot"

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, str]] = []

    def answer(self, rows: Sequence[tuple[Prompt, str]], **_: object) -> list[Completion]:
        self.asked += rows
        return [Completion(f"and then {text}", 5) for _, text in rows]


def utterance(key: str, **changes: object) -> Utterance:
    base = {"corpus": "toy", "split": "train", "audio": f"{key}.wav", "emotion": "sad", "text": f"text {key}"}
    return Utterance(**{**base, "key": key, **changes})


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Path]:
    rows = [utterance(f"{who}{i}", speaker=who, emotion=("sad", "happy")[i % 2]) for who in "AB" for i in range(8)]
    rows += [utterance("C0", speaker="C"), utterance("nobody"), utterance("silent", speaker="A", emotion=None)]
    write_records(tmp_path / "m.jsonl", rows)
    continue_manifest(tmp_path / "m.jsonl", tmp_path / "answers.jsonl", llm=Parrot(), prompt="cascade")
    return tmp_path / "m.jsonl", tmp_path / "answers.jsonl"


def test_drawn_turns_are_the_speakers_with_what_the_llm_answered(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, answers = drawn
    parrot, out = Parrot(), tmp_path / "talks.jsonl"
    report = continue_manifest(
        manifest, out, llm=parrot, prompt="cascade-dialogue", chunk=4, dialogues=Dialogues(DRAWN, answers)
    )
    rows = list(read_records(out, Continuation))
    assert len(rows) == 18 and 0 not in report.earlier_turns and set(report.earlier_turns) == {1, 2, 3}
    for row in rows:
        user, assistant = ((row.history or [])[side::2] for side in (0, 1))
        keys = [str(turn.key) for turn in user]
        assert row.key not in keys and len(set(keys)) == len(keys) and "silent" not in keys
        assert {turn.role for turn in user} == {"user"} and {turn.role for turn in assistant} == {"assistant"}
        assert [turn.text for turn in assistant] == [f"and then {turn.text}" for turn in user]
        if row.key[0] in "AB":
            assert {key[0] for key in keys} == {row.key[0]}
    asked = {text: prompt for prompt, text in parrot.asked}
    (first, *_), told = rows[0].history or (), asked[rows[0].text].history
    assert told[0][1] == f'The user\'s speech input, transcribed as "{first.text}", conveys a {first.emotion} ' + (
        "emotion tone. Please provide a response."
    )
    whole = out.read_bytes()
    shards = [tmp_path / f"{i}.jsonl" for i in range(2)]
    for i, shard in enumerate(shards):
        continue_manifest(
            manifest, shard, llm=Parrot(), prompt="cascade-dialogue", chunk=4, shard=f"{i}/2",
            dialogues=Dialogues(DRAWN, answers),
        )  # fmt: skip
    lines = {json.loads(line)["key"]: line for shard in shards for line in shard.read_text().splitlines()}
    assert [lines[row.key] for row in rows] == whole.decode().splitlines()


def test_a_file_with_other_turns_is_outdated(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    manifest, answers = drawn
    out = tmp_path / "talks.jsonl"

    def run(options: DialogueOptions, overwrite: Overwrite = Overwrite.NO) -> object:
        made = Dialogues(options, answers)
        return continue_manifest(
            manifest, out, llm=Parrot(), prompt="cascade-dialogue", dialogues=made, overwrite=overwrite
        )

    run(DRAWN)
    assert run(DRAWN).skipped
    with pytest.raises(RellmError, match="--dialogues"):
        run(DialogueOptions(turns=3))
    with pytest.raises(RellmError, match="--dialogues"):
        continue_manifest(manifest, out, llm=Parrot(), prompt="cascade-dialogue")
    answers.write_text(answers.read_text().replace("and then", "and so"))
    with pytest.raises(RellmError, match="--answers"):
        run(DRAWN)
    assert run(DRAWN, Overwrite.OUTDATED).remade


def test_the_dialogues_of_a_manifest_are_kept(tmp_path: Path) -> None:
    """A file of dialogues: transcripts as they are, recordings relative to the new file."""
    said = [
        Earlier(role="user", text="I fell", audio="wav/1.wav", emotion="sad"),
        Earlier(role="user", text="on ice", audio="wav/2.wav", emotion="sad"),
        Earlier(role="assistant", text="Oh no"),
    ]
    (tmp_path / "in").mkdir()
    write_records(tmp_path / "in" / "m.jsonl", [utterance("a", history=said), utterance("b")])
    parrot = Parrot()
    report = continue_manifest(tmp_path / "in" / "m.jsonl", tmp_path / "c.jsonl", llm=parrot, prompt="cascade-dialogue")
    assert parrot.asked[0][0].history == (("user", "I fell on ice"), ("assistant", "Oh no"))
    first = next(iter(read_records(tmp_path / "c.jsonl", Continuation)))
    assert [each.audio for each in first.history or ()] == ["in/wav/1.wav", "in/wav/2.wav", None]
    assert report.earlier_turns == {0: 1, 1: 1}


def test_what_does_not_fit_together_is_refused(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be both"):
        DialogueOptions(prompt="cascade")
    command = ["continue", str(drawn[0]), "--out", str(tmp_path / "o.jsonl"), "--llm", "mini:llm", "--dialogues", "3"]
    assert "go together" in CliRunner().invoke(app, command).output


def test_a_server_gets_the_earlier_turns_as_messages() -> None:
    history = [
        Earlier(role="user", text="I fell", emotion="sad", prompt="cascade"),
        Earlier(role="assistant", text="Oh no"),
    ]
    prompt = get_prompt("cascade-dialogue").with_history(history).with_emotion("angry")
    messages = request_body("m", prompt, "I stay", 8)["messages"]
    assert isinstance(messages, list) and [each["role"] for each in messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert messages[1]["content"].startswith('The user\'s speech instruction, transcribed as "I fell", conveys a sad')
    assert "conveys a angry emotion" in messages[-1]["content"]
