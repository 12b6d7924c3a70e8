"""Calibration of the categorical heads: a section of the report, and a page of its own (`re-llm calibrate`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, quote, write_page
from re_llm.evaluate.calibration import (
    COVERAGE,
    MIN_ITEMS,
    Calibration,
    Heads,
    PredictionSets,
    calibration,
    conformal_threshold,
    fit_temperature,
    prediction_sets,
)
from re_llm.report.plots import reliability_plot
from re_llm.report.reply_sections import Replies, in_order, read_replies
from re_llm.report.score_sections import corpus_plot
from re_llm.report.tables import corpus_title, system_title


@dataclass(frozen=True)
class Calibrated:
    """The head of one system on one corpus.

    Attributes:
        temperature, tempered, threshold, sets: fitted on validation replies of the same system; None without them.
            An emotion is in a set with at least the probability `threshold`.
        left_out: replies without probabilities or a reference.
    """

    system: str
    corpus: str
    plain: Calibration
    left_out: int
    temperature: float | None = None
    tempered: Calibration | None = None
    threshold: float | None = None
    sets: PredictionSets | None = None


def calibrations(spoken: Replies, validation: Replies | None = None, coverage: float = COVERAGE) -> list[Calibrated]:
    """Every system and corpus whose replies hold probabilities, without validation at least `MIN_ITEMS` of them.

    Args:
        validation: replies to other utterances, to fit temperature and sets on; all corpora of a system together.

    Raises:
        RellmError: a system has no validation replies, or some of them are test replies as well.
    """
    found = []
    for system, corpus in in_order(spoken):
        replies = spoken[system, corpus]
        usable = sum(bool(reply.probabilities and reply.emotion) for reply in replies)
        if usable < (1 if validation else MIN_ITEMS):
            continue
        heads = Heads.of(replies)
        plain = calibration(heads)
        if validation is None:
            found.append(Calibrated(system, corpus, plain, heads.left_out))
            continue
        others = [reply for (name, _), each in validation.items() if name == system for reply in each]
        if not others:
            raise RellmError(
                f"--validation holds no reply of {system}", todo="Answer a validation split with it as well"
            )
        both = {(r.corpus, r.key) for r in replies} & {(r.corpus, r.key) for r in others}
        if both:
            raise RellmError(
                f"{len(both)} utterances are in the replies and in --validation: {min(both)[1]}",
                todo="Fit on a split that nothing is measured on",
            )
        fitted_on = Heads.of(others)
        if fitted_on.labels != heads.labels:
            raise RellmError(f"the validation replies of {system} give probabilities of other emotions")
        temperature = fit_temperature(fitted_on)
        tempered = heads.tempered(temperature)
        threshold = conformal_threshold(fitted_on.tempered(temperature), coverage)
        sets = prediction_sets(tempered, threshold, coverage)
        found.append(Calibrated(system, corpus, plain, heads.left_out, temperature, calibration(tempered), threshold,
                                sets))  # fmt: skip
    return found


def _ece(each: Calibration | None) -> Value:
    return Value(f"{each.ece:.3f}", f"[{each.interval[0]:.3f}, {each.interval[1]:.3f}]") if each else NONE


def calibration_blocks(found: Sequence[Calibrated], out: Path) -> list[Block]:
    """Calibration error, temperature and prediction sets; a plot for each corpus."""
    if not found:
        return []
    errors: list[Cells] = []
    sets: list[Cells] = []
    for each in found:
        names: Cells = [quote(corpus_title(each.corpus)), quote(system_title(each.system))]
        own = each.plain
        temperature = NONE if each.temperature is None else f"{each.temperature:.2f}"
        errors.append([*names, str(own.count), f"{own.accuracy:.3f}", f"{own.confidence:.3f}", f"{own.nll:.3f}",
                       _ece(own), temperature, _ece(each.tempered)])  # fmt: skip
        if s := each.sets:
            held = Value(f"{s.coverage:.3f}", f"[{s.interval[0]:.3f}, {s.interval[1]:.3f}]")
            worst = Value(f"{s.worst[1]:.3f}", quote(s.worst[0]))
            sets.append(
                [*names, f"{s.promised:.2f}", held, worst, f"{s.size:.2f}", f"{s.single:.2f}", f"{s.empty:.2f}"]
            )
    blocks: list[Block] = [
        Heading(2, "Calibration"),
        Table(["corpus", "system", "answers", "accuracy", "confidence", "NLL", "ECE", "temperature", "ECE with it"],
              errors, (0, 1)),
        Paragraph(
            "Of the categorical head. ECE: expected calibration error, the mean gap between confidence and accuracy "
            "over 15 ranges of confidence, with its 95 % bootstrap interval; a perfect head has a little above 0, by "
            "chance. Temperature and prediction sets need validation replies: `re-llm calibrate`."
        ),
    ]  # fmt: skip
    if sets:
        blocks += [
            Heading(3, "Prediction sets"),
            Table(["corpus", "system", "promised", "coverage", "worst emotion", "emotions", "one alone", "none"],
                  sets, (0, 1)),
            Paragraph(
                "Split conformal sets of the tempered head: mean number of emotions in a set, fractions of sets with "
                "one and with none. The promise holds for utterances like those of the validation replies, on average "
                "over the emotions; the worst emotion may be far below."
            ),
        ]  # fmt: skip
    for corpus in dict.fromkeys(each.corpus for each in found):
        lines: dict[str, list[tuple[float, float]]] = {}
        for each in (one for one in found if one.corpus == corpus):
            for suffix, curve in (("", each.plain), (", tempered", each.tempered)):
                if curve:
                    lines[system_title(each.system) + suffix] = [(b.confidence, b.accuracy) for b in curve.bins]
        what = "confidence and accuracy of the heads"
        blocks.append(corpus_plot(out, "calibration", corpus, what, reliability_plot, lines))
    return blocks


def write_calibration(
    replies: Sequence[Path], validation: Sequence[Path], out: Path, coverage: float = COVERAGE
) -> list[Calibrated]:
    """Writes the calibration of the heads as `report.html`, `report.md` and `results.json`.

    Raises:
        RellmError: a file is broken, nothing can be calibrated, the two share utterances, or a file cannot be written.
    """
    if not 0 < coverage < 1:
        raise RellmError(f"the coverage is {coverage}", allowed="between 0 and 1")
    found = calibrations(read_replies(replies), read_replies(validation), coverage)
    if not found:
        raise RellmError("no reply has `probabilities` and a reference `emotion`")
    numbers = [asdict(each) for each in found]
    write_page(out, "Calibration", numbers, lambda: [Heading(1, "Calibration"), *calibration_blocks(found, out)])
    return found
