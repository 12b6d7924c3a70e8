"""LibriSpeech: 1,000 hours of read English (Panayotov et al. 2015). No emotions: it serves the semantic alignment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_lines, visible

INFO = CorpusInfo(
    name="librispeech",
    title="LibriSpeech",
    languages=("en",),
    utterances=292_367,
    hours=982,
    licence="CC BY 4.0",
    get="https://www.openslr.org/12",
    citation="Panayotov et al., LibriSpeech: An ASR corpus based on public domain audio books, ICASSP 2015",
    root="train-clean-100, dev-clean ... (the folder LibriSpeech)",
    options={
        "parts": "comma-separated parts (all that are there)",
        "case": "lower or keep: transcripts are capitals (lower)",
    },
)

PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
CASES = ("lower", "keep")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by part, speaker and chapter."""
    root = scan.path_root(lambda p: any((p / part).is_dir() for part in PARTS), f"expected {INFO.root} in it")
    present = [part for part in PARTS if (root / part).is_dir()]
    case = scan.option("case", "lower", str, CASES)
    for part in scan.names("parts", tuple(present)):
        if part not in present:
            raise RellmError(f"{root} has no part {part!r}", allowed=", ".join(present))
        for listing in visible((root / part).glob("*/*/*.trans.txt")):
            yield from _chapter(scan, listing, part, lower=case == "lower")


def _chapter(scan: Scan, listing: Path, part: str, *, lower: bool) -> Iterator[Utterance]:
    for number, line in read_lines(listing):
        key, _, text = line.partition(" ")
        parts = key.split("-")
        if len(parts) != 3 or not text:
            scan.problem(listing, f"not a transcript: {line[:80]!r}", number)
            continue
        yield INFO.utterance(
            listing.parent / f"{key}.flac", split=part.split("-")[0] if part.startswith("train") else part,
            text=text.lower() if lower else text, speaker=parts[0], dialogue=f"{parts[0]}-{parts[1]}",
            turn=int(parts[2]) if parts[2].isdigit() else None,
        )  # fmt: skip
