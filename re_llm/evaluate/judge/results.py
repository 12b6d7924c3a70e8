"""What a judge's answers amount to: scores, wins, refusals and failures, of one reply and of a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from re_llm.core.product import Made
from re_llm.core.records import Record
from re_llm.evaluate.judge.prompts import is_refusal, read_choice, read_score

WIN = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class Answer(Record):
    """A judge's answer; `key` is the hash of judge and question."""

    judge: str
    question: str
    answer: str
    tokens: int = 0
    prompt_tokens: int = 0
    refused: str | None = None

    @property
    def declined(self) -> bool:
        return self.refused is not None or is_refusal(self.answer)


def judged(criterion: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """Fields of the score of one reply or pair; `value` is None where the judge gave none.

    Args:
        answers: to its question; PAIRWISE: with the reply as response A, then as response B.
    """
    read: Callable[[str], float | str | None] = read_choice if criterion == "PAIRWISE" else read_score
    found = [None if answer.refused else read(answer.answer) for answer in answers]
    failed = [answer for answer, got in zip(answers, found, strict=True) if got is None]
    fields: dict[str, Any] = {"answers": [answer.key for answer in answers], "value": None}
    if failed:
        return {**fields, "failed": "refused" if any(answer.declined for answer in failed) else "unparsable"}
    if criterion != "PAIRWISE":
        return {**fields, "value": found[0]}
    choices = [str(choice) for choice in found]
    outcome = {("A", "B"): "win", ("B", "A"): "loss"}.get((choices[0], choices[1]), "tie")
    return {**fields, "value": WIN[outcome], "outcome": outcome, "choices": choices}


def group_fields(criterion: str, rows: Sequence[Mapping[str, Any]], judge: str, against: str | None) -> dict[str, Any]:
    values = [row["value"] for row in rows if row["value"] is not None]
    failed = Counter(row.get("failed") for row in rows)
    fields: dict[str, Any] = {
        "value": fmean(values) if values else None,
        "count": len(values),
        "judge": judge,
        "refused": failed["refused"],
        "unparsable": failed["unparsable"],
    }
    if criterion != "PAIRWISE":
        return {**fields, "std": round(stdev(values), 6) if len(values) > 1 else 0.0}
    outcomes = Counter(row.get("outcome") for row in rows)
    same_place = sum(row.get("choices") in (["A", "A"], ["B", "B"]) for row in rows)
    names = {"wins": "win", "ties": "tie", "losses": "loss"}
    counts = {name: outcomes[outcome] for name, outcome in names.items()}
    return {**fields, "against": against, **counts, "place_decided": same_place}


@dataclass
class JudgeReport(Made):
    """What `judge_file` did.

    Attributes:
        groups: one entry per system, corpus and seed, with the means and counts of every criterion.
        asked: questions sent by this run; cached: questions that had an answer.
        tokens, prompt_tokens: of the answers of this run; cost: of them, in the currency of the prices.
        without_text, without_emotion: replies that cannot be judged, since the prompts name both.
    """

    out: Path
    judge: str
    groups: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    cached: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    cost: float | None = None
    without_text: int = 0
    without_emotion: int = 0
    seconds: float = 0.0

    def summary(self) -> str:
        """For a person."""
        done = "complete: the same replies, judge and prompts" if self.skipped else f"{self.asked} questions asked"
        lines = [f"judged by {self.judge} in {self.out} ({done}, {self.cached} answered before)"]
        if self.asked:
            cost = "" if self.cost is None else f", cost {self.cost:.4f}"
            lines.append(f"  {self.prompt_tokens} tokens of questions, {self.tokens} of answers{cost}")
        for group in self.groups:
            name = " ".join(str(group[part]) for part in ("system", "corpus", "seed") if group[part] is not None)
            lines.append(f"  {name}: {group['criterion'].lower()} {_shown(group)}")
        counts = (
            (self.without_text, "replies lack the text they answer; not judged"),
            (self.without_emotion, "replies lack the reference emotion, which the prompts name; not judged"),
        )
        return "\n".join([*lines, *(f"  {count} {what}" for count, what in counts if count)])


def _shown(group: Mapping[str, Any]) -> str:
    value = "—" if group["value"] is None else f"{group['value']:.3f}"
    if "wins" in group:
        counts = f"{group['wins']} won, {group['ties']} tied, {group['losses']} lost"
        value = f"against {group['against']}: {counts}; the place decided {group['place_decided']} of the ties"
    failed = [f"{group[name]} {name}" for name in ("refused", "unparsable") if group[name]]
    return "; ".join([f"{value}, {group['count']} judged", *failed])
