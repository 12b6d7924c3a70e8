"""`re-llm report`: scores and replies in, Table I with its tests, audits, plots and examples out.

Writes `report.html` (one self-contained file), `report.md`, `figures/`, `tables.tex` and `results.json` (the numbers,
for machines).
Every gain states its baseline, and the known weaknesses of the scores stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from re_llm.core import page
from re_llm.core.files import existing, file_hash
from re_llm.core.page import Block, Heading, quote
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.evaluate.conflict import Conflict
from re_llm.recipe.tables import ShownOptions
from re_llm.report.audit_sections import AuditedGroup, LeakedCorpus, audit_blocks, audited, leakage_blocks, leaked
from re_llm.report.calibration_sections import Calibrated, calibration_blocks, calibrations
from re_llm.report.conflict_sections import conflict_blocks, conflicts
from re_llm.report.dialogue_sections import Remembered, dialogue_blocks, remembered
from re_llm.report.gold_sections import GoldFound, beside_gold, gold_blocks
from re_llm.report.provenance_sections import doubts, paper_blocks, prompts_of, provenance_blocks, short_name
from re_llm.report.recipe_sections import Wins, all_wins, recipe_blocks
from re_llm.report.reply_sections import Replies, example_blocks, read_replies
from re_llm.report.score_files import read_scores
from re_llm.report.score_sections import (
    dimension_blocks,
    judge_blocks,
    level_blocks,
    recognition_blocks,
    reference_blocks,
    transcript_blocks,
    truncation_blocks,
    weakness_blocks,
)
from re_llm.report.slice_sections import Sliced, about_items, slice_blocks, slices
from re_llm.report.table_one import gain_blocks, introduction, table_one
from re_llm.report.tables import METRIC_TITLES, Gain, ScoreTable, choose_baseline
from re_llm.report.variant_sections import Variants, variant_blocks, variants

STAGE = "report 5"  # the number rises when the same scores begin to give another report
PARTS = ("report.html", "report.md", "results.json", "tables.tex", "figures")


@dataclass
class WrittenReport(Made):
    """Where the report is: `page` is its HTML page, `numbers` its results.json; None for a page that was not wanted.

    Attributes:
        doubts: what is not as the stages made it.
    """

    out: Path
    pages: bool = True
    doubts: list[str] = field(default_factory=list)

    @property
    def page(self) -> Path | None:
        return self.out / "report.html" if self.pages else None

    @property
    def numbers(self) -> Path:
        return self.out / "results.json"


def write_report(
    scores: Sequence[Path],
    replies: Sequence[Path],
    out_dir: Path,
    *,
    baseline: str | None = None,
    common: bool = False,
    training: Sequence[Path] = (),
    pages: bool = True,
    title: str = "Report",
    shown: ShownOptions | None = None,
    judged: Sequence[Path] = (),
    gold: Sequence[Path] = (),
    provenance: Mapping[str, Any] | None = None,
    overwrite: Overwrite = Overwrite.NO,
) -> WrittenReport:
    """Writes the report of some scores and the replies that they are of.

    Args:
        replies: may be empty; then the report has no audits and no examples.
        baseline: system that the others are tested against; None for the fine-tuned BLSP-Emo if it was scored.
        common: compare systems on the items that all of them have, where they have different ones.
        training: manifests or continuations that any of the systems was trained on, for the leakage check.
        pages: false for results.json alone.
        shown: tables, comparisons and cases that a recipe asks for, in front of Table I.
        judged: a judge's comparisons of two systems each, for `shown`.
        gold: files with gold levels of the replies (`re_llm.evaluate.gold`).
        provenance: what the reader needs to make the numbers again (`re_llm.core.provenance.provenance`).
        overwrite: what happens to a report that was made from something else.

    Raises:
        RellmError: a file is broken or holds nothing, the baseline has no scores, the systems have different items, or
            there is a report that was made from something else and may not be overwritten.
    """
    out = Path(out_dir)
    read = [existing(path) for path in (*scores, *replies, *training, *judged, *gold)]
    settings: dict[str, Any] = {"baseline": baseline, "common": common, "pages": pages, "title": title}
    product = Product(
        out,
        STAGE,
        inputs={f"{number} {short_name(path)}": file_hash(path) for number, path in enumerate(read)},
        settings=settings | ({"shown": shown.model_dump(mode="json")} if shown else {}),
        names={"baseline": "--baseline", "common": "--common", "pages": "--format", "title": "--title"},
        parts=PARTS,
    )
    with product.making(overwrite) as before:
        if before.state is State.SAME:
            return product.stored(WrittenReport)
        found = _Found.of(scores, replies, training, gold, baseline, common)
        found.wanted, found.wins = shown, all_wins(found.table, shown, judged) if shown else []
        doubtful = doubts(read[: len(scores)], read[len(scores) : len(scores) + len(replies)])
        made = partial(provenance_blocks, files=[*scores, *replies, *gold], doubts=doubtful)
        blocks = partial(_blocks, found, out, title, provenance or {}, made) if pages else None
        told = {"title": title} | ({"doubts": doubtful} if doubtful else {})
        page.write_page(out, title, told | found.numbers(), blocks)
        report = WrittenReport(out=out, pages=pages, doubts=doubtful, remade=before.why)
        product.finish(report)
    return report


@dataclass
class _Found:
    """Everything that a report shows.

    Attributes:
        checked: training data was named for the leakage check.
        wanted: what a recipe asks for, with the comparisons that it names.
    """

    table: ScoreTable
    baseline: str | None
    gains: list[Gain]
    sliced: list[Sliced]
    spoken: Replies
    conflicts: list[Conflict]
    calibrated: list[Calibrated]
    audits: list[AuditedGroup]
    leaks: list[LeakedCorpus]
    checked: bool
    dialogues: list[Remembered] = field(default_factory=list)
    wanted: ShownOptions | None = None
    wins: list[Wins] = field(default_factory=list)
    variants: Variants = field(default_factory=Variants)
    gold: GoldFound = field(default_factory=GoldFound)

    @classmethod
    def of(
        cls,
        scores: Sequence[Path],
        replies: Sequence[Path],
        training: Sequence[Path],
        gold: Sequence[Path],
        baseline: str | None,
        common: bool,
    ) -> _Found:
        table = read_scores([Path(path) for path in scores], common=common)
        against = choose_baseline(table, baseline)
        spoken = read_replies(replies)
        about = about_items(spoken)
        table.speakers = {place: reply.speaker for place, reply in about.items() if reply.speaker}
        return cls(
            table,
            against,
            table.gains(against) if against else [],
            slices(table, about),
            spoken,
            conflicts(spoken),
            calibrations(spoken),
            audited(table, spoken),
            leaked(spoken, training) if training else [],
            bool(training),
            remembered(spoken),
            variants=variants(table, spoken),
            gold=beside_gold(table, spoken, gold),
        )

    def numbers(self) -> dict[str, Any]:
        """Every number of the report, for machines."""
        cells = [
            {"system": system, "corpus": corpus, "metric": metric, **asdict(cell)}
            for corpus, system in self.table.groups_present
            for metric in METRIC_TITLES
            if (cell := self.table.cell(system, corpus, metric))
        ]
        lists: dict[str, Sequence[Any]] = {
            "gains": self.gains, "slices": self.sliced, "conflict": self.conflicts, "audits": self.audits,
            "leakage": self.leaks, "calibration": self.calibrated,
            "dialogues": self.dialogues, "wins": self.wins,
            "dose": self.variants.doses, "variants": self.variants.compared,
            "gold": self.gold.beside, "gold_right_tone": self.gold.tones,
        }  # fmt: skip
        rows = {name: [asdict(each) for each in found] for name, found in lists.items()}
        return {"baseline": self.baseline, "cells": cells, **rows, "gold_unmatched": self.gold.unmatched}


def _blocks(
    found: _Found, out: Path, title: str, provenance: Mapping[str, Any], made: Callable[[dict[str, Any]], list[Block]]
) -> list[Block]:
    table, against = found.table, found.baseline
    return [
        Heading(1, quote(title)),
        *introduction(table, against),
        *(recipe_blocks(table, found.spoken, found.wanted, found.wins, out) if found.wanted else []),
        *table_one(table, found.gains, against),
        *gain_blocks(found.gains, against),
        *weakness_blocks(table),
        *truncation_blocks(table),
        *recognition_blocks(table, out),
        *dimension_blocks(table, out),
        *transcript_blocks(table),
        *reference_blocks(table),
        *judge_blocks(table),
        *calibration_blocks(found.calibrated, out),
        *variant_blocks(found.variants, out),
        *level_blocks(table, out),
        *gold_blocks(found.gold),
        *conflict_blocks(found.conflicts, out),
        *dialogue_blocks(found.dialogues),
        *slice_blocks(found.sliced),
        *audit_blocks(found.audits),
        *leakage_blocks(found.spoken, found.leaks, found.checked),
        *example_blocks(table, found.spoken, against),
        *paper_blocks(),
        *made({**provenance, "prompts": prompts_of(found.spoken)}),
    ]
