"""Section of a report: gold levels of the replies beside the scorer's, their agreement, and ER in the right tone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, percent, quote
from re_llm.core.records import ReplyRecord
from re_llm.evaluate.audits import named_emotion
from re_llm.evaluate.empathy.epitome import LEVELS, MECHANISMS
from re_llm.evaluate.gold import Agreement, Gold, Place, agreement, match_gold
from re_llm.report.reply_sections import Replies
from re_llm.report.tables import METRIC_TITLES, ScoreTable, corpus_title, system_title

NAMED_ROWS = 5
Levels = Mapping[Place, int]


@dataclass(frozen=True)
class GoldBeside:
    """One mechanism of the replies of one system (None: of all systems) to one corpus.

    Attributes:
        without: replies that were scored and have no gold level. agreement: None where none has one.
    """

    system: str | None
    corpus: str
    mechanism: str
    without: int
    agreement: Agreement | None


@dataclass(frozen=True)
class RightTone:
    """Mean ER of the replies of which gold level and tone are known, and when those in a wrong tone count as 0.

    Attributes:
        annotated: the tone stands in the file of gold levels; false: a reply that names a wrong emotion is in a wrong
            tone, and one that names none is not.
        right: fraction in the right tone.
    """

    system: str
    corpus: str
    replies: int
    annotated: bool
    right: float
    gold: float
    gold_right: float
    scorer: float
    scorer_right: float


@dataclass(frozen=True)
class GoldFound:
    """Everything that gold levels tell. unmatched: file and line of rows that are about no reply that was scored."""

    beside: list[GoldBeside] = field(default_factory=list)
    tones: list[RightTone] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)


def beside_gold(table: ScoreTable, spoken: Replies, paths: Sequence[Path]) -> GoldFound:
    """Compares the scores of a report with the gold levels of some files; nothing without files.

    Raises:
        RellmError: see `re_llm.evaluate.gold.match_gold`.
    """
    if not paths:
        return GoldFound()
    scored = {
        mechanism: {
            (system, corpus, key, seed): round(value)
            for (system, corpus, metric), values in table.items.items()
            if metric == mechanism
            for (key, seed), value in values.items()
        }
        for mechanism in MECHANISMS
    }
    gold = match_gold(paths, dict.fromkeys(place for levels in scored.values() for place in levels))
    found = GoldFound(unmatched=[Path(where).name for where in gold.unmatched])
    for corpus in table.corpora:
        systems = [system for each, system in table.groups_present if each == corpus]
        for system in [*systems, *([None] if len(systems) > 1 else [])]:
            for mechanism, every in scored.items():
                own = {p: level for p, level in every.items() if p[1] == corpus and system in (None, p[0])}
                if own:
                    found.beside.append(_beside(system, corpus, mechanism, own, gold))
        told = {(s, c, r.key, r.seed): r for (s, c), each in spoken.items() if c == corpus for r in each}
        found.tones.extend(_tones(corpus, systems, scored["ER"], gold, told))
    return found


def _beside(system: str | None, corpus: str, mechanism: str, scored: Levels, gold: Gold) -> GoldBeside:
    both = {
        place: level
        for place in scored
        if (row := gold.rows.get(place)) and (level := row.level(mechanism)) is not None
    }
    agreed = None
    if both:
        agreed = agreement(list(both.values()), [scored[place] for place in both], [key for _, _, key, _ in both])
    return GoldBeside(system, corpus, mechanism, len(scored) - len(both), agreed)


def _tones(
    corpus: str, systems: Iterable[str], scored: Levels, gold: Gold, told: Mapping[Place, ReplyRecord]
) -> Iterable[RightTone]:
    """ER in the right tone, of every system where tone and level of a reply are known."""
    for system in systems:
        rows = {p: row for p, row in gold.rows.items() if p[:2] == (system, corpus) and p in scored}
        annotated = any(row.right_tone is not None for row in rows.values())
        tones = {p: row.right_tone if annotated else _names_right(told.get(p)) for p, row in rows.items()}
        known = [
            (row.er, scored[p], right)
            for p, row in rows.items()
            if row.er is not None and (right := tones[p]) is not None
        ]
        if known:
            yield RightTone(
                system, corpus, len(known), annotated, fmean(right for *_, right in known),
                fmean(level for level, *_ in known), fmean(level * right for level, _, right in known),
                fmean(level for _, level, _ in known), fmean(level * right for _, level, right in known),
            )  # fmt: skip


def _names_right(reply: ReplyRecord | None) -> bool | None:
    """Whether a reply names no wrong emotion; None where its reference is not known."""
    if reply is None or not reply.emotion:
        return None
    return named_emotion(reply.response) in (None, reply.emotion)


def _names(corpus: str, system: str | None) -> Cells:
    return [quote(corpus_title(corpus)), "all" if system is None else quote(system_title(system))]


def _agreement_row(each: GoldBeside) -> Cells:
    names = [*_names(each.corpus, each.system), METRIC_TITLES[each.mechanism]]
    found = each.agreement
    if found is None:
        return [*names, *[NONE] * 4, "0", str(each.without)]
    kappa: Value | str = NONE
    if found.kappa is not None and found.interval:
        kappa = Value(f"{found.kappa:.2f}", f"[{found.interval[0]:.2f}, {found.interval[1]:.2f}]")
    means = [f"{found.gold:.3f}", f"{found.scorer:.3f}"]
    return [*names, *means, percent(found.accuracy), kappa, str(found.replies), str(each.without)]


def _confusion_rows(found: Sequence[GoldBeside]) -> list[Cells]:
    """Gold level by the scorer's level, over all systems of a corpus."""
    rows: list[Cells] = []
    corpora_of_several = {each.corpus for each in found if each.system is None}
    for each in found:
        if each.agreement and (each.system is None or each.corpus not in corpora_of_several):
            for level, counts in enumerate(each.agreement.confusion):
                names = [quote(corpus_title(each.corpus)), METRIC_TITLES[each.mechanism], str(level)]
                rows.append([*names, *map(str, counts), str(sum(counts))])
    return rows


