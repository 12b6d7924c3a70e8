"""Replies that another system gave elsewhere: files with keys, and VoiceBench's results, which have none."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records

QUESTIONS = [("1", "Which is a metal? A. iron B. wood", "A"), ("2", "Say it again.", "B"), ("3", "Say it again.", "C")]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        Utterance(
            key=key, corpus="quiz", split="test", audio=f"{key}.wav", text=text, reference=reference, emotion="sad"
        )
        for key, text, reference in QUESTIONS
    ]
    write_records(tmp_path / "manifest.jsonl", rows)
    return tmp_path / "manifest.jsonl"


def take(folder: Path, lines: list[dict[str, str]]) -> tuple[str, list[ReplyRecord]]:
    (folder / "theirs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", "take", str(folder / "theirs.jsonl"), "--manifest", str(folder / "manifest.jsonl")]
    found = CliRunner().invoke(app, [*command, "--system", "qwen2", "--out", str(folder / "replies.jsonl")])
    written = folder / "replies.jsonl"
    return found.output, list(read_records(written, ReplyRecord)) if found.exit_code == 0 else []


def results(order: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, str]]:
    """As VoiceBench's main.py writes them: the columns of the dataset without the sound, and `response`."""
    return [
        {"prompt": QUESTIONS[n][1], "reference": QUESTIONS[n][2], "response": f"The answer is {'ABD'[n]}."}
        for n in order
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_results_of_voicebench_are_found_by_their_words(tmp_path: Path, manifest: Path, order: tuple[int, ...]) -> None:
    output, replies = take(tmp_path, results(order))
    assert "3 replies" in output
    assert [(row.key, row.response, row.reference, row.system, row.prompt) for row in replies] == [
        (key, f"The answer is {letter}.", reference, "qwen2", None)
        for (key, _, reference), letter in zip(QUESTIONS, "ABD", strict=True)
    ]
    assert {(row.emotion, row.corpus) for row in replies} == {("sad", "quiz")}
    scored = CliRunner().invoke(
        app, ["score", str(tmp_path / "replies.jsonl"), "--metric", "CHOICE", "--out", str(tmp_path / "s.jsonl")]
    )
    assert "CHOICE 0.667" in scored.output, scored.output
    before = (tmp_path / "replies.jsonl").read_bytes()
    take(tmp_path, results(order))
    assert (tmp_path / "replies.jsonl").read_bytes() == before


def test_a_key_goes_before_the_words(tmp_path: Path, manifest: Path) -> None:
    lines = [{"key": key, "text": "other words", "response": key} for key in "321"]
    _, replies = take(tmp_path, lines)
    assert [(row.key, row.text, row.response) for row in replies] == [(k, text, k) for k, text, _ in QUESTIONS]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (results()[:2], "no reply to 1 of 3 utterances: 3"),
        ([*results(), results()[1]], "theirs.jsonl:4: no key, and no utterance without a reply has the words"),
        ([{"response": "A"}], "theirs.jsonl:1: no key"),
        ([{"prompt": "Who?", "response": "A"}], "'Who?'"),
        ([{"prompt": "Say it again."}], "field 'response'"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, manifest: Path, lines: list[dict[str, str]], told: str) -> None:
    output, replies = take(tmp_path, lines)
    assert replies == [] and told.replace(" ", "") in "".join(output.split()), output
