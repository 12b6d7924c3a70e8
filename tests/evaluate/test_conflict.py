"""The conflict test: what explains an outcome, by hand and with planted systems; words against the voice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from reply_world import EMOTIONS, HEARD, SENTENCES
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate.conflict import adjusted_r2, conflict, words_emotions

OWN = dict(zip(SENTENCES, ("neutral", "sad", "angry", "happy"), strict=True))  # emotion of the words alone


def replies(follows: str, system: str = "s", speakers: int = 4) -> list[ReplyRecord]:
    """Every speaker says every sentence in every emotion; the system follows the voice, the words, or the speaker."""
    rows = []
    for n in range(speakers):
        for text in SENTENCES:
            for emotion in EMOTIONS:
                named = {"voice": emotion, "words": OWN[text], "speaker": EMOTIONS[n % 5]}[follows]
                rows.append(ReplyRecord(
                    key=f"{n}-{text}-{emotion}", system=system, response=HEARD[named], text=text, corpus="esd",
                    speaker=f"spk{n}", emotion=emotion, answer=f"The emotion is {named}.",
                ))  # fmt: skip
    return rows


def r2(values: list[float], codes: list[int] | None, sentences: list[int], draw: list[int]) -> float:
    column = sp.csr_matrix(np.array(values)[:, None])
    groups = None if codes is None else np.array(codes)
    return float(adjusted_r2(column, groups, np.array(sentences), np.array([draw]))[0])


def test_adjusted_r2_by_hand():
    values = [1.0, 3.0, 5.0, 9.0]
    # Means 2 and 7, of all 4.5: between 2 * 2.5**2 * 2 = 25, total 3.5**2 + 1.5**2 + .5**2 + 4.5**2 = 35.
    expected = 1 - (1 - 25 / 35) * 3 / 2
    assert r2(values, [0, 0, 1, 1], [0, 0, 0, 0], [1]) == pytest.approx(expected)
    assert r2(values, None, [0, 0, 1, 1], [1, 1]) == pytest.approx(expected)
    assert r2(values, [0, 1, 1, 0], [0, 0, 0, 0], [1]) == 0  # less than chance gives
    assert r2([1.0] * 4, [0, 0, 1, 1], [0, 0, 0, 0], [1]) == 0
    assert r2(values, [0, 1, 2, 3], [0, 0, 0, 0], [1]) == 0  # as many groups as items say nothing


def test_a_sentence_that_is_drawn_twice_counts_twice():
    values, codes, sentences = [1.0, 3.0, 5.0, 9.0, 2.0], [0, 1, 0, 1, 1], [0, 0, 1, 1, 2]
    items = [0, 1, 2, 3, 2, 3]
    as_items = r2([values[i] for i in items], [codes[i] for i in items], [0] * 6, [1])
    assert r2(values, codes, sentences, [1, 2, 0]) == pytest.approx(as_items)
    copies = r2([values[i] for i in items], [0, 0, 1, 1, 2, 2], [0] * 6, [1])
    assert r2(values, None, sentences, [1, 2, 0]) == pytest.approx(copies)


@pytest.mark.parametrize("follows", ["voice", "words", "speaker"])
def test_what_a_system_follows_is_found(follows: str):
    found = conflict("s", "esd", replies(follows))
    assert (found.items, found.sentences, found.left_out) == (80, 4, 0)
    assert [each.outcome for each in found.explained] == ["named emotion", "reply"]
    for each in found.explained:
        others = [value for name, value in each.explained.items() if name != follows]
        assert each.explained[follows] == pytest.approx(1), each.outcome
        assert others == [0, 0], each.outcome
        low, high = each.intervals[follows]
        assert low <= 1 <= high + 1e-9


def test_an_effect_that_is_not_there_is_not_found():
    draw = np.random.default_rng(0)
    explained = []
    for _ in range(20):
        rows = [row.model_copy(update={"answer": f"It is {draw.choice(EMOTIONS)}."}) for row in replies("voice")]
        named = conflict("s", "esd", rows).explained[0]
        explained.append(list(named.explained.values()))
    assert np.mean(explained) < 0.02


def test_words_against_the_voice():
    words = {text.lower().rstrip("."): emotion for text, emotion in OWN.items()}
    for follows, expected in (("voice", (1, 0)), ("words", (0, 1))):
        found = {c.outcome: c for c in conflict("s", "esd", replies(follows), words).contradictions}
        named = found["named emotion"]
        # 3 sentences that are not neutral, 4 other emotions, 4 speakers.
        assert (named.items, named.voice, named.words, named.other) == (48, *expected, 0)
        assert named.interval == (expected[0] - expected[1],) * 2
    assert conflict("s", "esd", replies("voice")).contradictions == []


def test_a_set_that_tells_the_emotion_of_its_words_needs_no_sentence_twice(tmp_path: Path):
    rows = [
        ReplyRecord(
            key=str(n), system="s", corpus="listen", text=f"Sentence number {n}.", emotion="sad", words_emotion=own,
            response="Oh.", answer="happy" if n % 4 == 0 else "sad",
        )
        for n, own in enumerate(["happy"] * 40 + ["sad"] * 5 + ["neutral"] * 5)
    ]  # fmt: skip
    found = conflict("s", "listen", rows)
    assert found and (found.items, found.sentences, found.left_out, found.explained) == (0, 0, 0, [])
    (row,) = found.contradictions
    assert (row.outcome, row.items, row.voice, row.words, row.other) == ("named emotion", 40, 0.75, 0.25, 0.0)
    assert row.interval[0] < 0.5 < row.interval[1] and row.interval[0] > 0
    assert conflict("s", "listen", [each.model_copy(update={"words_emotion": None}) for each in rows]) is None
    assert conflict("s", "listen", rows[:15]) is None
    write_records(tmp_path / "r.jsonl", rows)
    told = CliRunner().invoke(app, ["conflict", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "c")])
    page = (tmp_path / "c" / "report.md").read_text()
    assert told.exit_code == 0 and "Words against voice" in page and "adjusted R squared" not in page, told.output


def test_what_cannot_be_used_is_counted_or_nothing():
    rows = [
        *replies("voice"),
        *(ReplyRecord(key=f"x{n}", system="s", response="x", text="Once.", emotion="sad") for n in range(3)),
    ]
    assert conflict("s", "esd", rows).left_out == 3
    assert conflict("s", "esd", [row for row in rows if row.emotion == "sad"]) is None
    assert conflict("s", "esd", rows[:15]) is None
    silent = [row.model_copy(update={"response": "", "answer": None}) for row in replies("voice")]
    assert conflict("s", "esd", silent).explained == []


def test_emotion_of_the_words_alone():
    rows = replies("words", "text")
    assert words_emotions(rows) == {text.lower().rstrip("."): emotion for text, emotion in OWN.items()}
    assert words_emotions(replies("voice")) == {}  # not always the same: the voice decided


def test_the_command_and_the_report(tmp_path: Path):
    for name, follows in (("text", "words"), ("re-llm", "voice")):
        write_records(tmp_path / f"{name}.jsonl", replies(follows, name))
    arguments = ["conflict", str(tmp_path / "re-llm.jsonl"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--words", str(tmp_path / "text.jsonl")])
    assert done.exit_code == 0, done.output
    assert "re-llm on esd, named emotion: voice 1.00, words 0.00, speaker 0.00 (80 utterances)" in done.output
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["contradictions"][0]["voice"] == 1
    assert "Words against voice" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "figures" / "conflict_esd.png").read_bytes().startswith(b"\x89PNG")
    write_records(tmp_path / "few.jsonl", replies("voice")[:4])
    done = CliRunner().invoke(app, ["conflict", str(tmp_path / "few.jsonl"), "--out", str(tmp_path / "no")])
    assert done.exit_code == 2 and "same words in several emotions" in done.output
    scores = []
    for name in ("text", "re-llm"):
        scores.append(str(tmp_path / f"{name}.scores"))
        assert CliRunner().invoke(app, ["score", str(tmp_path / f"{name}.jsonl"), "--out", scores[-1]]).exit_code == 0
    told = [word for name in ("text", "re-llm") for word in ("--replies", str(tmp_path / f"{name}.jsonl"))]
    done = CliRunner().invoke(app, ["report", *scores, *told, "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert "## Voice or words" in (tmp_path / "report" / "report.md").read_text()
