"""Replies judged by an LLM: prompts, answers of every kind, both orders, answers that are kept, agreement."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chat_world import serving
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.errors import RellmError
from re_llm.core.product import Overwrite
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate.judge.agreement import compare, judge_agreement
from re_llm.evaluate.judge.judging import judge_file
from re_llm.evaluate.judge.prompts import QUALITY, fill, is_refusal, read_choice, read_score
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt

RESPONSES = ("I'm so sorry.", "Okay.", "Congratulations!", "No comment {emotion}.", "Never mind.", "Go on.")


@dataclass
class Scripted:
    """A judge that answers by a rule, and remembers what it was asked; it may break after some answers."""

    answer: object
    name: str = "scripted"
    asked: list[str] = field(default_factory=list)
    breaks_after: int | None = None
    backwards: bool = False

    def stream(
        self,
        rows: Iterable[tuple[Prompt, str]],
        *,
        max_new_tokens: int,
        on_answer: Callable[[int, Completion], None],
    ) -> Iterator[Completion]:
        numbered = list(enumerate(rows))
        for number, (_, question) in reversed(numbered) if self.backwards else numbered:
            if len(self.asked) == self.breaks_after:
                raise RellmError("the judge is gone")
            self.asked.append(question)
            got = self.answer(question)
            on_answer(number, got if isinstance(got, Completion) else Completion(got, tokens=10, prompt_tokens=100))
            yield Completion("")


def write(path: Path, system: str, responses: Iterable[str] = RESPONSES, **more: object) -> Path:
    rows = [
        ReplyRecord(key=f"u{n}", system=system, response=text, **{"text": f"Line {n}.", "emotion": "sad", **more})
        for n, text in enumerate(responses)
    ]
    write_records(path, rows)
    return path


def judged(path: Path) -> list[Score]:
    return list(read_records(path, Score))


def group(rows: list[Score], metric: str) -> dict[str, object]:
    (row,) = (row for row in rows if row.key == "*" and row.metric == metric)
    return {"value": row.value, **row.model_extra}


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Kind and short. <score>8</score>", 8),
        ("<score> 7.5 </score>", 7.5),
        ("<score>9/10</score>", 9),
        ("<score>Score: 6 out of 10</score>", 6),
        ("It lacks warmth. <score>3", 3),
        ("First <score>4</score>, so <score>4</score>", 4),
        ("Either <score>4</score> or <score>6</score>", None),
        ("<score>11</score>", None),
        ("<score>-1</score>", None),
        ("<score>high</score>", None),
        ("I would give it an 8.", None),
        ("", None),
    ],
)
def test_scores_are_read_and_never_guessed(answer: str, score: float | None) -> None:
    assert read_score(answer) == score


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("B is cold. <choice>A</choice>", "A"),
        ("<choice>Response B</choice>", "B"),
        ("<choice>response_b</choice>", "B"),
        ("<choice>Assistant A is a better fit</choice>", "A"),
        ("<choice>Both are equally good</choice>", "tie"),
        ("<choice>A</choice> no, <choice>B</choice>", None),
        ("<choice>A or B</choice>", None),
        ("Response A.", None),
        ("<choice></choice>", None),
    ],
)
def test_choices_are_read_and_never_guessed(answer: str, choice: str | None) -> None:
    assert read_choice(answer) == choice


def test_prompts_hold_the_reply_as_it_is() -> None:
    text = fill(QUALITY, {"instruction": "Hi {response}", "emotion": "sad", "response": "{emotion} {x}"})
    assert (
        "<instruction>\nHi {response}\n</instruction>\n<emotion>\nsad\n</emotion>\n<response>\n{emotion} {x}\n" in text
    )
    assert text.endswith("The score should be wrapped by <score> and </score>.")
    assert is_refusal("I\u2019m sorry, but I cannot judge this.") and not is_refusal("The reply is sorry for nothing.")


def test_scores_refusals_and_failures_are_counted(tmp_path: Path) -> None:
    answers = {
        "I'm so sorry.": "<score>9</score>",
        "Okay.": "<score>2</score>",
        "Congratulations!": "I cannot assist with that.",
        "Never mind.": "Seven, I think.",
        "Go on.": Completion("", 0, "refused", refused="server-content-filter"),
    }
    judge = Scripted(lambda q: next((a for r, a in answers.items() if f"\n{r}\n" in q), "<score>4</score>"))
    replies = write(tmp_path / "r.jsonl", "s")
    report = judge_file(replies, tmp_path / "j.jsonl", judge, criteria=["empathy"], prices=(2.0, 10.0), progress=False)
    rows = judged(tmp_path / "j.jsonl")
    assert [row.value for row in rows[:-1]] == [9, 2, None, 4, None, None]
    found = group(rows, "JUDGE_EMPATHY")
    assert (found["value"], found["count"], found["refused"], found["unparsable"]) == (5, 3, 2, 1)
    assert (report.asked, report.tokens, report.prompt_tokens) == (6, 50, 500)
    assert report.cost == pytest.approx((500 * 2 + 50 * 10) / 1e6)
    assert "empathy 5.000, 3 judged; 2 refused; 1 unparsable" in report.summary()
    assert all("show empathy towards" in question for question in judge.asked)


def test_a_win_needs_both_orders(tmp_path: Path) -> None:
    def answer(question: str) -> str:
        a = question.partition("<response_A>\nAssistant: ")[2].partition("\n")[0]
        line = question.partition("User: ")[2][:7]
        better = {"Line 0.": "ours", "Line 1.": "theirs"}
        if line in better:  # consistent
            return f"<choice>{'A' if a.startswith(better[line]) else 'B'}</choice>"
        return {"Line 2.": "<choice>A</choice>", "Line 3.": "<choice>tie</choice>"}.get(line, "Hm.")

    ours = write(tmp_path / "a.jsonl", "re-llm", [f"ours {n}" for n in range(5)])
    theirs = write(tmp_path / "b.jsonl", "cascade", [f"theirs {n}" for n in range(5)])
    judge = Scripted(answer)
    report = judge_file(ours, tmp_path / "j.jsonl", judge, criteria=["PAIRWISE"], against=theirs, progress=False)
    rows = judged(tmp_path / "j.jsonl")
    assert [row.value for row in rows[:-1]] == [1, 0, 0.5, 0.5, None]
    found = group(rows, "JUDGE_PAIRWISE")
    assert (found["wins"], found["ties"], found["losses"], found["place_decided"]) == (1, 2, 1, 1)
    assert (found["unparsable"], found["against"], len(judge.asked)) == (1, "cascade", 10)
    assert "against cascade: 1 won, 2 tied, 1 lost; the place decided 1 of the ties" in report.summary()


def test_a_run_that_broke_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    replies, out = write(tmp_path / "r.jsonl", "s", [*RESPONSES]), tmp_path / "j.jsonl"
    first = Scripted(lambda q: "<score>5</score>", breaks_after=4)
    with pytest.raises(RellmError, match="the judge is gone"):
        judge_file(replies, out, first, progress=False)
    assert not out.exists() and len(first.asked) == 4
    second = Scripted(lambda q: "<score>5</score>")
    report = judge_file(replies, out, second, progress=False)
    assert (len(second.asked), report.asked, report.cached) == (8, 8, 4)
    assert not set(first.asked) & set(second.asked)
    third = Scripted(lambda q: "no")
    assert judge_file(replies, out, third, progress=False).skipped and not third.asked
    again = judge_file(replies, out, third, criteria=["QUALITY"], progress=False, overwrite=Overwrite.YES)
    assert (again.asked, again.cached) == (0, 6) and not third.asked
    other = Scripted(lambda q: "<score>1</score>", name="other")
    with pytest.raises(RellmError, match="--model"):
        judge_file(replies, out, other, criteria=["QUALITY"], progress=False)


def test_answers_that_came_before_the_one_that_is_waited_for_are_kept(tmp_path: Path) -> None:
    """A server answers several questions at once, in any order; when it stops, none that came is paid again."""
    replies, out = write(tmp_path / "r.jsonl", "s"), tmp_path / "j.jsonl"
    first = Scripted(lambda q: "<score>5</score>", breaks_after=4, backwards=True)
    with pytest.raises(RellmError, match="the judge is gone"):
        judge_file(replies, out, first, progress=False)
    second = Scripted(lambda q: "<score>7</score>")
    report = judge_file(replies, out, second, progress=False)
    assert (report.asked, report.cached) == (8, 4) and not set(first.asked) & set(second.asked)
    scores = {(row.metric, row.key): row.value for row in judged(out)}
    assert scores["JUDGE_QUALITY", "u0"] == 7 and scores["JUDGE_EMPATHY", "u5"] == 5  # each has its own answer


def test_replies_that_cannot_be_judged_are_counted_or_refused(tmp_path: Path) -> None:
    rows = [ReplyRecord(key="1", system="s", response="Oh.", text="Hi.", emotion="sad"),
            ReplyRecord(key="2", system="s", response="Oh.", emotion="sad"),
            ReplyRecord(key="3", system="s", response="Oh.", text="Hi.")]  # fmt: skip
    write_records(tmp_path / "r.jsonl", rows)
    judge = Scripted(lambda q: "<score>5</score>")
    report = judge_file(tmp_path / "r.jsonl", tmp_path / "j.jsonl", judge, criteria=["QUALITY"], progress=False)
    assert (report.without_text, report.without_emotion, len(judge.asked)) == (1, 1, 1)
    write_records(tmp_path / "r.jsonl", rows[1:])
    with pytest.raises(RellmError, match="no reply that can be judged"):
        judge_file(tmp_path / "r.jsonl", tmp_path / "k.jsonl", judge, progress=False)
    whole = write(tmp_path / "w.jsonl", "w")
    half = write(tmp_path / "h.jsonl", "h", RESPONSES[:2])
    with pytest.raises(RellmError, match="no reply to 4 of 6 utterances: u2, u3, u4, u5"):
        judge_file(whole, tmp_path / "k.jsonl", judge, against=half, progress=False)
    with pytest.raises(RellmError, match="PAIRWISE compares two systems"):
        judge_file(whole, tmp_path / "k.jsonl", judge, criteria=["pairwise"], progress=False)
    with pytest.raises(RellmError, match="unknown criterion 'STYLE'"):
        judge_file(whole, tmp_path / "k.jsonl", judge, criteria=["style"], progress=False)


def test_agreement_with_people(tmp_path: Path) -> None:
    judge = Scripted(lambda q: f"<score>{[9, 2, 8, 4, 1, 5][int(q.partition('Line ')[2][0])]}</score>")
    judge_file(write(tmp_path / "r.jsonl", "s"), tmp_path / "j.jsonl", judge, criteria=["EMPATHY"], progress=False)
    people = tmp_path / "people.csv"
    people.write_text("key,value\nu0,8\nu1,2\nu2,8\nu3,6\nu4,0\nu9,3\nu5,\n")
    (row,) = judge_agreement(tmp_path / "j.jsonl", people).rows
    ours, theirs = [9, 2, 8, 4, 1], [8, 2, 8, 6, 0]
    assert row.kappa == pytest.approx(cohen_kappa_score(ours, theirs, weights="quadratic"))
    assert (row.pairs, row.only_first, row.only_second, row.same) == (5, 1, 1, 0.4)
    assert row.difference == pytest.approx((1 + 0 + 0 - 2 + 1) / 5)
    people.write_text("key,value\nu0,12\n")
    with pytest.raises(RellmError, match=r"people\.csv:2: the value is '12'"):
        judge_agreement(tmp_path / "j.jsonl", people)
    people.write_text("utterance,score\nu0,1\n")
    with pytest.raises(RellmError, match="lacks the column key, value"):
        judge_agreement(tmp_path / "j.jsonl", people)
    judge_file(tmp_path / "r.jsonl", tmp_path / "k.jsonl", judge, progress=False)
    people.write_text("key,value\nu0,8\n")
    with pytest.raises(RellmError, match="fits several"):
        judge_agreement(tmp_path / "k.jsonl", people)
    people.write_text("key,value,criterion\nu0,8,empathy\nu1,2,empathy\n")
    assert [each.criterion for each in judge_agreement(tmp_path / "k.jsonl", people).rows] == ["EMPATHY"]


def test_kappa_by_hand() -> None:
    # Wins, ties, losses: they agree in 2 of 4; by chance 1/4 * 2/4 + 1/4 * 1/4 + 2/4 * 1/4 = 5/16.
    got = compare([1, 0.5, 0, 0], [1, 1, 0.5, 0], "PAIRWISE", (0, 0))
    assert got.kappa == pytest.approx((0.5 - 5 / 16) / (1 - 5 / 16))
    assert compare([5, 5], [5, 5], "QUALITY", (0, 0)).kappa is None


def test_the_commands_and_the_report(tmp_path: Path) -> None:
    replies = write(tmp_path / "r.jsonl", "re-llm")
    other = write(tmp_path / "o.jsonl", "cascade", ["Okay."] * 6)

    def reply(messages: list[dict[str, str]], limit: int) -> tuple[str, str]:
        return ("<choice>A</choice>" if "response_A" in messages[-1]["content"] else "<score>6</score>"), "stop"

    with serving(reply) as world:
        arguments = ["judge", str(replies), "--against", str(other), "--out", str(tmp_path / "j.jsonl")]
        server = ["--server", world.url, "--model", "judge", "--json"]
        done = CliRunner().invoke(app, [*arguments, *server])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["asked"] == 23  # two replies that are alike ask one question in both orders
    assert CliRunner().invoke(app, ["score", str(replies), "--out", str(tmp_path / "s.jsonl")]).exit_code == 0
    files = [str(tmp_path / name) for name in ("s.jsonl", "j.jsonl")]
    done = CliRunner().invoke(app, ["report", *files, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## A judge LLM" in page and "| 6.000 of 6 |" in page and "Whisper + LLM" in page
    done = CliRunner().invoke(app, ["judge", "agree", str(tmp_path / "j.jsonl"), str(tmp_path / "j.jsonl")])
    assert done.exit_code == 0 and "pairwise: kappa —" in done.output
    one = CliRunner().invoke(app, [*arguments, *server[:-1], "--price-in", "1"])
    assert one.exit_code == 2 and "--price-out" in one.output
