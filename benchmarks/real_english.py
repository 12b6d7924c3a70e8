"""Words of people that stand in a speech LLM's speech tokens: recordings of two Debian packages, read out greedily.

    apt-get download pocketsphinx-testdata asterisk-core-sounds-en asterisk-core-sounds-en-wav
    for package in *.deb; do dpkg -x "$package" FOLDER; done
    python benchmarks/real_english.py FOLDER [MANIFEST ...] [--model small:re-llm]

LibriVox: five sentences of a novel, one reader (public domain). Cards: a few words over a microphone, hesitations
included. Asterisk: announcements of a telephone exchange at 8 kHz, one speaker (CC BY-SA 3.0). Manifests are measured
likewise. `--whisper` puts Whisper's transcripts of the same recordings beside it. Nothing here was ever trained on.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _common import head, need_parts, spread

from re_llm.audio.waveform import load
from re_llm.core.records import Utterance, read_records
from re_llm.evaluate.word_errors import edits, plain, rate_interval
from re_llm.inference.careful import read_out
from re_llm.inference.engine import Engine
from re_llm.inference.engine import load as load_engine
from re_llm.inference.transcribe import Transcriber

SPHINX = "usr/share/pocketsphinx/test/data"
PROMPTS = "usr/share/asterisk/sounds/en_US_f_Allison"
TEXTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
LEAST_WORDS = 3
BATCH = 8
Spoken = list[tuple[np.ndarray, str]]


def sphinx(folder: Path, name: str) -> Spoken:
    """Recordings [T] at 16 kHz and what is said, of a set of pocketsphinx's tests."""
    found: Spoken = []
    (transcripts,) = (folder / SPHINX / name).glob("*transcription")
    for line in transcripts.read_text(encoding="utf-8").splitlines():
        text, file = re.fullmatch(r"<s>(.*)</s>\s*\((\S+)\)\s*", line).groups()  # type: ignore[union-attr]
        found.append((load(folder / SPHINX / name / f"{file}.wav"), text.strip()))
    return found


def asterisk(folder: Path) -> Spoken:
    """Announcements of three and more words that name no digits or letters."""
    found: Spoken = []
    for line in gzip.decompress((folder / TEXTS).read_bytes()).decode().splitlines():
        file, _, text = line.partition(":")
        wave = folder / PROMPTS / f"{file}.wav"
        spelled = re.search(r"\d|\(|\[|\b[B-HJ-Z]\b", text)
        if len(text.split()) >= LEAST_WORDS and not spelled and not line.startswith(";") and wave.is_file():
            found.append((load(wave), text))
    return found


def manifest(path: Path, split: str, limit: int) -> Spoken:
    """Rows of a manifest."""
    rows = spread([row for row in read_records(path, Utterance) if row.split == split and row.text], limit)
    root = path.parent
    return [(load(row.audio, start=row.start, duration=row.duration, root=root), row.text or "") for row in rows]


def read(engine: Engine, spoken: Spoken) -> list[str]:
    """Words in the speech tokens."""
    found = []
    for first in range(0, len(spoken), BATCH):
        for speech in engine.encode([engine.prepared(wave, text) for wave, text in spoken[first : first + BATCH]]):
            ids = read_out(engine.model, speech.heard).ids
            found.append(engine.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return found


def told(spoken: Spoken, found: Sequence[str]) -> str:
    """Word errors with a 95 % interval over recordings."""
    pairs = [(plain(text).split(), plain(words).split()) for (_, text), words in zip(spoken, found, strict=True)]
    wrong, words = [edits(*pair) for pair in pairs], [len(text) for text, _ in pairs]
    low, high = rate_interval(wrong, words)
    return f"{sum(wrong) / sum(words):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("manifests", type=Path, nargs="*")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=200, help="recordings of each set, evenly spread")
    parser.add_argument("--model", default="small:re-llm")
    parser.add_argument("--whisper", default=None, help="beside it, minutes on two cores: small:whisper")
    parser.add_argument("--show", type=int, default=0, help="of each set, this many recordings in words")
    given = parser.parse_args()
    head("Words of people")
    need_parts(given.model)
    if given.folder is None:
        print("left out: name the folder of the recordings")
        return
    sets = {name: sphinx(given.folder, name) for name in ("librivox", "cards")}
    sets["asterisk"] = spread(asterisk(given.folder), given.limit)
    sets |= {f"{path.parent.name} {given.split}": manifest(path, given.split, given.limit) for path in given.manifests}
    engine = load_engine(given.model)
    whisper = Transcriber.load(given.whisper) if given.whisper else None
    print(f"| recordings | | words | {given.model} | {given.whisper or 'no Whisper'} |\n|---|---|---|---|---|")
    shown = []
    for name, spoken in sets.items():
        words = sum(len(plain(text).split()) for _, text in spoken)
        found = read(engine, spoken)
        beside = told(spoken, whisper.transcribe([wave for wave, _ in spoken])) if whisper else ""
        print(f"| {name} | {len(spoken)} | {words} | {told(spoken, found)} | {beside} |", flush=True)
        shown += [f"{text} -> {said}" for (_, text), said in list(zip(spoken, found, strict=True))[: given.show]]
    print("", *shown, sep="\n")


if __name__ == "__main__":
    main()
