"""GigaSpeech: 10,000 hours of English audio books, podcasts and video (Chen et al. 2021).

Segments of long opus files, described by `GigaSpeech.json` (read item by item: it is larger than most memories).
Punctuation is written as tags; segments that are only `<SIL>`, `<NOISE>`, `<MUSIC>` or `<OTHER>` are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_json_array

INFO = CorpusInfo(
    name="gigaspeech",
    title="GigaSpeech",
    languages=("en",),
    utterances=8_282_988,
    hours=10_000,
    emotions=(),
    licence="Apache-2.0 for the annotations; form to be filled in for the audio",
    get="https://github.com/SpeechColab/GigaSpeech",
    citation="Chen et al., GigaSpeech: An Evolving, Multi-domain ASR Corpus, Interspeech 2021",
    root="GigaSpeech.json and audio",
    options={"subset": "XS, S, M, L, XL, DEV or TEST (M, as in BLSP-Emo)"},
)

SUBSETS = ("XS", "S", "M", "L", "XL", "DEV", "TEST")
MARKS = {" <COMMA>": ",", " <PERIOD>": ".", " <QUESTIONMARK>": "?", " <EXCLAMATIONPOINT>": "!"}
GARBAGE = frozenset({"<SIL>", "<NOISE>", "<MUSIC>", "<OTHER>"})


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the description."""
    root = scan.path_root(lambda p: (p / "GigaSpeech.json").is_file(), f"expected {INFO.root} in it")
    subset = scan.option("subset", "M", str).upper()
    if subset not in SUBSETS:
        raise RellmError(f"option subset={subset!r}", allowed=", ".join(SUBSETS))
    description = root / "GigaSpeech.json"
    for item in read_json_array(description, "audios"):
        for segment in item.get("segments", ()):
            if f"{{{subset}}}" not in segment.get("subsets", ()):
                continue
            try:
                utterance = _utterance(root, item, segment, subset)
            except (KeyError, TypeError, ValueError) as error:
                scan.problem(description, f"segment {segment.get('sid')}: {error!r}")
                continue
            if utterance is None:
                scan.drop("no speech")
            else:
                yield utterance


def _utterance(root: Path, item: dict[str, Any], segment: dict[str, Any], subset: str) -> Utterance | None:
    text = segment["text_tn"]
    if text in GARBAGE:
        return None
    for tag, mark in MARKS.items():
        text = text.replace(tag, mark)
    return Utterance(
        key=f"gigaspeech-{segment['sid']}",
        corpus="gigaspeech",
        split={"DEV": "dev", "TEST": "test"}.get(subset, "train"),
        audio=str(root / item["path"]),
        start=segment["begin_time"],
        duration=round(segment["end_time"] - segment["begin_time"], 3),
        text=text.lower(),
        language="en",
        speaker=None if segment.get("speaker", "N/A") == "N/A" else segment["speaker"],
        dialogue=item.get("aid"),
    )
