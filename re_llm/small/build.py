"""`re-llm small build`: makes the small model from real parts, stage by stage; resumable, gated, and written down.

OUT/text/dialogues.jsonl    what the LLM wrote
OUT/text/sentences.jsonl    all sentences, with their source and split
OUT/speech/rendered.jsonl   what has been rendered so far, OUT/speech/SPEAKER/KEY.flac
OUT/speech/voices.jsonl     how well Whisper understands each voice
OUT/speech/manifest.jsonl   the recordings of the voices that it understands
OUT/rooms/manifest.jsonl    the same, most of the training with rooms, noise, bands, codecs: what training reads
OUT/drawn/manifest.jsonl    its training rows, each with an emotion in which it is to be answered
OUT/build.json              figures of every stage, and what they were checked against
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.files import write_json
from re_llm.core.parts import resolve_part
from re_llm.core.provenance import provenance
from re_llm.core.records import Utterance, read_records
from re_llm.small.speakers import ENGINES

Log = Callable[[str], None]
Figures = dict[str, object]

HOURS = 23.0  # rendered for training, so that 20 are left when voices are dropped
DIALOGUES, FACTS, MINIATURE = 1600, 3000, 1500
WORDS, TIMES = 8000, 4  # common words, and how often each is said in a list of words


@dataclass(frozen=True)
class Job:
    """What a build is made of."""

    out: Path
    epitome: Path | None = None
    """Folder of EPITOME's tables; without it the text lacks that source."""
    wordnet: Path | None = None
    """Folder of WordNet's files `data.*`, likewise."""
    engines: tuple[str, ...] = ENGINES
    scale: float = 1.0
    """Size; below 1 to try the build."""
    hours: float | None = None
    """Of speech for the training; None = `HOURS` by the scale."""
    dialogues: int | None = None
    """That the LLM writes; None = `DIALOGUES` by the scale."""
    seed: int = 0
    copies: int = 3
    """Of each recording of the training, disturbed in different ways."""
    workers: int = 1
    """Processes that speak and disturb."""


@dataclass(frozen=True)
class Gate:
    """What a figure must reach before the next stage begins."""

    figure: str
    least: float
    scaled: bool = True
    """Whether a smaller build needs less of it."""


def write_text(job: Job, say: Log) -> Figures:
    """Stage `text`: sentences of all sources."""
    from re_llm.small import text
    from re_llm.small.dialogues import write_dialogues
    from re_llm.small.facts import facts
    from re_llm.small.vocabulary import common_words, word_lists

    folder = job.out / "text"
    written = folder / "dialogues.jsonl"
    wanted = round(DIALOGUES * job.scale) if job.dialogues is None else job.dialogues
    write_dialogues(resolve_part("llm-base"), written, count=wanted, seed=job.seed, say=say)
    if job.epitome is None:
        say("text: without EPITOME's posts (--epitome FOLDER)")
    if job.wordnet is None:
        say("text: without WordNet's examples (--wordnet FOLDER)")
    sources = {
        **({"epitome": text.epitome(job.epitome)} if job.epitome else {}),
        "facts": facts(round(FACTS * job.scale), job.seed),
        "miniature": text.miniature(round(MINIATURE * job.scale), job.seed),
        **({"dialogues": text.dialogues(written)} if wanted else {}),
        "words": word_lists(common_words(round(WORDS * job.scale)), TIMES, job.seed),
        **({"wordnet": text.wordnet(job.wordnet)} if job.wordnet else {}),
        **({"answers": text.epitome(job.epitome, "response")} if job.epitome else {}),
    }
    counts = text.write_sentences(folder / "sentences.jsonl", sources, trained=("words", "wordnet", "answers"))
    for source, count in counts.items():
        say(f"text: {source}: " + ", ".join(f"{number} {what}" for what, number in count.items()))
    splits = Counter(sentence.split for sentence in read_records(folder / "sentences.jsonl", text.Sentence))
    return {"sentences": splits.total(), "held_out": splits["dev"] + splits["test"], "sources": counts}


def render_speech(job: Job, say: Log) -> Figures:
    """Stage `speech`: the sentences, spoken."""
    from re_llm.small.render import render

    rendered = job.out / "speech" / "rendered.jsonl"
    sentences = job.out / "text" / "sentences.jsonl"
    hours = HOURS * job.scale if job.hours is None else job.hours
    render(sentences, rendered, engines=job.engines, hours=hours, seed=job.seed, workers=job.workers, say=say)
    return _figures_of(rendered)


def check_voices(job: Job, say: Log) -> Figures:
    """Stage `voices`: Whisper listens, and the voices that it does not understand are left out."""
    from re_llm.small.listen import keep_understood, listen

    folder = job.out / "speech"
    voices = listen(folder / "rendered.jsonl", resolve_part("whisper"), folder / "voices.jsonl", say=say)
    dropped = keep_understood(folder / "rendered.jsonl", voices, folder / "manifest.jsonl")
    say(f"voices: {len(voices) - len(dropped)} understood, left out: {', '.join(dropped) or 'none'}")
    return {**_figures_of(folder / "manifest.jsonl"), "dropped": dropped}


