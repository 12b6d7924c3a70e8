"""Replies of any system as the scorers read them: checked, and their emotions in canonical spelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.answer_parser import parse_answer
from re_llm.core.emotions import PROMPT_EMOTIONS, SPELLINGS, canonical, is_label
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord, read_numbered
from re_llm.evaluate.empathy.scores import Group
from re_llm.evaluate.ser import label_order


@dataclass
class ReplyRow:
    """A reply with its emotions in canonical spelling.

    Attributes:
        emotion: the reference. named: read out of the answer; predicted: of the categorical head, or the
            likeliest of its probabilities. None when unknown.
        answered: there is an answer.
    """

    reply: ReplyRecord
    emotion: str | None
    named: str | None
    predicted: str | None
    answered: bool

    @property
    def group(self) -> Group:
        return self.reply.system, self.reply.corpus, self.reply.seed


def read_rows(path: Path) -> list[ReplyRow]:
    """All replies of a file.

    Raises:
        RellmError: a line is broken, has an unknown reference emotion or a key that its system had before, or there is
            none.
    """
    rows: list[ReplyRow] = []
    lines: dict[tuple[Group, str], int] = {}
    for number, reply in read_numbered(path, ReplyRecord):
        emotion = reply.emotion or None
        if emotion and not is_label(emotion, reply.label_set):
            emotion = canonical(emotion, where=f"{path}:{number}")
        row = ReplyRow(reply, emotion, None, None, reply.answer is not None or reply.named_emotion is not None)
        first = lines.setdefault((row.group, reply.key), number)
        if first != number:
            raise RellmError(
                f"{path}:{number}: key {reply.key!r} of system {reply.system!r} is in line {first} already",
                todo="Give every reply of a system its own key, or different seeds",
            )
        rows.append(row)
    if not rows:
        raise RellmError(f"{path} holds no replies")
    allowed = label_order({*PROMPT_EMOTIONS, *(row.emotion for row in rows if row.emotion)})
    for row in rows:
        row.named = named_emotion(row.reply, allowed)
        likely = max(row.reply.probabilities or {}, key=(row.reply.probabilities or {}).__getitem__, default=None)
        row.predicted = _spelled(row.reply.predicted_emotion or likely, allowed)
    return rows


def _spelled(name: str | None, allowed: Sequence[str]) -> str | None:
    """A label in whatever spelling, canonical where that is known."""
    plain = (name or "").strip().lower()
    return (plain if plain in allowed else SPELLINGS.get(plain, plain)) or None


def named_emotion(reply: ReplyRecord, allowed: Sequence[str] = PROMPT_EMOTIONS) -> str | None:
    """The emotion that a reply's answer names, canonical; None when it names none of `allowed`.

    `named_emotion` counts as given, in whatever spelling; without it the raw `answer` is read.
    """
    if reply.named_emotion is not None:
        return _spelled(reply.named_emotion, allowed)
    return parse_answer(reply.answer, allowed) if reply.answer else None
