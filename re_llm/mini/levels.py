"""Gold levels of the miniature's replies, as files for a report, and beside those of a scorer.

Replies of the miniature world carry their levels of emotional reaction, interpretation and exploration by EPITOME's
definitions (`answers.Part`), so a scorer can be judged on them, and a system without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.core.records import ReplyRecord, read_records, write_records
from re_llm.evaluate.empathy.epitome import MECHANISMS
from re_llm.evaluate.gold import Agreement, GoldRow, agreement
from re_llm.mini.grammar import emotion_of, gold_levels, levels_hash

STAGE = "gold 1"  # the number rises when the same replies begin to get other rows
# Transcripts and replies to levels by mechanism: of a scorer of re_llm.evaluate.empathy.
Scores = Callable[[Sequence[str], Sequence[str]], Sequence[Mapping[str, int]]]


@dataclass
class GoldReport(Made):
    """What `write_gold` did. rows: replies with levels; others: replies that are none of this world's."""

    out: Path
    rows: int = 0
    others: int = 0

    def summary(self) -> str:
        """For a person."""
        lacking = f"{self.others} replies are none of this world's, word for word"
        return f"gold levels of {self.rows} replies in {self.out}; {lacking}"


def gold_row(reply: ReplyRecord) -> GoldRow | None:
    """The levels with which a reply was written, and whether its tone fits; None for none of this world's replies."""
    levels = gold_levels(reply.response)
    if levels is None:
        return None
    fits = emotion_of(reply.response) == reply.emotion if reply.emotion else None
    return GoldRow(key=reply.key, system=reply.system, corpus=reply.corpus, seed=reply.seed, right_tone=fits, **levels)


def _of(paths: Iterable[Path]) -> Iterator[GoldRow | None]:
    """The levels of all replies; a record without a reply, of recognition alone, is left out."""
    for path in paths:
        yield from (gold_row(reply) for reply in read_records(path, ReplyRecord) if reply.response)


def has_gold(replies: Iterable[Path]) -> bool:
    """Whether any reply is one of this world's."""
    return any(row is not None for row in _of(replies))


def write_gold(replies: Sequence[Path], out: Path, *, overwrite: Overwrite = Overwrite.NO) -> GoldReport:
    """Writes the gold levels of replies, for `re-llm report --gold`.

    Raises:
        RellmError: a file of replies is broken, no reply is one of this world's, or `out` was made from something else.
    """
    inputs = {f"replies {number}": file_hash(path) for number, path in enumerate(replies)}
    product = Product(out, STAGE, inputs, {"levels": levels_hash()}, {"levels": "the levels of this world's replies"})
    with product.making(overwrite) as before:
        if before.state is State.SAME:
            return product.stored(GoldReport)
        found = list(_of(replies))
        rows = [row for row in found if row is not None]
        if not rows:
            raise RellmError(
                f"none of {len(found)} replies is one of the miniature's world, word for word",
                todo="Give levels of your own to `re-llm report --gold`: see docs/evaluation.md",
            )
        write_records(out, rows)
        report = GoldReport(out, len(rows), len(found) - len(rows), remade=before.why)
        product.finish(report)
    return report


@dataclass(frozen=True)
class InTone(Agreement):
    """Agreement, and the mean gold level when a reply in another tone than the reference counts as 0."""

    gold_right_tone: float | None


@dataclass(frozen=True)
class GoldLevels:
    """Of one set of replies.

    Attributes:
        replies: those that are replies of the world; others: those that are none, and are left out.
        mechanisms: by ER, IP, EX.
    """

    replies: int
    others: int
    mechanisms: dict[str, InTone]


def small_scores(seekers: Sequence[str], responses: Sequence[str]) -> list[dict[str, int]]:
    """Levels by the small scorer."""
    from re_llm.evaluate.empathy.loading import load_scorer

    return [{m: each[m].level for m in MECHANISMS} for each in load_scorer("small").score(seekers, responses)]


def compare_levels(replies: Iterable[ReplyRecord], scores: Scores = small_scores) -> GoldLevels:
    """Gold levels of replies beside a scorer's."""
    every = list(replies)
    known = [(reply, row) for reply in every if (row := gold_row(reply)) is not None]
    if not known:
        return GoldLevels(0, len(every), {})
    scored = scores([reply.text or "" for reply, _ in known], [reply.response for reply, _ in known])
    found = {}
    for mechanism in MECHANISMS:
        written = [row.level(mechanism) or 0 for _, row in known]
        given = [levels[mechanism] for levels in scored]
        tones = [(level, row.right_tone) for level, (_, row) in zip(written, known, strict=True)]
        toned = [level * right for level, right in tones if right is not None]
        agreed = agreement(written, given, [row.key for _, row in known])
        found[mechanism] = InTone(**vars(agreed), gold_right_tone=fmean(toned) if toned else None)
    return GoldLevels(len(known), len(every) - len(known), found)
