"""`re-llm judge`: replies judged by an LLM, as rows that `re-llm report` reads beside scores.jsonl.

Every question is asked once: its answer, word for word, is kept under a hash of the judge and the question in
`NAME.answers.jsonl`, so that a killed run goes on, and reading the answers again needs no asking again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from re_llm.core.appending import RecordAppender
from re_llm.core.dialogues import turns, words
from re_llm.core.errors import RellmError
from re_llm.core.files import existing, file_hash, hash_of
from re_llm.core.product import Overwrite, Product, State
from re_llm.core.progress import progress_bar
from re_llm.core.records import Score, read_records, write_records
from re_llm.evaluate.empathy.scores import Group, make_score
from re_llm.evaluate.judge.prompts import PAIRWISE, SCORED, fill
from re_llm.evaluate.judge.results import Answer, JudgeReport, group_fields, judged
from re_llm.evaluate.reply_rows import ReplyRow, read_rows
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt

STAGE = "judge 1"  # the number rises when the same answers begin to get other scores
MAX_NEW_TOKENS = 256  # three sentences of justification and the score
CRITERIA = (*SCORED, "PAIRWISE")


class Judge(Protocol):
    """Answers questions in their order: `llm.server.ChatServer`."""

    name: str

    def stream(
        self,
        rows: Iterable[tuple[Prompt, str]],
        *,
        max_new_tokens: int,
        on_answer: Callable[[int, Completion], None] | None = None,
    ) -> Iterable[Completion]: ...


@dataclass(frozen=True)
class _Item:
    """What is judged: one reply, or a pair of them, by one question or by one in each order."""

    group: Group
    key: str
    criterion: str
    questions: tuple[str, ...]


def _fields(row: ReplyRow) -> dict[str, str]:
    text = row.reply.text or row.reply.transcript or ""
    before = [f"{role.title()}: {words(said)}" for role, said in turns(row.reply.history or [])]
    return {
        "instruction": text,
        "history": "\n".join([*before, f"User: {text}"]),
        "emotion": row.emotion or "",
        "response": row.reply.response,
    }


def _pairs(rows: Sequence[ReplyRow], others: Sequence[ReplyRow]) -> list[tuple[ReplyRow, ReplyRow]]:
    """Replies to the same utterance; an opponent with several seeds answers with the one of the same seed.

    Raises:
        RellmError: the opponent is not one system, or lacks utterances.
    """
    systems = {row.reply.system for row in others}
    if len(systems) > 1:
        raise RellmError(f"--against holds replies of {len(systems)} systems", todo="Give the replies of one system")
    by_key = {(row.reply.corpus, row.reply.key, row.reply.seed): row for row in others}
    any_seed = {(row.reply.corpus, row.reply.key): row for row in reversed(others)}
    pairs, missing = [], []
    for row in rows:
        place = (row.reply.corpus, row.reply.key)
        other = by_key.get((*place, row.reply.seed)) or any_seed.get(place)
        if other is None:
            missing.append(row.reply.key)
        else:
            pairs.append((row, other))
    if missing:
        more = f" and {len(missing) - 5} more" if missing[5:] else ""
        raise RellmError(
            f"--against has no reply to {len(missing)} of {len(rows)} utterances: {', '.join(missing[:5])}{more}",
            todo="Answer the same manifest with both systems",
        )
    return pairs


def _items(rows: Sequence[ReplyRow], criteria: Sequence[str], others: Sequence[ReplyRow] | None) -> list[_Item]:
    items = []
    for row in rows:
        for criterion in criteria:
            if criterion in SCORED:
                question = fill(SCORED[criterion], _fields(row))
                items.append(_Item(row.group, row.reply.key, criterion, (question,)))
    if others is not None:
        for row, other in _pairs(rows, others):
            ours, theirs = row.reply.response, other.reply.response
            both = tuple(
                fill(PAIRWISE, {**_fields(row), "response_a": a, "response_b": b})
                for a, b in ((ours, theirs), (theirs, ours))
            )
            items.append(_Item(row.group, row.reply.key, "PAIRWISE", both))
    return items


def _key(judge: str, question: str) -> str:
    return hash_of([judge, str(MAX_NEW_TOKENS), question])[:32]


def _ask(judge: Judge, questions: Sequence[str], path: Path, report: JudgeReport, show: bool) -> dict[str, Answer]:
    """Answers to all questions, by key; those that the file of answers lacks are asked and appended as they come."""
    wanted = {_key(judge.name, question): question for question in questions}
    with RecordAppender(path) as kept:
        missing = {key: question for key, question in wanted.items() if key not in kept.keys}
        report.asked, report.cached = len(missing), len(wanted) - len(missing)
        rows = ((Prompt("judge"), question) for question in missing.values())
        order = list(missing.items())
        with progress_bar("judge", len(wanted), done=report.cached, unit="questions", show=show) as advance:

            def keep(number: int, got: Completion) -> None:
                """At once, in whatever order: when the judge stops, every answer that came is paid."""
                key, question = order[number]
                kept.append([Answer(key=key, judge=judge.name, question=question, answer=got.text, tokens=got.tokens,
                                    prompt_tokens=got.prompt_tokens, refused=got.refused)])  # fmt: skip
                report.tokens += got.tokens
                report.prompt_tokens += got.prompt_tokens
                advance(1)

            for _ in judge.stream(rows, max_new_tokens=MAX_NEW_TOKENS, on_answer=keep):
                pass
    return {answer.key: answer for answer in read_records(path, Answer) if answer.key in wanted}


def judge_file(
    replies_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    judge: Judge,
    *,
    criteria: Sequence[str] | None = None,
    against: str | os.PathLike[str] | None = None,
    answers: str | os.PathLike[str] | None = None,
    prices: tuple[float, float] | None = None,
    progress: bool = True,
    overwrite: Overwrite = Overwrite.NO,
) -> JudgeReport:
    """Judges a `replies.jsonl`, and writes the judgements whole or not at all.

    A win in a pairwise comparison needs both orders, as a loss does; all else is a tie (BLSP-Emo, appendix E).

    Args:
        criteria: of QUALITY, EMPATHY, PAIRWISE; None for the first two, and for the third when there is `against`.
        against: replies of one other system to the same utterances.
        answers: file of the judge's answers, may be shared by runs; None for `NAME.answers.jsonl`.
        prices: of a million tokens of questions and of answers.

    Raises:
        RellmError: a file, a line or a criterion is wrong, nothing can be judged, the judge cannot be reached, or there
            are judgements that were made from something else and may not be overwritten. Answers that came are kept.
    """
    replies, out = existing(replies_path), Path(out_path)
    chosen = _criteria(criteria, against is not None)
    store = Path(answers) if answers else out.with_suffix(".answers.jsonl")
    others = existing(against) if against and "PAIRWISE" in chosen else None
    product = Product(
        out,
        STAGE,
        inputs={"replies": file_hash(replies), "against": file_hash(others) if others else None,
                "wording": hash_of([*SCORED.values(), PAIRWISE])},
        settings={"judge": judge.name, "criteria": list(chosen)},
        names={"replies": str(replies), "against": "--against", "criteria": "--criterion", "judge": "--model"},
    )  # fmt: skip
    with product.making(overwrite) as before:
        if before.state is State.SAME:
            return product.stored(JudgeReport)
        report = JudgeReport(out, judge.name, remade=before.why)
        began = time.monotonic()
        _judge(report, judge, replies, others, chosen, store, progress)
        if prices and report.asked:
            report.cost = (report.prompt_tokens * prices[0] + report.tokens * prices[1]) / 1e6
        report.seconds = time.monotonic() - began
        product.finish(report)
    return report


def _criteria(criteria: Sequence[str] | None, pairwise: bool) -> tuple[str, ...]:
    wanted = [name.upper() for name in criteria or (CRITERIA if pairwise else tuple(SCORED))]
    for name in wanted:
        if name not in CRITERIA:
            raise RellmError(f"unknown criterion {name!r}", allowed=", ".join(CRITERIA))
    if "PAIRWISE" in wanted and not pairwise:
        raise RellmError("PAIRWISE compares two systems", todo="Give the other one's replies: --against REPLIES")
    return tuple(name for name in CRITERIA if name in wanted)


def _judge(
    report: JudgeReport,
    judge: Judge,
    replies: Path,
    against: Path | None,
    criteria: Sequence[str],
    store: Path,
    progress: bool,
) -> None:
    rows = read_rows(replies)
    report.without_text = sum(not _fields(row)["instruction"].strip() for row in rows)
    report.without_emotion = sum(not row.emotion for row in rows)
    usable = [row for row in rows if row.emotion and _fields(row)["instruction"].strip()]
    if not usable:
        raise RellmError(
            f"{replies} holds no reply that can be judged",
            allowed="replies with `text` (or `transcript`) and `emotion`",
        )
    others = read_rows(against) if against else None
    items = _items(usable, criteria, others)
    found = _ask(judge, [question for item in items for question in item.questions], store, report, progress)
    scores: list[Score] = []
    groups: dict[tuple[Group, str], list[dict[str, Any]]] = {}
    for item in items:
        fields = judged(item.criterion, [found[_key(judge.name, question)] for question in item.questions])
        scores.append(make_score(item.group, f"JUDGE_{item.criterion}", item.key, fields))
        groups.setdefault((item.group, item.criterion), []).append(fields)
    opponent = others[0].reply.system if others else None
    for (group, criterion), own in groups.items():
        fields = group_fields(criterion, own, judge.name, opponent)
        scores.append(make_score(group, f"JUDGE_{criterion}", "*", fields))
        system, corpus, seed = group
        report.groups.append({"system": system, "corpus": corpus, "seed": seed, "criterion": criterion, **fields})
    write_records(report.out, scores)
