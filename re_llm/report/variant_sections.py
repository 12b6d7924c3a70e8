"""Sections of a report about variants of a system: dose and response, length control, asking when unsure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, percent, quote, write_page
from re_llm.evaluate.variants import Change, Compared, DoseResponse, Measured, Scored, compare, dose_response
from re_llm.report.plots import dose_plot
from re_llm.report.reply_sections import Replies, in_order, read_replies
from re_llm.report.score_files import read_scores
from re_llm.report.score_sections import corpus_plot
from re_llm.report.tables import METRIC_TITLES, ScoreTable, corpus_title, system_title

METRICS = ("ER", "EX", "IP", "JUDGE_QUALITY", "JUDGE_EMPATHY")
ASKING, LENGTH = "ask_when_unsure", ("max_words", "end_with_question")


@dataclass(frozen=True)
class Variants:
    """What a report shows of variants."""

    doses: list[DoseResponse] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)


def variants(table: ScoreTable, spoken: Replies) -> Variants:
    """Every system with variants, in the order of Table I."""
    doses: dict[tuple[str, str], dict[float, str]] = {}
    compared = []
    for system, corpus in in_order(spoken):
        reply = spoken[system, corpus][0]
        plain, settings = reply.variant_of, reply.variant or {}
        if plain is None or (plain, corpus) not in spoken:
            continue
        if set(settings) == {"corrupt_emotion", "corrupt_seed"}:
            doses.setdefault((plain, corpus), {0.0: plain})[settings["corrupt_emotion"]] = system
            continue
        pair = _scored(table, plain, corpus), _scored(table, system, corpus)
        if found := compare(spoken[plain, corpus], spoken[system, corpus], pair):
            compared.append(found)
    responses = []
    for (plain, corpus), names in doses.items():
        replies = {dose: spoken[name, corpus] for dose, name in names.items()}
        scored = {dose: _scored(table, name, corpus) for dose, name in names.items()}
        if each := dose_response(plain, corpus, replies, scored):
            responses.append(each)
    return Variants(responses, compared)


def _scored(table: ScoreTable, system: str, corpus: str) -> Scored:
    return {metric: values for metric in METRICS if (values := table.means(system, corpus, metric))}


def _shown(measured: Measured | None) -> Value:
    if measured is None:
        return NONE
    return Value(f"{measured.mean:.3f}", f"[{measured.interval[0]:.3f}, {measured.interval[1]:.3f}]")


def dose_blocks(found: Sequence[DoseResponse], out: Path) -> list[Block]:
    """A row for every dose, the slopes, and a plot for each corpus."""
    if not found:
        return []
    metrics = [m for m in METRICS if any(m in dose.scores for each in found for dose in each.doses)]
    rows: list[Cells] = []
    slopes: list[Cells] = []
    for each in found:
        names: Cells = [quote(corpus_title(each.corpus)), quote(system_title(each.system))]
        rows += [
            [*names, percent(dose.exchanged), _shown(dose.accuracy), *(_shown(dose.scores.get(m)) for m in metrics)]
            for dose in each.doses
        ]
        slopes.append([*names, str(each.items), *(_shown(each.slopes.get(m)) for m in metrics)])
    titles = [METRIC_TITLES[m] for m in metrics]
    plots: list[Block] = []
    for corpus in dict.fromkeys(each.corpus for each in found):
        own = [each for each in found if each.corpus == corpus]
        panels = {
            METRIC_TITLES[m]: {
                system_title(each.system): [(dose.accuracy, dose.scores[m]) for dose in each.doses if m in dose.scores]
                for each in own
            }
            for m in metrics
        }
        if metrics:
            plots.append(corpus_plot(out, "dose", corpus, "scores by accuracy of recognition", dose_plot, panels))
    return [
        Heading(2, "Dose and response"),
        Table(["corpus", "system", "exchanged", "accuracy", *titles], rows, (0, 1)),
        Paragraph(
            "Exchanged: fraction of the utterances that were answered with the emotion information of an utterance of "
            "the corpus with another emotion: its label in a cascade, its emotion embedding in RE-LLM. "
            "Accuracy: how often the emotion that the system goes by is the reference (the head's; else the named one; "
            "else the label). A speech system may hear the emotion in its other encoder as well. 95 % intervals over "
            "utterances, the same ones at every dose."
        ),
        Table(["corpus", "system", "utterances", *(f"{title} by accuracy" for title in titles)], slopes, (0, 1)),
        Paragraph("By accuracy: how much the mean score rises when the accuracy rises from 0 to 1; a straight line."),
        *plots,
    ]  # fmt: skip


def _change(each: Change | None, digits: int = 3) -> Value:
    if each is None:
        return NONE
    low, high = each.interval
    difference = f"{each.difference:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    return Value(f"{each.before:.{digits}f} → {each.after:.{digits}f}", difference)


def length_blocks(found: Sequence[Compared]) -> list[Block]:
    """Length, questions and scores without and with length control."""
    rows: list[Cells] = []
    for each in found:
        if not set(LENGTH) & set(each.settings):
            continue
        wanted = [f"{each.settings['max_words']} words"] if "max_words" in each.settings else []
        wanted += ["a question"] if "end_with_question" in each.settings else []
        own = each.changes
        rows.append([
            quote(corpus_title(each.corpus)), quote(system_title(each.system)), " and ".join(wanted), str(each.items),
            _change(own.get("words"), 1), percent(each.over), _change(own.get("asks once"), 2),
            *(_change(own.get(m)) for m in ("ER", "EX")),
        ])  # fmt: skip
    if not rows:
        return []
    note = (
        "Without → with length control, on the same utterances; differences with 95 % intervals over utterances. "
        "Whole sentences are kept, so a first sentence may be longer than the limit (longer, of all). One question: "
        "the reply has one question and ends with it. Ex is close to a question-mark detector: that it rises with a "
        "question at the end is no proof of exploration."
    )
    header = ["corpus", "system", "limit", "replies", "words", "longer", "one question", "ER", "Ex"]
    return [Heading(2, "Length control"), Table(header, rows, (0, 1, 2)), Paragraph(note)]


def asking_blocks(found: Sequence[Compared]) -> list[Block]:
    """Whether asking about the feeling, where the head is unsure, helps."""
    rows: list[Cells] = []
    for each in found:
        if ASKING not in each.settings:
            continue
        own = each.changes
        rows.append([
            quote(corpus_title(each.corpus)), quote(system_title(each.system)), str(each.items), percent(each.asked),
            percent(each.accuracy_asked), percent(each.accuracy_else), _change(own.get("names wrong"), 2),
            *(_change(own.get(name)) for name in ("ER", "ER, 0 where wrong", "EX")),
        ])  # fmt: skip
    if not rows:
        return []
    note = (
        "Where the categorical head is unsure (not exactly one emotion is probable enough), the reply asks how the "
        "person feels in the place of answering. Right: accuracy of the head, where the reply asks and elsewhere; "
        "asking is worth it where the first is low. Without → with asking on the same utterances, 95 % intervals over "
        "utterances. ER, 0 where wrong: a reply that names a wrong emotion counts as 0."
    )
    header = ["corpus", "system", "replies", "ask", "right where it asks", "right elsewhere", "name a wrong emotion",
              "ER", "ER, 0 where wrong", "Ex"]  # fmt: skip
    return [Heading(2, "Asking when unsure"), Table(header, rows, (0, 1)), Paragraph(note)]


def variant_blocks(found: Variants, out: Path) -> list[Block]:
    return [*dose_blocks(found.doses, out), *length_blocks(found.compared), *asking_blocks(found.compared)]


def write_dose(scores: Sequence[Path], replies: Sequence[Path], out: Path) -> list[DoseResponse]:
    """Writes the dose-response page of some scored replies: `report.html`, `report.md`, `results.json`.

    Raises:
        RellmError: a file is broken, or no system has two doses that can be compared.
    """
    found = variants(read_scores(scores), read_replies(replies))
    if not found.doses:
        raise RellmError(
            "no system was answered with two doses of the same utterances", allowed="six utterances or more"
        )
    numbers: list[dict[str, Any]] = [asdict(each) for each in found.doses]
    title = "Dose and response"
    write_page(out, title, numbers, lambda: [Heading(1, title), *dose_blocks(found.doses, out)])
    return found.doses
