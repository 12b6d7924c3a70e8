"""`re-llm score`: replies of any system in, scores out; scoring again needs no generating again.

A reply needs `key`, `system`, `text` and `response`. Recognition is scored where a reference `emotion` and an answer
(`named_emotion`, or the raw `answer`) exist; the heads where there are `predicted_emotion` or V/A/D and their
references. Rows with key `*` are the group: one system on one corpus with one seed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.files import existing, file_hash
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.core.records import DIMENSIONS, Score, write_records
from re_llm.evaluate.dimensions import dimension_scores, known_dimensions
from re_llm.evaluate.empathy.epitome import MECHANISMS, EmpathyScorer
from re_llm.evaluate.empathy.language import looks_english
from re_llm.evaluate.empathy.loading import load_scorer, scorer_hash
from re_llm.evaluate.empathy.scores import Group, Judgement, judge, make_score
from re_llm.evaluate.empathy.truncation import choose_truncations
from re_llm.evaluate.references import GROUPS, reference_scores, right_letter
from re_llm.evaluate.reply_rows import ReplyRow, read_rows
from re_llm.evaluate.ser import label_order, score_recognition
from re_llm.evaluate.word_errors import word_error_scores

METRICS = ("ER", "EX", "IP", "SER", "HEAD", "VAD", "WER", "CHOICE", "ROUGE_L")
# Metrics that not all replies allow: what they need, and how to get it.
NEEDS: dict[str, tuple[Callable[[ReplyRow], bool], str, str]] = {
    "SER": (
        lambda row: bool(row.emotion and row.answered),
        "a reference `emotion` and with `named_emotion` or `answer`",
        "Answer the recognition prompt as well (re-llm respond --recognize)",
    ),
    "HEAD": (
        lambda row: bool(row.emotion and row.predicted),
        "a reference `emotion` and with `predicted_emotion`",
        "Answer with a model that has a categorical head",
    ),
    "VAD": (
        lambda row: bool(known_dimensions(row.reply)),
        "`valence`, `arousal` or `dominance` and its reference (`reference_valence`, ...)",
        "Answer a manifest with V/A/D labels with a model that has a dimensional head",
    ),
    "WER": (
        lambda row: bool(row.reply.text and row.reply.transcript is not None),
        "`text` and `transcript`",
        "Answer with a system that transcribes (cascade)",
    ),
    "CHOICE": (
        lambda row: right_letter(row.reply.reference) is not None,
        "a `reference` that is a letter, of the right choice",
        "Prepare a benchmark of multiple choice, whose column is given as `reference`",
    ),
    "ROUGE_L": (
        lambda row: bool(row.reply.reference) and right_letter(row.reply.reference) is None,
        "a `reference` in words",
        "Prepare a benchmark with reference replies, whose column is given as `reference`",
    ),
}
# Beside empathy, in the summary.
SHOWN = ("UA", "HEAD_UA", *(f"CCC_{name.upper()}" for name in DIMENSIONS), "WER", "CHOICE", "ROUGE_L")
STAGE = "score 3"  # the number rises when the same replies begin to get other scores


@dataclass
class ScoreReport(Made):
    """What `score_file` did.

    Attributes:
        groups: one entry per system, corpus and seed, with the means of its metrics.
        truncations: of long replies; the first gives the values. over_64: replies of more than 64 tokens.
        without_text: replies without the text they answer; their empathy was scored from the response alone.
        empty: replies without a word, level 0. not_english: replies that do not look English, the scorers' only
            language. unparsable: answers that name no
            emotion or do not decide for one, counted as wrong. undecided: replies to a question of multiple choice that
            decide for no letter, wrong as well.
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
    not_english: int = 0
    unparsable: int = 0
    undecided: int = 0
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
        counts = (
            (self.over_64, f"replies ({100 * self.over_64 / max(1, self.replies):.0f} %) are longer than 64 tokens"),
            (self.unparsable, "answers name no emotion or do not decide; they count as wrong"),
            (self.undecided, "replies to multiple-choice questions decide for no letter; they count as wrong"),
            (self.empty, "replies are empty; their levels are 0"),
            (
                self.not_english,
                "replies do not look English, the only language of the scorers: their levels mean nothing",
            ),
            (self.without_text, "replies lack the text they answer; scored from the response alone"),
        )
        return "\n".join([*lines, *(f"  {count} {what}" for count, what in counts if count)])


def _values(means: dict[str, Any]) -> str:
    shown = [metric for metric in (*MECHANISMS, *SHOWN) if means.get(metric) is not None]
    return ", ".join(f"{metric} {means[metric]:.3f}" for metric in shown)


