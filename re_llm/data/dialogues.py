"""Dialogues of several turns in a manifest, as BLSP-Emo builds them from IEMOCAP (section 4.1).

Two speakers in turn: the first one is the user, the second one the assistant. Utterances of one speaker that follow
each other are one turn. What is answered is the user's last turn, of which the first utterance is taken: one recording,
one label. A row of the file is that utterance, with `history`, what was said before; it is a manifest like any other.
Dialogues do not overlap, so no turn counts twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from re_llm.audio.source import moved
from re_llm.core.dialogues import DIALOGUES, Earlier, first_emotion
from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.product import Made, Overwrite, Product, State
from re_llm.core.records import Utterance, read_records, write_records

STAGE = "dialogues 1"  # the number rises when the same manifest begins to give other dialogues

Turn = list[Utterance]  # of one speaker


@dataclass
class DialogueReport(Made):
    """What `write_dialogues` did.

    Attributes:
        rows: dialogues. first_known: of them, those whose first turn has an emotion.
        emotions: of the last turns. dropped: places where no dialogue could be made, by reason.
    """

    out: Path
    rows: int = 0
    first_known: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    emotions: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """For a person."""
        counts = (("splits", self.splits), ("emotions", self.emotions), ("no dialogue", self.dropped))
        lines = [f"  {name:12} {', '.join(f'{k} {n}' for k, n in each.items()) or 'none'}" for name, each in counts]
        first = f"the emotion of the first turn is known in {self.first_known}"
        return "\n".join([f"{self.rows} dialogues in {self.out}; {first}", *lines])


def write_dialogues(
    manifest: Path,
    out: Path,
    *,
    turns: int = 3,
    emotions: Sequence[str] = PROMPT_EMOTIONS,
    overwrite: Overwrite = Overwrite.NO,
) -> DialogueReport:
    """Writes the dialogues that are in a manifest.

    Args:
        manifest: with `dialogue`, `turn`, `speaker` and `text`. A protocol leaves out utterances, over whose gap no
            dialogue goes: prepare the corpus without one.
        turns: of the user's.
        emotions: that the last turn may have.

    Raises:
        RellmError: the manifest is broken or holds no dialogue; or `out` was made from something else.
    """
    if turns < 1:
        raise RellmError(f"turns is {turns}", allowed="1 and more")
    product = Product(
        out,
        STAGE,
        inputs={"manifest": file_hash(manifest)},
        settings={"turns": turns, "emotions": list(emotions)},
        names={"manifest": str(manifest), "turns": "--turns"},
    )
    with product.making(overwrite) as before:
        if before.state is State.SAME:
            return product.stored(DialogueReport)
        dropped: Counter[str] = Counter()
        rows = [
            row.model_copy(update=_placed(row, manifest.parent, out.parent))
            for dialogue in _dialogues(manifest, dropped)
            for row in _cut(dialogue, turns, emotions, dropped)
        ]
        if not rows:
            reasons = ", ".join(f"{name} {count}" for name, count in dropped.items())
            raise RellmError(
                f"{manifest} holds no dialogue of {turns} turns ({reasons or 'no rows'})",
                todo="Prepare a corpus of dialogues (iemocap, meld) without --protocol",
            )
        report = DialogueReport(out, len(rows), remade=before.why, dropped=dict(dropped))
        report.first_known = sum(first_emotion(row.history or []) is not None for row in rows)
        report.splits = dict(Counter(row.split for row in rows))
        report.emotions = dict(Counter(str(row.emotion) for row in rows))
        write_records(out, rows)
        product.finish(report)
    return report


def _dialogues(manifest: Path, dropped: Counter[str]) -> Iterator[list[Utterance]]:
    """Utterances of every dialogue, in their order."""
    found: dict[tuple[str, str], list[Utterance]] = {}
    for row in read_records(manifest, Utterance):
        if row.dialogue is None or row.turn is None:
            dropped["utterance without dialogue and turn"] += 1
        else:
            found.setdefault((row.corpus, row.dialogue), []).append(row)
    for rows in found.values():
        yield sorted(rows, key=lambda row: row.turn or 0)


def _runs(rows: Sequence[Utterance], dropped: Counter[str]) -> Iterator[list[Turn]]:
    """Turns that follow each other without a gap."""
    run: list[Turn] = []
    last: Utterance | None = None
    for row in rows:
        usable = bool(row.text and row.text.strip() and row.speaker)
        if not usable:
            dropped["utterance without text or speaker"] += 1
        if last is not None and (not usable or (row.turn or 0) != (last.turn or 0) + 1):
            yield run
            run, last = [], None
        if usable:
            if last is not None and row.speaker == last.speaker:
                run[-1].append(row)
            else:
                run.append([row])
            last = row
    if run:
        yield run


def _cut(rows: Sequence[Utterance], turns: int, emotions: Sequence[str], dropped: Counter[str]) -> Iterator[Utterance]:
    """Last turns of the dialogues in one conversation, with their history."""
    length = 2 * turns - 1
    for run in _runs(rows, dropped):
        start = 0
        while start + length <= len(run):
            window = run[start : start + length]
            why = _unfit(window, emotions)
            if why is None:
                yield _row(window)
            else:
                dropped[why] += 1
            start += 1 if why else length


def _unfit(window: Sequence[Turn], emotions: Sequence[str]) -> str | None:
    """Why turns are no dialogue; None when they are one."""
    if len({turn[0].speaker for turn in window}) > 2:
        return "more than two speakers"
    if len({row.split for turn in window for row in turn}) > 1:
        return "several splits"
    last = window[-1][0].emotion
    return None if last in emotions else f"last turn {last or 'without an emotion'}"


def _row(window: Sequence[Turn]) -> Utterance:
    history = [
        Earlier(
            role="assistant" if number % 2 else "user", text=(row.text or "").strip(), key=row.key, audio=row.audio,
            start=row.start, duration=row.duration, speaker=row.speaker, emotion=row.emotion,
        )
        for number, turn in enumerate(window[:-1])
        for row in turn
    ]  # fmt: skip
    last = window[-1][0]
    return last.model_copy(update={"corpus": last.corpus + DIALOGUES, "history": history})


def _placed(row: Utterance, old: Path, new: Path) -> Mapping[str, object]:
    """The row's recordings, relative to another folder."""
    history = [
        each.model_copy(update={"audio": each.audio and moved(each.audio, old, new)}) for each in row.history or []
    ]
    return {"audio": moved(row.audio, old, new), "history": history}
