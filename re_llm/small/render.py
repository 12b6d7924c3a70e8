"""Speaks the sentences: one FLAC file each, 16 kHz, dry, and a manifest that grows by whole pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from re_llm.audio.waveform import RATE, resample
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.files import file_hash
from re_llm.core.progress import progress_bar
from re_llm.core.records import Utterance, read_records
from re_llm.core.workers import mapped
from re_llm.mini.voices import generator
from re_llm.small.engines import FEATURE, MAKERS, Engine
from re_llm.small.rows import Setting, growing
from re_llm.small.speakers import Speaker, cast
from re_llm.small.spoken import spoken
from re_llm.small.text import Sentence

CORPUS = "small-speech"
PIECE = 40  # utterances of a process that a kill may cost
SPEEDS = (0.82, 1.22)
PITCH_SPREAD, RANGES = 0.8, (0.75, 1.35)  # semitones (standard deviation), factor on the pitch range
PITCH_HZ = (60, 550)  # where Praat looks for it
LEVELS_DB = (-30.0, -18.0)  # RMS against full scale
MARGINS = (0.08, 0.35)  # seconds of silence at each end
QUIET_DB = -45.0  # against the peak: what counts as silence at the ends


class Spoken(Utterance):
    """One recording of the manifest."""

    source: str
    """Where its sentence comes from."""
    unseen_voice: bool
    """Whether no training sentence is spoken by the voice."""


class Line(NamedTuple):
    """What one utterance is made of."""

    key: str
    sentence: Sentence
    speaker: Speaker


def plan(sentences: Sequence[Sentence], engines: Sequence[str], *, seed: int) -> Iterator[Line]:
    """Who says what, without an end: every sentence once, then those of the training again, by voices drawn anew.

    The order mixes all sources and voices, so that any beginning of it is a small corpus.
    """
    for copy in count():
        for sentence in sentences:
            if copy == 0 or sentence.split == "train":
                key = f"{sentence.key}-{copy}"
                yield Line(key, sentence, cast(sentence.split, engines, generator(seed, f"{key} speaker")))


def render(
    sentences: Path,
    out: Path,
    *,
    engines: Sequence[str],
    hours: float,
    seed: int = 0,
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Renders sentences until there are `hours` of training speech; resumes where an earlier run stopped.

    What is rendered stays when hours or sentences are added later.

    Args:
        sentences: `sentences.jsonl`.
        out: the manifest; recordings go into folders beside it, one a speaker.
        engines: of `speakers.ENGINES`.
        workers: processes; what a sentence sounds like does not depend on their number.
        say: receives the progress as text, once a minute.

    Raises:
        RellmError: an engine or a part is missing, another process writes `out`, or it was started with other settings.
    """
    chosen = list(read_records(sentences, Sentence))
    if not any(sentence.split == "train" for sentence in chosen):
        raise RellmError(f"{sentences} has no sentence of the split train", todo="Write more sentences")
    settings: dict[str, Setting] = {"engines": " ".join(engines), "seed": seed}
    made_of = {"sentences": file_hash(sentences)}
    begin = partial(_open_studio, out.parent, seed)
    with growing(out, settings, made_of) as rows, mapped(workers, begin, chunk=5) as recorded:
        trained = sum(row.duration or 0.0 for row in read_records(out, Utterance) if row.split == "train") / 3600
        clock = _Clock(trained, hours, say)
        with progress_bar("speech", round(hours * 3600), done=round(trained * 3600), unit="s") as advance:
            lines = (line for line in plan(chosen, engines, seed=seed) if line.key not in rows.keys)
            while trained < hours:
                made = list(recorded(_record, islice(lines, PIECE * workers)))
                rows.append(made)
                seconds = sum(row.duration or 0.0 for row in made if row.split == "train")
                trained += seconds / 3600
                advance(round(seconds))
                clock.tell(trained)


