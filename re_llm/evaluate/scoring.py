"""`re-llm score`: replies of any system in, scores out; scoring again needs no generating again.

A reply needs `key`, `system`, `text` and `response`. Recognition is scored where a reference `emotion` and an answer
(`named_emotion`, or the raw `answer`) exist. Rows with key `*` are the group: one system on one corpus with one seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from re_llm.core.answer_parser import parse_answer
from re_llm.core.emotions import PROMPT_EMOTIONS, SPELLINGS, canonical, is_label
from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.core.records import ReplyRecord, Score, read_numbered, write_records
from re_llm.evaluate.empathy.epitome import MECHANISMS, EmpathyScorer
from re_llm.evaluate.empathy.loading import load_scorer, scorer_hash
from re_llm.evaluate.empathy.scores import Group, Judgement, judge, make_score
from re_llm.evaluate.empathy.truncation import choose_truncations
from re_llm.evaluate.ser import SerResult, label_order, score_recognition

METRICS = ("ER", "EX", "IP", "SER")
STAGE = "score 2"  # the number rises when the same replies begin to get other scores


@dataclass
class ScoreReport(Made):
    """What `score_file` did.

    Attributes:
        groups: one entry per system, corpus and seed, with the means of its metrics.
        truncations: of long replies; the first gives the values. over_64: replies of more than 64 tokens.
        without_text: replies without the text they answer; their empathy was scored from the response alone.
        empty: replies without a word, level 0. unparsable: answers that name no
            emotion or do not decide for one, counted as wrong.
    """

    out: Path
    replies: int = 0
    metrics: tuple[str, ...] = ()
    scorer: str = "none"
    truncations: tuple[str, ...] = ()
    over_64: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    without_text: int = 0
    empty: int = 0
    unparsable: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Replies per second."""
        return self.replies / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        """For a person."""
        how = f"{self.rate:.0f} replies/s, scorer {self.scorer}"
        if self.truncations:
            how += f", truncation {' and '.join(self.truncations)}"
        done = "complete: the same replies, scorer and options" if self.skipped else how
        lines = [f"{self.replies} replies scored in {self.out} ({done})"]
        for group in self.groups:
            name = " ".join(str(group[part]) for part in ("system", "corpus", "seed") if group.get(part) is not None)
            lines.append(f"  {name}: {group['replies']} replies, {_values(group)}")
            for truncation, means in group.get("truncations", {}).items():
                lines.append(f"    truncation {truncation}: {_values(means)}")
        for count, what in (
            (self.over_64, f"replies ({100 * self.over_64 / max(1, self.replies):.0f} %) are longer than 64 tokens"),
            (self.unparsable, "answers name no emotion or do not decide; they count as wrong"),
            (self.empty, "replies are empty; their levels are 0"),
            (self.without_text, "replies lack the text they answer; scored from the response alone"),
        ):
            if count:
                lines.append(f"  {count} {what}")
        return "\n".join(lines)


def _values(means: dict[str, Any]) -> str:
    return ", ".join(f"{metric} {means[metric]:.3f}" for metric in (*MECHANISMS, "UA") if metric in means)


@dataclass
class _Row:
    """A reply with the reference emotion and the named one in canonical spelling. `answered`: there is an answer."""

    reply: ReplyRecord
    emotion: str | None
    named: str | None
    answered: bool

    @property
    def group(self) -> Group:
        return self.reply.system, self.reply.corpus, self.reply.seed

    @property
    def recognizable(self) -> bool:
        return bool(self.emotion and self.answered)


