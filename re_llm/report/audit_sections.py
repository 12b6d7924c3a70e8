"""Sections of a report that look behind its scores: habits of the replies, wrong emotions, trivial rules, leakage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, percent, quote
from re_llm.core.records import Record, ReplyRecord, Utterance, read_records
from re_llm.data.leakage import find_leakage, is_test
from re_llm.evaluate.audits import Audit, audit, named_emotion
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.empathy.measures import RULES
from re_llm.evaluate.empathy.truncation import truncate
from re_llm.report.reply_sections import Replies, in_order
from re_llm.report.tables import NO_CORPUS, ScoreTable, corpus_title, system_title

CUTS = (64, 128)  # tokens of a reply that are scored, beside all of them
# A rule that finds the levels of a mechanism without reading: what it is called, and its name in RULES.
TRIVIAL = {"EX": ("a question mark", "rule: a question mark -> 2"), "ER": ("“I'm sorry”", 'rule: "I\'m sorry" -> 2')}


@dataclass(frozen=True)
class AuditedGroup:
    """The replies of one system to one corpus.

    Attributes:
        ex: mean Ex by the small scorer at 64 tokens, at 128, and of whole replies.
        er_right: mean ER when a reply that names a wrong emotion counts as 0; er: mean ER of the same replies.
        rules: by mechanism, in which fraction of the replies the trivial rule is above level 0 where the scorer is.
        majority: WA of always naming the commonest reference emotion; wa: that of the system's answers.
    """

    system: str
    corpus: str
    audit: Audit
    ex: dict[str, float]
    er: float | None
    er_right: float | None
    rules: dict[str, float]
    majority: float | None
    wa: float | None


def audited(table: ScoreTable, spoken: Replies) -> list[AuditedGroup]:
    """Audits of every system and corpus, in the order of Table I."""
    found = []
    for system, corpus in in_order(spoken):
        replies = spoken[system, corpus]
        if not any(reply.response for reply in replies):
            continue  # the emotion alone was asked for
        levels = {m: _levels(table, system, corpus, m, replies) for m in ("ER", "EX")}
        er, er_right = _right_only(levels["ER"])
        found.append(AuditedGroup(
            system, corpus, audit([reply.response for reply in replies], [reply.emotion for reply in replies]),
            _ex_by_length(replies), er, er_right,
            {m: fmean((level > 0) == RULES[TRIVIAL[m][1]](r.response) for level, r in pairs)
             for m, pairs in levels.items() if pairs},
            *_majority(table, system, corpus),
        ))  # fmt: skip
    return found


def _levels(
    table: ScoreTable, system: str, corpus: str, metric: str, replies: Sequence[ReplyRecord]
) -> list[tuple[float, ReplyRecord]]:
    values = table.items.get((system, corpus, metric), {})
    return [(values[r.key, r.seed], r) for r in replies if (r.key, r.seed) in values]


def _right_only(levels: list[tuple[float, ReplyRecord]]) -> tuple[float | None, float | None]:
    """Mean level, and the mean when a reply that names a wrong emotion has level 0."""
    known = [(level, named_emotion(reply.response), reply.emotion) for level, reply in levels if reply.emotion]
    if not known:
        return None, None
    kept = [level if named in (None, emotion) else 0.0 for level, named, emotion in known]
    return fmean(level for level, *_ in known), fmean(kept)


def _majority(table: ScoreTable, system: str, corpus: str) -> tuple[float | None, float | None]:
    references = list(table.references(system, corpus).values())
    wa = table.cell(system, corpus, "WA")
    if not references or wa is None:
        return None, None
    return max(map(references.count, set(references))) / len(references), wa.mean


def _ex_by_length(replies: Sequence[ReplyRecord]) -> dict[str, float]:
    """Mean Ex of the first tokens of the replies and of all of them; what a cut leaves as it is is scored once."""
    texts = list(dict.fromkeys((r.text or "", cut(r.response)) for r in replies for cut in _CUTS.values()))
    scored = load_scorer("small").score([seeker for seeker, _ in texts], [text for _, text in texts])
    level = {text: each["EX"].level for text, each in zip(texts, scored, strict=True)}
    return {name: fmean(level[r.text or "", cut(r.response)] for r in replies) for name, cut in _CUTS.items()}


_CUTS: Mapping[str, Callable[[str], str]] = {**{str(n): partial(truncate, tokens=n) for n in CUTS}, "whole": str}


def audit_blocks(found: Sequence[AuditedGroup]) -> list[Block]:
    if not found:
        return []
    habits, tone, rules = [], [], []
    for each in found:
        own = each.audit
        names: Cells = [quote(corpus_title(each.corpus)), quote(system_title(each.system))]
        opening, often = own.most_common_opening
        habits.append([
            *names, str(own.count), percent(own.asks), percent(own.ends_asking), f"{own.words:.1f}",
            percent(own.over_64), percent(own.distinct), f"{own.distinct_1:.2f} / {own.distinct_2:.2f}",
            percent(own.repetition), Value(quote(opening + " …"), percent(often)),
        ])  # fmt: skip
        er = [NONE if value is None else f"{value:.3f}" for value in (each.er, each.er_right)]
        tone.append([*names, percent(own.named), percent(own.named_right), percent(own.named_wrong), *er])
        majority = NONE if each.majority is None else Value(percent(each.majority), f"system {percent(each.wa)}")
        rules.append([*names, *(percent(each.rules.get(m)) for m in TRIVIAL), majority,
                      *(f"{each.ex[cut]:.3f}" for cut in _CUTS)])  # fmt: skip
    return [
        Heading(2, "Audits"),
        *_without_levels(found),
        Table(["corpus", "system", "replies", "ask", "end asking", "words", "over 64", "distinct", "distinct 1 / 2",
               "repeated", "commonest opening"], habits, (0, 1, 10)),
        Paragraph(
            "ask: with a question mark; end asking: last sign is one. over 64: longer than the 64 tokens (about 48 "
            "words) that the original scorer sees. distinct: different replies; distinct 1 / 2: different words and "
            "pairs of words over all. repeated: fraction of a reply's runs of four words that it had before."
        ),
        Heading(3, "Does the reply name the right emotion?"),
        Table(["corpus", "system", "name one", "right", "wrong, of all", "ER", "ER, 0 where wrong"], tone, (0, 1)),
        Paragraph(
            "Replies that ascribe an emotion to the speaker (`you sound angry`); right: of these, those that name the "
            "reference emotion. EPITOME's ER does not ask whether the emotion is the right one: the last column does."
        ),
        Heading(3, "What trivial rules explain"),
        Table(["corpus", "system", *(f"{'Ex' if m == 'EX' else m} by {name}" for m, (name, _) in TRIVIAL.items()),
               "majority", *(f"Ex at {cut}" if cut != "whole" else "Ex whole" for cut in _CUTS)], rules, (0, 1)),
        Paragraph(
            "By a rule: fraction of the replies that the rule puts above level 0 or at level 0 as the scorer does; "
            "near 100 % the score measures the sign. majority: accuracy of always naming the commonest emotion. Ex at "
            "64 and 128 tokens and of whole replies, by the small scorer."
        ),
    ]  # fmt: skip


def _without_levels(found: Sequence[AuditedGroup]) -> list[Block]:
    """Says which replies have levels that mean nothing."""
    blocks: list[Block] = []
    counts: dict[str, Callable[[Audit], int]] = {
        "Empty replies, whose levels are 0": lambda own: own.empty,
        "Replies that do not look English, the scorers' only language": lambda own: own.not_english,
    }
    for what, count in counts.items():
        each = [
            f"{system_title(group.system)} on {corpus_title(group.corpus)}: {count(group.audit)} of {group.audit.count}"
            for group in found
            if count(group.audit)
        ]
        blocks += [Paragraph(quote(f"{what}: {'; '.join(each)}."))] if each else []
    return blocks


@dataclass(frozen=True)
class LeakedCorpus:
    """Test items of a corpus that training data hold as well.

    Attributes:
        recordings, speakers, sentences: items whose key, speaker or words stand in the training data.
        unknown: items without a speaker or with words too few to compare, in this order.
    """

    corpus: str
    items: int
    recordings: int
    speakers: int
    sentences: int
    unknown: tuple[int, int]


class _Trained(Record):
    """A row of a manifest or of continuations."""

    corpus: str | None = None
    split: str = "train"
    audio: str = ""
    text: str | None = None
    speaker: str | None = None


def leaked(spoken: Replies, training: Iterable[Path]) -> list[LeakedCorpus]:
    """Compares the replies' utterances with training rows (manifests or continuations, without their test splits)."""
    rows = [row for path in training for row in read_records(path, _Trained) if not is_test(row.split)]
    keys = {(row.corpus or NO_CORPUS, row.key) for row in rows}
    tested: dict[str, dict[str, ReplyRecord]] = {}
    for (_, corpus), replies in spoken.items():
        tested.setdefault(corpus, {}).update({reply.key: reply for reply in replies})
    found = []
    for corpus, replies_by_key in tested.items():
        overlaps = find_leakage(map(_utterance, rows), map(_utterance, replies_by_key.values())).overlaps
        speaker, words = overlaps["speaker"], overlaps["sentence"]
        same = sum((corpus, key) in keys for key in replies_by_key)
        unknown = speaker.unknown, words.unknown
        found.append(LeakedCorpus(corpus, len(replies_by_key), same, speaker.test_rows, words.test_rows, unknown))
    return found


def _utterance(row: _Trained | ReplyRecord) -> Utterance:
    corpus = row.corpus or NO_CORPUS
    return Utterance(key=row.key, corpus=corpus, split="", audio=row.key, text=row.text, speaker=row.speaker)


def leakage_blocks(spoken: Replies, found: Sequence[LeakedCorpus], checked: bool) -> list[Block]:
    if not spoken:
        return []
    heading = Heading(3, "Leakage")
    if not checked:
        return [heading, Paragraph("Not checked: no training data was named (`--training`).")]
    rows: list[Cells] = [
        [quote(corpus_title(each.corpus)), str(each.items), *map(str, (each.recordings, each.speakers, each.sentences)),
         *map(str, each.unknown)]
        for each in found
    ]  # fmt: skip
    note = (
        "Test items whose recording (by its key), speaker or words the training data hold as well; and items that "
        "could not be compared: without a speaker, or with fewer than four words. `re-llm prepare check` compares the "
        "sound."
    )
    header = ["corpus", "items", "recording", "speaker", "words", "speaker unknown", "too few words"]
    return [heading, Table(header, rows), Paragraph(note)]
