"""The recordings as microphones, rooms and telephones would give them: the training again, disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from re_llm.audio.disturb import disturb
from re_llm.audio.waveform import RATE, load, resample
from re_llm.core.records import Utterance, read_records
from re_llm.core.workers import mapped
from re_llm.mini.voices import generator
from re_llm.small.rows import Setting, growing

PIECE = 200
SPEEDS = (0.85, 1.17)
"""How much faster a copy may be than its original."""


class Disturbed(Utterance):
    """A recording and what was done to it; `dry` where nothing was."""

    disturbed: str


def disturb_all(
    manifest: Path,
    out: Path,
    *,
    seed: int,
    copies: int = 1,
    workers: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Writes every utterance of a manifest as disturbed as its key says; resumes where an earlier run stopped.

    Utterances of dev and test, and those that the draw leaves dry, keep their file: `out` names it where it is.

    Args:
        out: the new manifest; disturbed recordings go into folders beside it.
        copies: of each utterance of the training, each disturbed in another way; all but the first are spoken faster
            or slower, and higher or lower with it (speed perturbation, Ko et al. 2015).
        workers: processes.

    Returns:
        The number of rows.
    """
    started, made = time.monotonic(), 0
    settings: dict[str, Setting] = {"seed": seed, **({"copies": copies} if copies > 1 else {})}
    with growing(out, settings) as rows, mapped(workers, chunk=20) as disturbed:
        wanted = (
            (row, copy)
            for row in read_records(manifest, Utterance)
            for copy in range(copies if row.split == "train" else 1)
        )
        missing = [(row, copy) for row, copy in wanted if _key(row, copy) not in rows.keys]
        left_over = iter(missing)
        work = partial(_disturbed, folder=manifest.parent, out=out.parent, seed=seed)
        while piece := list(islice(left_over, PIECE * workers)):
            rows.append(disturbed(work, piece))
            made += len(piece)
            left = (len(missing) - made) * (time.monotonic() - started) / made
            say(f"rooms: {made} of {len(missing)} recordings, {left / 60:.0f} min left")
        return rows.rows


def _key(row: Utterance, copy: int) -> str:
    return f"{row.key}+{copy}" if copy else row.key


def _disturbed(one: tuple[Utterance, int], folder: Path, out: Path, seed: int) -> Disturbed:
    import soundfile

    row, copy = one
    done: list[str] = []
    audio, duration = str(Path("..") / folder.name / row.audio), row.duration
    if row.split == "train":
        rng = generator(seed, f"{row.key} room {copy}" if copy else f"{row.key} room")
        wave = load(row.audio, root=folder)
        if copy:
            wave = resample(wave, round(RATE * rng.uniform(*SPEEDS)), RATE)
            done.append("speed")
        wave, more = disturb(wave, rng)
        done += more
        if done:
            audio = str(Path(row.audio).with_stem(_key(row, copy).replace("+", "_"))) if copy else row.audio
            path = out / audio
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, RATE, subtype="PCM_16")
            duration = round(len(wave) / RATE, 3)
    changed = {"key": _key(row, copy), "audio": audio, "duration": duration, "disturbed": " ".join(done) or "dry"}
    return Disturbed(**{**row.model_dump(), **changed})
