"""The recordings that ship with the miniature: drawn by seed from voices and sentences no part was trained on."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import soundfile

from re_llm.audio import waveform
from re_llm.core.records import Utterance, read_records
from re_llm.mini.prosody import EMOTIONS

SPEAKERS = 2
OTHERS = 4


@dataclass(frozen=True)
class Picked:
    """A recording to ship, and where it comes from."""

    name: str
    row: Utterance
    manifest: Path


def pick(esd: Path, iemocap: Path, *, seed: int = 0) -> list[Picked]:
    """One ESD test sentence in five emotions by two test speakers, and a few turns of IEMOCAP's test session."""
    draw = random.Random(seed)
    by_sentence: dict[str, dict[str, dict[str, Utterance]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_records(esd, Utterance):
        if row.split == "test" and row.text and row.speaker and row.emotion:
            by_sentence[row.text][row.speaker][row.emotion] = row
    complete = {
        text: sorted(s for s, found in speakers.items() if set(EMOTIONS) <= set(found))
        for text, speakers in by_sentence.items()
    }
    text = draw.choice(sorted(t for t, speakers in complete.items() if len(speakers) >= SPEAKERS))
    picked = []
    for speaker in draw.sample(complete[text], SPEAKERS):
        for emotion in EMOTIONS:
            picked.append(Picked(f"{speaker}-{emotion}.flac", by_sentence[text][speaker][emotion], esd))
    turns = sorted((r for r in read_records(iemocap, Utterance) if r.split == "test"), key=lambda r: r.key)
    for number, row in enumerate(draw.sample(turns, OTHERS), start=1):
        picked.append(Picked(f"turn-{number}-{row.emotion}.flac", row, iemocap))
    return picked


def ship(picked: list[Picked], folder: Path) -> None:
    """Writes the recordings as 16-bit FLAC and `recordings.json` beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = []
    for item in picked:
        row = item.row
        samples = waveform.load(row.audio, start=row.start, duration=row.duration, root=item.manifest.parent)
        soundfile.write(folder / item.name, samples, waveform.RATE, subtype="PCM_16", format="FLAC")
        listing.append({"recording": item.name, "sentence": row.text, "speaker": row.speaker, "reference": row.emotion})
    (folder / "recordings.json").write_text(json.dumps(listing, indent=2) + "\n", encoding="utf-8")