def choose_metrics(
    metrics: Sequence[str] | None, rows: Sequence[ReplyRow], mechanisms: Sequence[str] = MECHANISMS
) -> tuple[str, ...]:
    """The wanted metrics in canonical order; without a wish all that apply.

    Args:
        mechanisms: of empathy that the scorer knows.

    Raises:
        RellmError: an unknown metric, one that the scorer was not trained for, or one without anything to compare.
    """
    known = tuple(m for m in METRICS if (any(map(NEEDS[m][0], rows)) if m in NEEDS else m in mechanisms))
    if not metrics:
        return known
    wanted = [metric.upper() for metric in metrics]
    for metric in wanted:
        if metric not in METRICS:
            raise RellmError(f"unknown metric {metric!r}", allowed=", ".join(METRICS))
        if metric in MECHANISMS and metric not in mechanisms:
            raise RellmError(f"the scorer was not trained for {metric}", allowed=", ".join(known))
        if metric not in known:
            _, needed, todo = NEEDS[metric]
            raise RellmError(
                f"{metric} needs replies with {needed}; there is none", todo=f"{todo}, or leave {metric} out"
            )
    return tuple(metric for metric in METRICS if metric in wanted)


def _recognition_scores(group: Group, rows: list[ReplyRow], labels: Sequence[str], metric: str) -> list[Score]:
    """Scores of the named emotions (`SER`), or of the categorical head's (`HEAD`, whose group rows begin so).

    A row with a reference but without an answer is wrong as well, if others of its group have one.
    """
    head = metric == "HEAD"
    known = [(row.reply.key, row.emotion, row.predicted if head else row.named) for row in rows if row.emotion]
    result = score_recognition([each[1] for each in known], [each[2] for each in known], labels=labels)
    out = [
        make_score(group, metric, key, {"value": float(named == emotion), "reference": emotion, "named": named})
        for key, emotion, named in known
    ]
    return out + [make_score(group, "HEAD_" * head + name, "*", fields) for name, fields in result.rows()]


def _other_scores(group: Group, rows: list[ReplyRow], wanted: Sequence[str], labels: Sequence[str]) -> list[Score]:
    """Scores of one group beside empathy, of the metrics that its replies allow."""
    scores: list[Score] = []
    replies = [row.reply for row in rows]
    for metric in wanted:
        if metric not in NEEDS or not any(map(NEEDS[metric][0], rows)):
            continue
        if metric == "VAD":
            scores += dimension_scores(group, replies)
        elif metric == "WER":
            scores += word_error_scores(group, replies)
        elif metric in GROUPS:
            scores += reference_scores(group, replies, metric)
        else:
            scores += _recognition_scores(group, rows, labels, metric)
    return scores


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
        metrics: of `METRICS`; None for all that the replies allow.
        scorer: name or folder (`load_scorer`), or a scorer.
        labels: label set of recognition; None for the reference emotions of each corpus in the file.
        truncation: of long replies: `64` (what the original scorer sees), `none`, or `both`; None for the scorer's own.
        overwrite: what happens to scores that were made from something else.

    Raises:
        RellmError: the file, a line of it, a metric, the scorer or the truncation is wrong; or there are scores that
            were made from something else and may not be overwritten.
    """
    replies, out = existing(replies_path), Path(out_path)
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
    content = scorer_hash(scorer) if isinstance(scorer, str) else getattr(scorer, "content", None)
    name = None if isinstance(scorer, str) or content else scorer.name
    return Product(
        out,
        STAGE,
        inputs={"replies": file_hash(replies), "scorer": content},
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
    rows = read_rows(replies)
    judging = load_scorer(scorer) if isinstance(scorer, str) else scorer
    wanted = choose_metrics(metrics, rows, judging.mechanisms)
    asked = [metric for metric in wanted if metric in MECHANISMS]
    found = Judgement(judging, choose_truncations(judging, truncation))
    report = ScoreReport(out, len(rows), wanted)
    if asked:
        found = judge([row.reply for row in rows], judging, found.truncations, progress)
        report.scorer, report.truncations, report.over_64 = judging.name, found.truncations, sum(found.over_64)
        report.without_text = sum(not (row.reply.text or row.reply.transcript) for row in rows)
        report.empty = sum(not row.reply.response.strip() for row in rows)
        report.not_english = sum(not looks_english(row.reply.response) for row in rows)
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
        others = _other_scores(group, own, wanted, labels or label_order(names[group[1]]))
        scores += others
        means = {score.metric: score for score in others if score.key == "*"}
        if "UNPARSABLE" in means:
            report.unparsable += (means["UNPARSABLE"].model_extra or {})["number"]
        if "CHOICE" in means:
            report.undecided += (means["CHOICE"].model_extra or {})["undecided"]
        report.groups.append(entry | {metric: means[metric].value for metric in SHOWN if metric in means})
    write_records(report.out, scores)
    report.seconds = time.monotonic() - began
    return report