def _read(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    lines: dict[tuple[Group, str], int] = {}
    for number, reply in read_numbered(path, ReplyRecord):
        emotion = reply.emotion or None
        if emotion and not is_label(emotion, reply.label_set):
            emotion = canonical(emotion, where=f"{path}:{number}")
        row = _Row(reply, emotion, None, reply.answer is not None or reply.named_emotion is not None)
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
    return rows


def named_emotion(reply: ReplyRecord, allowed: Sequence[str] = PROMPT_EMOTIONS) -> str | None:
    """The emotion that a reply's answer names, canonical; None when it names none of `allowed`.

    `named_emotion` counts as given, in whatever spelling; without it the raw `answer` is read.
    """
    if reply.named_emotion is not None:
        name = reply.named_emotion.strip().lower()
        return name if name in allowed else SPELLINGS.get(name, name)
    return parse_answer(reply.answer, allowed) if reply.answer else None


def choose_metrics(
    metrics: Sequence[str] | None, recognizable: bool, mechanisms: Sequence[str] = MECHANISMS
) -> tuple[str, ...]:
    """The wanted metrics in canonical order; without a wish all that apply.

    Args:
        mechanisms: of empathy that the scorer knows.

    Raises:
        RellmError: an unknown metric, one that the scorer was not trained for, or SER without anything to compare.
    """
    known = tuple(m for m in METRICS if m in mechanisms or (m == "SER" and recognizable))
    if not metrics:
        return known
    wanted = [metric.upper() for metric in metrics]
    for metric in wanted:
        if metric not in METRICS:
            raise RellmError(f"unknown metric {metric!r}", allowed=", ".join(METRICS))
        if metric in MECHANISMS and metric not in mechanisms:
            raise RellmError(f"the scorer was not trained for {metric}", allowed=", ".join(known))
    if "SER" in wanted and not recognizable:
        raise RellmError(
            "SER needs replies with a reference `emotion` and with `named_emotion` or `answer`; there is none",
            todo="Answer the recognition prompt as well (re-llm respond --recognize), or leave SER out",
        )
    return tuple(metric for metric in METRICS if metric in wanted)


def _recognition_scores(group: Group, rows: list[_Row], labels: Sequence[str]) -> tuple[list[Score], SerResult]:
    """A row with a reference but without an answer is wrong as well, if others of its group have one."""
    known = [(row, row.emotion) for row in rows if row.emotion]
    result = score_recognition([emotion for _, emotion in known], [row.named for row, _ in known], labels=labels)
    out = [
        make_score(group, "SER", row.reply.key, {
            "value": float(row.named == emotion), "reference": emotion, "named": row.named,
        }) for row, emotion in known
    ]  # fmt: skip
    out += [make_score(group, metric, "*", fields) for metric, fields in result.rows()]
    return out, result


def score_file(
    replies_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
    scorer: str | EmpathyScorer = "small",
    labels: Sequence[str] | None = None,
    truncation: str | None = None,
    progress: bool = True,
    overwrite: Overwrite = Overwrite.NO,
) -> ScoreReport:
    """Scores a `replies.jsonl` and writes `scores.jsonl`, whole or not at all.

    Args:
        metrics: of ER, EX, IP, SER; None for all that the replies allow.
        scorer: name or folder (`load_scorer`), or a scorer.
        labels: label set of recognition; None for the reference emotions of each corpus in the file.
        truncation: of long replies: `64` (what the original scorer sees), `none`, or `both`; None for the scorer's own.
        overwrite: what happens to scores that were made from something else.

    Raises:
        RellmError: the file, a line of it, a metric, the scorer or the truncation is wrong; or there are scores that
            were made from something else and may not be overwritten.
    """
    replies, out = Path(replies_path), Path(out_path)
    if not replies.is_file():
        raise RellmError(f"no such file: {replies}", todo="Check the path")
    options = {"metrics": metrics and list(metrics), "labels": labels and list(labels), "truncation": truncation}
    product = scores_product(replies, out, scorer, options)
    with product.making(overwrite) as before:
        if before.state is State.SAME:
            return product.stored(ScoreReport)
        report = _score(replies, out, metrics, scorer, labels, truncation, progress)
        report.remade = before.why
        product.finish(report)
    return report


def scores_product(replies: Path, out: Path, scorer: str | EmpathyScorer, options: Mapping[str, Any]) -> Product:
    """The file of scores, and everything that decides them."""
    name, content = None, None
    if isinstance(scorer, str):
        content = scorer_hash(scorer)
    else:
        content = getattr(scorer, "content", None)
        name = scorer.name if content is None else None
    return Product(
        out,
        STAGE,
        inputs={
            "replies": file_hash(replies),
            "scorer": content,
        },
        settings={**options, "scorer": name},
        names={"replies": str(replies), "metrics": "--metric", "truncation": "--truncation", "scorer": "the scorer"},
    )


def _score(
    replies: Path,
    out: Path,
    metrics: Sequence[str] | None,
    scorer: str | EmpathyScorer,
    labels: Sequence[str] | None,
    truncation: str | None,
    progress: bool,
) -> ScoreReport:
    began = time.monotonic()
    rows = _read(replies)
    judging = load_scorer(scorer) if isinstance(scorer, str) else scorer
    wanted = choose_metrics(metrics, any(row.recognizable for row in rows), judging.mechanisms)
    asked = [metric for metric in wanted if metric in MECHANISMS]
    found = Judgement(judging, choose_truncations(judging, truncation))
    report = ScoreReport(out, len(rows), wanted)
    if asked:
        found = judge([row.reply for row in rows], judging, found.truncations, progress)
        report.scorer, report.truncations, report.over_64 = judging.name, found.truncations, sum(found.over_64)
        report.without_text = sum(not (row.reply.text or row.reply.transcript) for row in rows)
        report.empty = sum(not row.reply.response.strip() for row in rows)
    groups: dict[Group, list[int]] = {}
    names: dict[str | None, set[str]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.group, []).append(i)
        names.setdefault(row.reply.corpus, set()).update([row.emotion] if row.emotion else [])
    scores: list[Score] = []
    for group, members in groups.items():
        own = [rows[i] for i in members]
        entry: dict[str, Any] = {"system": group[0], "corpus": group[1], "seed": group[2], "replies": len(own)}
        for metric in asked:
            scores += [make_score(group, metric, rows[i].reply.key, found.row(i, metric)) for i in members]
            mean = found.group_row(members, metric)
            scores.append(make_score(group, metric, "*", mean))
            entry |= {metric: mean["value"], "over_64": mean["over_64"]}
            for each, values in (mean["truncations"] or {}).items():
                entry.setdefault("truncations", {}).setdefault(each, {})[metric] = values["mean"]
        if "SER" in wanted and any(row.recognizable for row in own):
            recognized, result = _recognition_scores(group, own, labels or label_order(names[group[1]]))
            scores += recognized
            entry["UA"] = result.ua
            report.unparsable += result.unparsable
        report.groups.append(entry)
    write_records(report.out, scores)
    report.seconds = time.monotonic() - began
    return report
