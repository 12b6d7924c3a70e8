"""WenetSpeech: 10,000 hours of Mandarin from the web (Zhang et al. 2022).

Segments of long opus files, described by `WenetSpeech.json`, read item by item. BLSP-Emo takes a random part of it: the
option `sample` keeps each segment with that probability, by its name and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import Json, read_segments

INFO = CorpusInfo(
    name="wenetspeech",
    title="WenetSpeech",
    languages=("zh",),
    hours=10_000,
    licence="CC BY 4.0 for the annotations; form to be filled in for the audio",
    get="https://wenet-e2e.github.io/WenetSpeech/",
    citation="Zhang et al., WenetSpeech: A 10000+ hours multi-domain Mandarin corpus, ICASSP 2022",
    root="WenetSpeech.json and audio",
    options={"subset": "S, M, L, DEV, TEST_NET or TEST_MEETING (L)", "sample": "fraction of the segments, 0 to 1 (1)"},
)

SUBSETS = ("S", "M", "L", "DEV", "TEST_NET", "TEST_MEETING")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the description."""
    subset, fraction = scan.option("subset", "L", str.upper, SUBSETS), scan.option("sample", 1.0, float)
    if not 0 < fraction <= 1:
        raise RellmError(f"option sample={fraction}", allowed="above 0, at most 1")
    split = {"DEV": "dev", "TEST_NET": "test", "TEST_MEETING": "test"}.get(subset, "train")

    def fields(item: Json, segment: Json) -> Json | None:
        if fraction < 1 and _rank(scan.seed, str(segment.get("sid"))) >= fraction:
            return None
        return {"split": split, "text": segment["text"], "confidence": segment.get("confidence")}

    return read_segments(scan, INFO, "WenetSpeech.json", subset, fields, "not in the sample")


def _rank(seed: int, name: str) -> float:
    """A number of 0..1 that depends on nothing but the seed and the name."""
    return int.from_bytes(hashlib.sha256(f"wenetspeech:{seed}:{name}".encode()).digest()[:8]) / 2**64
