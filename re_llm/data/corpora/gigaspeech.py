"""GigaSpeech: 10,000 hours of English audio books, podcasts and video (Chen et al. 2021).

Segments of long opus files, described by `GigaSpeech.json` (read item by item: it is larger than most memories).
Punctuation is written as tags; segments that are only `<SIL>`, `<NOISE>`, `<MUSIC>` or `<OTHER>` are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import Json, read_segments

INFO = CorpusInfo(
    name="gigaspeech",
    title="GigaSpeech",
    languages=("en",),
    utterances=8_282_988,
    hours=10_000,
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
    subset = scan.option("subset", "M", str.upper, SUBSETS)
    split = {"DEV": "dev", "TEST": "test"}.get(subset, "train")

    def fields(item: Json, segment: Json) -> Json | None:
        text = segment["text_tn"]
        if text in GARBAGE:
            return None
        for tag, mark in MARKS.items():
            text = text.replace(tag, mark)
        speaker = segment.get("speaker", "N/A")
        return {"split": split, "text": text.lower(), "speaker": None if speaker == "N/A" else speaker}

    return read_segments(scan, INFO, "GigaSpeech.json", f"{{{subset}}}", fields, "no speech")
