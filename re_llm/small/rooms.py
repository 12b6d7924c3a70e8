"""The recordings as microphones, rooms and telephones would give them: the training again, disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from re_llm.audio.disturb import disturb
from re_llm.audio.waveform import RATE, load
from re_llm.core.records import Utterance, read_records
from re_llm.mini.voices import generator
from re_llm.small.rows import growing

PIECE = 200


class Disturbed(Utterance):
    """A recording and what was done to it; `dry` where nothing was."""

    disturbed: str


def disturb_all(manifest: Path, out: Path, *, seed: int, say: Callable[[str], None] = lambda line: None) -> int:
    """Writes every utterance of a manifest as disturbed as its key says; goes on where an earlier run stopped.

    Utterances of dev and test, and those that the draw leaves dry, keep their file: `out` names it where it is.

    Args:
        out: the new manifest; disturbed recordings go into folders beside it.

    Returns:
        The number of utterances.
    """
    begun, made = time.monotonic(), 0
    with growing(out, {"seed": seed}) as rows:
        missing = [row for row in read_records(manifest, Utterance) if row.key not in rows.keys]
        left_over = iter(missing)
        while piece := list(islice(left_over, PIECE)):
            rows.append(_disturbed(row, manifest.parent, out.parent, seed) for row in piece)
            made += len(piece)
            left = (len(missing) - made) * (time.monotonic() - begun) / made
            say(f"rooms: {made} of {len(missing)} recordings, {left / 60:.0f} min left")
        return rows.rows


def _disturbed(row: Utterance, folder: Path, out: Path, seed: int) -> Disturbed:
    import soundfile

    done: list[str] = []
    if row.split == "train":
        wave, done = disturb(load(row.audio, root=folder), generator(seed, f"{row.key} room"))
    if done:
        path = out / row.audio
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, wave, RATE, subtype="PCM_16")
    audio = row.audio if done else str(Path("..") / folder.name / row.audio)
    return Disturbed(**{**row.model_dump(), "audio": audio, "disturbed": " ".join(done) or "dry"})
