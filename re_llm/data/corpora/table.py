"""A table of one's own: csv, tsv or JSON lines with a column for the audio and whatever else is known.

Columns are found by their usual names; options name others (`audio=wav_path`, `emotion=gold`). This is also the reader
for corpora that come with a metadata file and have none of their own here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.emotions import CANONICAL
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import ALIASES, UNIT, Table, read_utterances
from re_llm.data.corpora.files import without_row

INFO = CorpusInfo(
    name="table",
    title="Any csv, tsv or jsonl",
    languages=(),
    utterances=0,
    emotions=(),
    licence="that of the recordings",
    get="your own",
    citation="",
    root="the file itself, or a folder with one such file",
    options={
        **{name: f"column of {name}" for name in ALIASES},
        "corpus": "name of the corpus (name of the file)",
        "audio_root": "folder that audio paths start from (folder of the file), or an uncompressed .zip or .tar",
        "default_split": "split where no column says it (all)",
        "default_language": "language where no column says it",
        "scale": "range of valence, arousal, dominance (0..1), e.g. 1..5",
        "suffix": "added to audio names without one, e.g. .wav",
        "labels": "what labels of its own mean, e.g. worried:anxious,cheery:happy",
    },
    dimensions=True,
)

KINDS = (".csv", ".tsv", ".jsonl")
_SCALE = re.compile(r"(-?[\d.]+)\.\.(-?[\d.]+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    file = the_file(scan.root)
    table = Table(
        file=file,
        corpus=scan.option("corpus", file.stem, str),
        audio_root=scan.option("audio_root", file.parent, Path),
        split=scan.option("default_split", "all", str),
        language=scan.option("default_language", "", str) or None,
        columns={name: scan.option(name, "", str) for name in ALIASES if scan.options.get(name)},
        suffix=scan.option("suffix", "", str),
        scale=scan.option("scale", UNIT, parse_scale),
        labels=scan.option("labels", {}, parse_labels),
    )
    named = set()
    for utterance in read_utterances(scan, table):
        named.add(utterance.audio)
        yield utterance
    if table.audio_root.is_dir():
        without_row(scan, sorted({Path(name).parent for name in named}), named, file, deep=False)


def the_file(root: Path) -> Path:
    """The table: `root` itself, or the only one in it.

    Raises:
        RellmError: there is none, or more than one.
    """
    if root.is_file():
        return root
    if not root.is_dir():
        raise RellmError(f"no such file or folder: {root}", todo="Check --root")
    found = sorted(p for p in root.iterdir() if p.suffix.lower() in KINDS)
    if len(found) != 1:
        names = ", ".join(p.name for p in found[:5]) or "none"
        raise RellmError(f"{root} should hold one table, but holds {names}", todo="Give the file itself as --root")
    return found[0]


def parse_scale(text: str) -> tuple[float, float]:
    """`1..5` as (1.0, 5.0).

    Raises:
        ValueError: it is not of that form, or empty.
    """
    match = _SCALE.fullmatch(text.strip())
    if match is None or not float(match[1]) < float(match[2]):
        raise ValueError(text)
    return float(match[1]), float(match[2])


def parse_labels(text: str) -> dict[str, str]:
    """`worried:anxious,cheery:happy` as a map from a label in lower case to a canonical emotion.

    Raises:
        ValueError: it is not of that form, or the second of a pair is no emotion.
    """
    pairs = [item.partition(":") for item in text.split(",")]
    found = {label.strip().lower(): name.strip() for label, _, name in pairs}
    if not set(found.values()) <= set(CANONICAL):
        raise ValueError(text)
    return found