def gold_blocks(found: GoldFound) -> list[Block]:
    """The section; nothing without gold levels."""
    if not found.beside:
        return []
    header = ["corpus", "system", "score", "gold", "scorer", "the same level", "kappa", "with gold", "without"]
    blocks: list[Block] = [
        Heading(2, "Gold levels beside the scorer"),
        Table(header, [_agreement_row(each) for each in found.beside], (0, 1, 2)),
        Paragraph(
            "Gold: levels that people gave to the replies or wrote them with. gold and scorer: mean levels of the same "
            "replies, those with a gold level; kappa: Cohen's with quadratic weights and its 95 % bootstrap interval "
            "over utterances (those of several systems and seeds are drawn together); none where one side has one "
            "level only. What is without gold is in no number of this section."
        ),
        Heading(3, "Gold levels by the scorer's"),
        Table(["corpus", "score", "gold level", *(f"scorer {n}" for n in range(LEVELS)), "replies"],
              _confusion_rows(found.beside), (0, 1, 2)),
    ]  # fmt: skip
    if found.unmatched:
        named = ", ".join(quote(where) for where in found.unmatched[:NAMED_ROWS])
        more = f" and {len(found.unmatched) - NAMED_ROWS} more" if len(found.unmatched) > NAMED_ROWS else ""
        blocks.append(Paragraph(f"Gold levels of no reply that was scored or compared: {named}{more}."))
    return [*blocks, *_tone_blocks(found.tones)]


def _tone_blocks(tones: Sequence[RightTone]) -> list[Block]:
    if not tones:
        return []
    rows: list[Cells] = [
        [*_names(each.corpus, each.system), str(each.replies), "annotated" if each.annotated else "emotion named",
         percent(each.right),
         *(f"{mean:.3f}" for mean in (each.gold, each.gold_right, each.scorer, each.scorer_right))]
        for each in tones
    ]  # fmt: skip
    header = ["corpus", "system", "replies", "tone by", "right tone", "gold", "gold, 0 where wrong", "scorer",
              "scorer, 0 where wrong"]  # fmt: skip
    note = (
        "A reply in a wrong tone shows no empathy with this speaker: its ER counts as 0. The tone stands in the file "
        "of gold levels (`right_tone`); where no reply of a system has it, a reply that names a wrong emotion is in a "
        "wrong tone."
    )
    return [Heading(3, "ER counted only where the tone is right"), Table(header, rows, (0, 1, 3)), Paragraph(note)]
