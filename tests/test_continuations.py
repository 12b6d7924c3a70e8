"""The LLM's continuations: what is asked, what is dropped and counted, and that a kill costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_world

from re_llm.answers import Answer
from re_llm.chat_llm import ChatLlm, batches_by_length
from re_llm.continuations import continue_manifest, refusal
from re_llm.errors import RellmError
from re_llm.prompts import Prompt
from re_llm.records import Continuation, Utterance, read_records, write_records


class Parrot:
    """Answers with the transcript; counts what it is asked."""

    name = "parrot"

    def __init__(self, dies_after: int | None = None, says: str = ""):
        self.asked: list[tuple[Prompt, str]] = []
        self.dies_after, self.says = dies_after, says

    def answer(self, rows: Sequence[tuple[Prompt, str]], *, on_batch=None, **_: object) -> list[Answer]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += rows
        if on_batch:
            on_batch(len(rows))
        return [Answer(self.says or f"and then {text}", 5, "length" if "long" in text else "stop") for _, text in rows]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    base = {"corpus": "toy", "split": "train", "emotion": "sad", "speaker": "s1", "valence": 0.1}
    rows = [Utterance(**{**base, "key": f"u{i}", "audio": f"wav/{i}.wav", "text": f"line {i}"}) for i in range(7)] + [
        Utterance(**{**base, "key": "long", "audio": "wav/l.wav", "text": "a long line"}),
        Utterance(**{**base, "key": "mute", "audio": "wav/m.wav", "text": " "}),
        Utterance(**{**base, "key": "blank", "audio": "wav/b.wav", "text": "x", "emotion": None}),
        Utterance(**{**base, "key": "held-out", "audio": "wav/t.wav", "text": "x", "split": "test"}),
    ]
    (tmp_path / "corpus").mkdir()
    write_records(tmp_path / "corpus" / "manifest.jsonl", rows)
    return tmp_path / "corpus" / "manifest.jsonl"


def test_rows_carry_what_training_needs(manifest: Path, tmp_path: Path) -> None:
    parrot = Parrot()
    report = continue_manifest(manifest, tmp_path / "out" / "c.jsonl", llm=parrot)
    rows = {r.key: r for r in read_records(tmp_path / "out" / "c.jsonl", Continuation)}
    assert set(rows) == {*(f"u{i}" for i in range(7)), "long"}  # test utterances are never continued
    first = rows["u0"]
    assert (first.audio, first.text, first.emotion, first.valence) == ("../corpus/wav/0.wav", "line 0", "sad", 0.1)
    assert first.output == "and then line 0" and first.llm == "parrot"
    assert first.instruction.startswith("Continue the following sentence that reflects a sad emotion tone")
    assert not first.early_stop and rows["long"].early_stop and report.early_stops == 1
    assert dict(report.dropped) == {"no-text": 1, "no-emotion": 1}
    assert report.dropped_file is not None and "mute" in report.dropped_file.read_text()


def test_a_killed_run_goes_on_and_equals_a_whole_one(manifest: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    continue_manifest(manifest, whole, llm=Parrot(), chunk=3)
    with pytest.raises(KeyboardInterrupt):
        continue_manifest(manifest, broken, llm=Parrot(dies_after=3), chunk=3)
    with broken.open("ab") as out:  # and the last line was torn
        out.write(b'{"key":"u4","audio"')
    again = Parrot()
    report = continue_manifest(manifest, broken, llm=again, chunk=3)
    assert broken.read_bytes() == whole.read_bytes()
    assert len(again.asked) == 5 and report.resumed == 3
    assert broken.with_suffix(".dropped.jsonl").read_bytes() == whole.with_suffix(".dropped.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("I'm sorry, but I cannot go on.", "sorry-cannot"),
        ("I'm sorry, but I'm not sure.", "sorry-not-sure"),
        ("As an AI language model I have no feelings.", "as-an-ai"),
        ("Well, i'm sorry, but I must go.", "sorry-but-i"),
        ("I'm not sure what you mean.", "not-sure-what-you"),
        ("  ", "empty"),
        ("I'm sorry to hear that.", None),
    ],
)
def test_refusals_are_recognised(output: str, name: str | None) -> None:
    assert refusal(output) == name


def test_refusals_are_kept_aside_and_counted(manifest: Path, tmp_path: Path) -> None:
    report = continue_manifest(manifest, tmp_path / "c.jsonl", llm=Parrot(says="I'm sorry, but I cannot."))
    assert report.rows == 0 and report.dropped["sorry-cannot"] == 8


def test_a_repeated_key_is_an_error(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text() + manifest.read_text().splitlines()[0] + "\n")
    with pytest.raises(RellmError, match="'u0'"):
        continue_manifest(manifest, tmp_path / "c.jsonl", llm=Parrot())


def test_batched_answers_are_those_of_single_rows(tmp_path: Path) -> None:
    llm = ChatLlm.load(str(tiny_world.save_llm(tmp_path / "llm")), device="cpu")
    rows = [(Prompt("chat"), text) for text in ("a", "a much longer line", "so", "words and words and words")]
    together = llm.answer(rows, max_new_tokens=8, batch_size=4)
    assert together == [a for row in rows for a in llm.answer([row], max_new_tokens=8)]
    assert any(a.text for a in together)


def test_an_llm_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match="nothing-here"):
        ChatLlm.load(str(tmp_path / "nothing-here"))
    with pytest.raises(RellmError, match="tpu"):
        ChatLlm.load(str(tiny_world.save_llm(tmp_path / "llm")), device="tpu")


def test_batches_are_of_similar_length_longest_first() -> None:
    assert list(batches_by_length([3, 9, 1, 7], 2)) == [[1, 3], [0, 2]]
