"""Writes the miniature world to disk in the genuine layouts of four corpora, so that the real readers read it.

`iemocap`, `esd` and `msp_podcast` as their publishers pack them, odd cases included, and `speech` as Common Voice,
only with FLAC in place of MP3, which takes half the time to make. `truth.jsonl` beside them says how every recording
was made; it is for evaluation, and no reader opens it.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import soundfile
from rich.console import Console
from rich.progress import track

from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of, write_bytes
from re_llm.core.workers import process_pool
from re_llm.mini.casting import ESD_SPEAKERS, PLANS, Take
from re_llm.mini.grammar import world
from re_llm.mini.prosody import Prosody, posterior, vad
from re_llm.mini.voices import SAMPLE_RATE, Synthesizer, generator

CORPORA = tuple(PLANS)
WORLD_SIZE = 24_000
# Speaker tables of the genuine ESD come in different encodings and line ends.
ESD_ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-8")
ESD_LINE_ENDS = ("\n", "\r\n", "\n")
CATEGORIES = {
    "neu": "Neutral", "hap": "Happiness", "exc": "Excited", "ang": "Anger", "sad": "Sadness",
    "fru": "Frustration", "sur": "Surprise",
}  # fmt: skip
RATED = {"neutral": "neu", "happy": "hap", "angry": "ang", "sad": "sad", "surprise": "sur"}


@dataclass(frozen=True)
class Recording:
    """A take that has been rendered."""

    take: Take
    duration: float
    """Seconds."""
    vad: tuple[float, float, float]
    """Valence, arousal, dominance, 0..1."""
    prosody: Prosody

    def truth(self) -> dict[str, object]:
        """One line of `truth.jsonl`."""
        take = self.take
        return {
            "corpus": take.corpus, "audio": take.audio, "split": take.split, "speaker": take.speaker,
            "label": take.label, "sentence": take.sentence.id, "text": take.sentence.text,
            "topic": take.sentence.topic, "words_emotion": take.sentence.words_emotion, "emotion": take.emotion,
            "strength": take.strength, "voice": take.voice.name, "vad": [round(value, 4) for value in self.vad],
            "prosody": self.prosody.as_dict(), "duration": round(self.duration, 3),
        }  # fmt: skip


def write_world(
    root: Path,
    *,
    seed: int = 0,
    scale: float = 1.0,
    workers: int = 2,
    progress: bool = True,
    corpora: Sequence[str] = CORPORA,
) -> dict[str, dict[str, object]]:
    """Render and write the corpora below `root`; one that is complete is left as it is.

    Args:
        scale: factor on the number of recordings (1.0: 27,200, about 29 hours).
        workers: processes that render; the result does not depend on it.
        progress: show progress when standard error is a terminal.
        corpora: which of `CORPORA`, in this order.

    Returns:
        Per corpus the summary that is also its marker `root/done/CORPUS.json`: recordings, hours, seed, scale, seconds,
        and `takes`, a hash of who says what how.

    Raises:
        RellmError: an option is out of range, or `root` holds corpora of another seed, scale or other takes.
        MissingExtra: espeakng-loader is not installed.
    """
    _check(root, seed, scale, workers, corpora)
    (root / "done").mkdir(parents=True, exist_ok=True)
    sentences = world(seed=seed, size=WORLD_SIZE)
    planned = {corpus: PLANS[corpus](sentences, seed, scale) for corpus in corpora}
    contents = {corpus: hash_of(map(repr, takes)) for corpus, takes in planned.items()}
    markers = {corpus: root / "done" / f"{corpus}.json" for corpus in corpora}
    missing = [corpus for corpus in corpora if not _is_there(markers[corpus], contents[corpus])]
    for corpus in missing:
        start = time.monotonic()
        recordings = _render_all(root, planned[corpus], seed, workers, progress)
        WRITERS[corpus](root / corpus, recordings, random.Random(f"{seed}/{corpus}/tables"))
        _write_lines(root / "done" / f"{corpus}.truth.jsonl", (json.dumps(r.truth()) for r in recordings))
        summary = {
            "seed": seed, "scale": scale, "recordings": len(recordings),
            "hours": round(sum(r.duration for r in recordings) / 3600, 3),
            "seconds": round(time.monotonic() - start, 1), "takes": contents[corpus],
        }  # fmt: skip
        _write_lines(markers[corpus], [json.dumps(summary)])
    if missing:
        parts = [path.read_text() for name in CORPORA if (path := root / "done" / f"{name}.truth.jsonl").exists()]
        _write_lines(root / "truth.jsonl", "".join(parts).splitlines())
    return {corpus: json.loads(marker.read_text()) for corpus, marker in markers.items()}


def _is_there(marker: Path, content: str) -> bool:
    """Whether a corpus is complete. Raises a RellmError for one of other takes; earlier markers do not tell theirs."""
    if not marker.exists():
        return False
    if json.loads(marker.read_text()).get("takes", content) != content:
        raise RellmError(
            f"{marker}: made of other sentences or voices than this version speaks",
            todo=f"Choose another folder, or remove {marker.parent.parent}, to make it again",
        )
    return True


def _check(root: Path, seed: int, scale: float, workers: int, corpora: Sequence[str]) -> None:
    if not 0 < scale <= 2:
        raise RellmError(f"scale is {scale}", allowed="above 0, up to 2")
    if workers < 1:
        raise RellmError(f"workers is {workers}", allowed="1 or more")
    unknown = [name for name in corpora if name not in PLANS]
    if unknown:
        raise RellmError(f"unknown corpora {unknown}", allowed=", ".join(CORPORA))
    for marker in sorted((root / "done").glob("*.json")):
        found = json.loads(marker.read_text())
        if (found["seed"], found["scale"]) != (seed, scale):
            raise RellmError(
                f"{marker}: made with seed {found['seed']} and scale {found['scale']}, not {seed} and {scale}",
                todo="Choose another folder, or ask for the same seed and scale",
            )


def _write_lines(path: Path, lines: Iterable[str], *, encoding: str = "utf-8", end: str = "\n") -> None:
    """Write whole or not at all."""
    write_bytes(path, "".join(line + end for line in lines).encode(encoding), sync=False)


# ── rendering ──


def _render_all(root: Path, takes: Sequence[Take], seed: int, workers: int, progress: bool) -> list[Recording]:
    """Render every take to its file, in order."""
    for folder in sorted({(root / take.audio).parent for take in takes}):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [(str(root), seed, takes[first : first + 32]) for first in range(0, len(takes), 32)]
    console = Console(stderr=True)
    with process_pool(workers) as pool:  # which starts no process before it is used
        batches = map(_render, jobs) if workers == 1 else pool.map(_render, jobs)
        shown = progress and console.is_terminal
        tracked = track(batches, takes[0].corpus, len(jobs), console=console, disable=not shown)
        return [recording for batch in tracked for recording in batch]


@cache
def _synthesizer() -> Synthesizer:
    """One per process: it measures each voice once."""
    return Synthesizer()


def _render(job: tuple[str, int, Sequence[Take]]) -> list[Recording]:
    """Render a few takes in one process."""
    root, seed, takes = job
    synthesizer = _synthesizer()
    recordings = []
    for take in takes:
        rng = generator(seed, take.audio)
        wave, prosody = synthesizer.speak(
            take.sentence.text, take.voice, take.emotion, rng, strength=take.strength, condition=take.condition
        )
        rated = vad(prosody, take.sentence.words_emotion, rng)
        soundfile.write(Path(root) / take.audio, wave, SAMPLE_RATE, subtype="PCM_16")
        recordings.append(Recording(take, len(wave) / SAMPLE_RATE, rated, prosody))
    return recordings


# ── tables ──


def _write_speech(folder: Path, recordings: Sequence[Recording], rng: random.Random) -> None:
    columns = (
        "client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accents", "locale",
    )  # fmt: skip
    for split in ("train", "dev", "test"):
        lines = ["\t".join(columns)]
        for take in (r.take for r in recordings if r.take.split == split):
            client = hashlib.sha512(take.speaker.encode()).hexdigest()
            gender = "female_feminine" if take.voice.gender == "f" else "male_masculine"
            accent = take.voice.espeak.split("+")[0]
            name = Path(take.audio).name
            votes = (str(rng.randint(2, 4)), str(rng.randint(0, 1)))
            lines.append("\t".join((client, name, take.sentence.text, *votes, "", gender, accent, "en")))
        _write_lines(folder / "en" / f"{split}.tsv", lines)


def _write_msp_podcast(folder: Path, recordings: Sequence[Recording], rng: random.Random) -> None:
    lines = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    for recording in recordings:
        take = recording.take
        valence, arousal, dominance = (f"{1 + 6 * value:.5g}" for value in recording.vad)
        gender = "Female" if take.voice.gender == "f" else "Male"
        name = Path(take.audio).name
        lines.append(f"{name},{take.label},{arousal},{valence},{dominance},{take.speaker},{gender},{take.split}")
        _write_lines(folder / "Transcripts" / f"{Path(name).stem}.txt", [take.sentence.text])
    _write_lines(folder / "Labels" / "labels_consensus.csv", lines)


def _write_esd(folder: Path, recordings: Sequence[Recording], rng: random.Random) -> None:
    for place, speaker in enumerate(ESD_SPEAKERS):
        lines = [
            f"{Path(take.audio).stem}\t{take.sentence.text}\t{take.label}"
            for take in (r.take for r in recordings)
            if take.speaker == speaker
        ]
        encoding = ESD_ENCODINGS[place % len(ESD_ENCODINGS)]
        end = ESD_LINE_ENDS[place % len(ESD_LINE_ENDS)]
        _write_lines(folder / speaker / f"{speaker}.txt", lines, encoding=encoding, end=end)


def _write_iemocap(folder: Path, recordings: Sequence[Recording], rng: random.Random) -> None:
    dialogues: dict[tuple[str, str], list[Recording]] = {}
    for recording in recordings:
        name = Path(recording.take.audio).parent.name
        dialogues.setdefault((recording.take.split, name), []).append(recording)
    for (session, name), turns in dialogues.items():
        dialog = folder / session / "dialog"
        labels = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        words = []
        clock = rng.uniform(3, 8)
        for recording in turns:
            turn, start, clock = Path(recording.take.audio).stem, clock, clock + recording.duration
            labels += [*_evaluation(recording, turn, start, clock, rng), ""]
            words.append(f"{turn} [{start:08.4f}-{clock:08.4f}]: {recording.take.sentence.text}")
            clock += rng.uniform(0.1, 1.5)
        # Lines that are no utterances, one of them not in UTF-8, are found in the genuine transcripts too.
        words.insert(1, "M: [LAUGHTER]")
        if name.endswith("impro01"):
            words.append("F: (fiancé leaves)")
        _write_lines(dialog / "EmoEvaluation" / f"{name}.txt", labels)
        _write_lines(dialog / "transcriptions" / f"{name}.txt", words, encoding="latin-1")
        for part, short in (("Attribute", "atr"), ("Categorical", "cat")):
            lines = [f"{Path(r.take.audio).stem} :act 3; :val 3; :dom 3; ;()" for r in turns[:1]]
            _write_lines(dialog / "EmoEvaluation" / part / f"{name}_e2_{short}.txt", lines)


def _evaluation(recording: Recording, turn: str, start: float, end: float, rng: random.Random) -> list[str]:
    """The block of one turn: consensus, three categorical raters with a comment now and then, two on V, A, D."""
    label = recording.take.label
    pairs = []
    for value in recording.vad:
        twice = round(2 * (1 + 4 * value))  # the mean of two whole numbers moves in steps of a half
        pairs.append((twice // 2, twice - twice // 2))
    consensus = ", ".join(f"{sum(pair) / 2:.4f}" for pair in pairs)
    chances = posterior(recording.prosody)
    if label == "xxx":
        votes = rng.sample(sorted(set(CATEGORIES.values())), 3)
    else:
        third = CATEGORIES[RATED[rng.choices(list(chances), list(chances.values()))[0]]]
        votes = [CATEGORIES[label], CATEGORIES[label], third]
        rng.shuffle(votes)
    comment = "(disbelief)" if label == "sur" and rng.random() < 0.3 else "()"
    lines = [f"[{start:.4f} - {end:.4f}]\t{turn}\t{label}\t[{consensus}]"]
    for rater, vote in zip(("C-E2", "C-E3", "C-E4"), votes, strict=True):
        second = " Other;" if rng.random() < 0.05 else ""
        lines.append(f"{rater}:\t{vote};{second}\t{comment}")
    for rater, (val, act, dom) in zip(("A-E3", "A-E4"), zip(*pairs, strict=True), strict=True):
        lines.append(f"{rater}:\tval {val}; act {act}; dom  {dom};\t()")
    return lines


WRITERS: dict[str, Callable[[Path, Sequence[Recording], random.Random], None]] = {
    "speech": _write_speech,
    "msp_podcast": _write_msp_podcast,
    "esd": _write_esd,
    "iemocap": _write_iemocap,
}