class _Clock:
    """Says once a minute how much speech there is and how long the rest will take."""

    def __init__(self, done: float, total: float, say: Callable[[str], None]):
        self._first, self._total, self._say = done, total, say
        self._begun = self._told = time.monotonic()

    def tell(self, done: float) -> None:
        """`done`: hours of training speech so far."""
        now = time.monotonic()
        if now - self._told < 60 and done < self._total:
            return
        self._told = now
        rate = (done - self._first) * 3600 / (now - self._begun)
        left = max(0.0, self._total - done) * 60 / rate
        self._say(f"speech: {done:.2f} of {self._total:g} h, {rate:.1f} times real time, {left:.0f} min left")


class _Studio:
    """The engines, each loaded when it is first needed, and what is done to their waves."""

    def __init__(self, folder: Path, seed: int):
        self._folder, self._seed = folder, seed
        self._engines: dict[str, Engine] = {}

    def record(self, line: Line) -> Spoken:
        """Speaks one line into its file."""
        import soundfile

        speaker = line.speaker
        rng = generator(self._seed, line.key)
        if speaker.engine not in self._engines:
            self._engines[speaker.engine] = MAKERS[speaker.engine]()
        rate = float(rng.uniform(*SPEEDS))
        wave, native = self._engines[speaker.engine].say(spoken(line.sentence.text), speaker, rate, rng)
        if speaker.engine != "espeak":  # whose voices are moved by the synthesiser
            wave = shaped(wave, native, speaker, rng)
        wave = finished(resample(wave.astype(np.float32), native, RATE), rng)
        path = self._folder / speaker.name / f"{line.key}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, RATE, subtype="PCM_16")
        return Spoken(
            key=line.key, corpus=CORPUS, split=line.sentence.split, audio=f"{speaker.name}/{path.name}",
            duration=round(len(wave) / RATE, 3), sample_rate=RATE, text=line.sentence.text, language="en",
            speaker=speaker.name, source=line.sentence.source, unseen_voice=speaker.pool != "train",
        )  # fmt: skip


_studio: _Studio | None = None
"""Of this process."""


def _open_studio(folder: Path, seed: int) -> None:
    global _studio
    _studio = _Studio(folder, seed)


def _record(line: Line) -> Spoken:
    assert _studio is not None
    return _studio.record(line)


def shaped(wave: np.ndarray, rate: int, speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """The wave with the speaker's vocal tract, pitch and liveliness, each a little different every time.

    Praat's "Change gender": formants by resampling, pitch and duration by overlap-add.

    Raises:
        MissingExtra: praat-parselmouth is not installed.
    """
    with MissingExtra.unless("praat-parselmouth", "small-build", FEATURE):
        from parselmouth import Sound
        from parselmouth.praat import call
    sound = Sound(wave.astype(np.float64), rate)
    found = sound.to_pitch(pitch_floor=PITCH_HZ[0], pitch_ceiling=PITCH_HZ[1]).selected_array["frequency"]
    semitones = speaker.pitch + PITCH_SPREAD * float(rng.standard_normal())
    span, formant = speaker.range * float(rng.uniform(*RANGES)), speaker.formant * float(rng.uniform(0.985, 1.015))
    if not (found > 0).any():
        return wave
    median = float(np.median(found[found > 0])) * 2 ** (semitones / 12)
    made: np.ndarray = call(sound, "Change gender", *PITCH_HZ, formant, median, span, 1.0).values[0]
    return made


def finished(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The wave between silences of its own length, at a level of its own; float32 within -1..1.

    Raises:
        RellmError: the synthesiser returned silence.
    """
    loud = np.flatnonzero(np.abs(wave) > np.abs(wave).max() * 10 ** (QUIET_DB / 20))
    if not len(loud):
        raise RellmError("a synthesiser returned silence", todo="Report the sentence that the log names last")
    wave = wave[loud[0] : loud[-1] + 1]
    level = 10 ** (float(rng.uniform(*LEVELS_DB)) / 20) / float(np.sqrt(np.mean(wave**2)))
    before, after = (int(seconds * RATE) for seconds in rng.uniform(*MARGINS, size=2))
    gain = min(level, 0.98 / float(np.abs(wave).max()))
    return np.pad(gain * wave, (before, after)).astype(np.float32)