def disturb_speech(job: Job, say: Log) -> Figures:
    """Stage `rooms`: the recordings as they would arrive."""
    from re_llm.small.rooms import Disturbed, disturb_all

    manifest = job.out / "rooms" / "manifest.jsonl"
    spoken = job.out / "speech" / "manifest.jsonl"
    disturb_all(spoken, manifest, seed=job.seed, copies=job.copies, workers=job.workers, say=say)
    trained = [row.disturbed for row in read_records(manifest, Disturbed) if row.split == "train"]
    dry = sum(what == "dry" for what in trained)
    return {"train_hours": _figures_of(manifest)["train_hours"], "disturbed": round(1 - dry / max(1, len(trained)), 3)}


def draw(job: Job, say: Log) -> Figures:
    """Stage `drawn`: an emotion for every recording of the training."""
    from re_llm.small.drawn import draw_emotions

    disturbed, drawn = (job.out / stage / "manifest.jsonl" for stage in ("rooms", "drawn"))
    return {"rows": draw_emotions(disturbed, drawn, seed=job.seed)}


def _figures_of(manifest: Path) -> Figures:
    """Hours and voices of a manifest, by split."""
    seconds: dict[str, float] = defaultdict(float)
    voices: dict[str, set[str]] = defaultdict(set)
    by_voice: dict[str, float] = defaultdict(float)
    for row in read_records(manifest, Utterance):
        seconds[row.split] += row.duration or 0.0
        by_voice[str(row.speaker)] += row.duration or 0.0
        voices[row.split].add(str(row.speaker))
    return {
        "train_hours": round(seconds["train"] / 3600, 2),
        "train_voices": len(voices["train"]),
        "unseen_voices": len((voices["dev"] | voices["test"]) - voices["train"]),
        "minutes_by_voice": {voice: round(length / 60, 1) for voice, length in sorted(by_voice.items())},
    }


STAGES: Mapping[str, tuple[Callable[[Job, Log], Figures], tuple[Gate, ...]]] = {
    "text": (write_text, (Gate("sentences", 12_000), Gate("held_out", 400))),
    "speech": (render_speech, (Gate("train_hours", 20), Gate("train_voices", 12, scaled=False))),
    "voices": (
        check_voices,
        (
            Gate("train_hours", 20), Gate("train_voices", 12, scaled=False), Gate("unseen_voices", 2, scaled=False),
        ),
    ),
    "rooms": (disturb_speech, (Gate("train_hours", 20), Gate("disturbed", 0.5, scaled=False))),
    "drawn": (draw, (Gate("rows", 10_000),)),
}  # fmt: skip


def build(job: Job, *, stages: Sequence[str] = tuple(STAGES), say: Log = lambda line: None) -> dict[str, Figures]:
    """Runs the stages in their order and checks each; what an earlier run has done is not done again.

    Returns:
        The figures of each stage, which `OUT/build.json` holds as well.

    Raises:
        RellmError: a part or package is missing, a stage is unknown, or a figure is below its gate.
    """
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise RellmError(f"there is no stage {unknown[0]!r}", allowed=", ".join(STAGES))
    job.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Figures] = {}
    for name, (run, gates) in STAGES.items():
        if name not in stages:
            continue
        say(f"== {name}")
        started = time.monotonic()
        found[name] = {**run(job, say), "seconds": round(time.monotonic() - started)}
        _write_down(job, name, found[name])
        for gate in gates:
            _check(name, gate, found[name], job.scale)
    return found


def choose_engines(without: Sequence[str]) -> tuple[str, ...]:
    """The synthesisers that are left.

    Raises:
        RellmError: one of those to leave out is unknown, or none is left.
    """
    unknown = [name for name in without if name not in ENGINES]
    left = tuple(name for name in ENGINES if name not in without)
    if unknown or not left:
        what = f"there is no synthesiser {unknown[0]!r}" if unknown else "no synthesiser is left"
        raise RellmError(what, allowed=f"--without some of {', '.join(ENGINES)}")
    return left


def _check(stage: str, gate: Gate, figures: Figures, scale: float) -> None:
    least = gate.least * min(1.0, scale) if gate.scaled else gate.least
    value = figures[gate.figure]
    assert isinstance(value, int | float), f"{gate.figure} of {stage} is {value!r}"
    if value < least:
        raise RellmError(f"the stage {stage} ended with {gate.figure} {value}", allowed=f"{least:g} or more")


def _write_down(job: Job, stage: str, figures: Figures) -> None:
    """Adds a stage to `build.json`."""
    path = job.out / "build.json"
    known = json.loads(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    write_json(path, {**provenance(seed=job.seed), "stages": {**known, stage: figures}})
