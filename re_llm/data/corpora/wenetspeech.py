"""WenetSpeech: 10,000 hours of Mandarin from the web (Zhang et al. 2022).

Segments of long opus files, described by `WenetSpeech.json`, read item by item. BLSP-Emo takes a random part of it: the
option `sample` keeps each segment with that probability, by its name and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import read_json_array

INFO = CorpusInfo(
    name="wenetspeech",
    title="WenetSpeech",
    languages=("zh",),
    utterances=0,
    hours=10_000,
    emotions=(),
    licence="CC BY 4.0 for the annotations; form to be filled in for the audio",
    get="https://wenet-e2e.github.io/WenetSpeech/",
    citation="Zhang et al., WenetSpeech: A 10000+ hours multi-domain Mandarin corpus, ICASSP 2022",
    root="WenetSpeech.json and audio",
    options={"subset": "S, M, L, DEV, TEST_NET or TEST_MEETING (L)", "sample": "share of the segments, 0 to 1 (1)"},
)

SUBSETS = ("S", "M", "L", "DEV", "TEST_NET", "TEST_MEETING")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the description."""
    root = scan.path_root(lambda p: (p / "WenetSpeech.json").is_file(), f"expected {INFO.root} in it")
    subset, fraction = scan.option("subset", "L", str).upper(), scan.option("sample", 1.0, float)
    if subset not in SUBSETS or not 0 < fraction <= 1:
        raise RellmError(
            f"options subset={subset!r}, sample={fraction}", allowed=f"{', '.join(SUBSETS)}; 0 < sample <= 1"
        )
    description = root / "WenetSpeech.json"
    for item in read_json_array(description, "audios"):
        for segment in item.get("segments", ()):
            if subset not in segment.get("subsets", ()):
                continue
            if fraction < 1 and _rank(scan.seed, str(segment.get("sid"))) >= fraction:
                scan.drop("not in the sample")
                continue
            try:
                yield _utterance(root, item, segment, subset)
            except (KeyError, TypeError, ValueError) as error:
                scan.problem(description, f"segment {segment.get('sid')}: {error!r}")


def _rank(seed: int, name: str) -> float:
    """A number of 0..1 that depends on nothing but the seed and the name."""
    return int.from_bytes(hashlib.sha256(f"wenetspeech:{seed}:{name}".encode()).digest()[:8]) / 2**64


def _utterance(root: Path, item: dict[str, Any], segment: dict[str, Any], subset: str) -> Utterance:
    return Utterance(
        key=f"wenetspeech-{segment['sid']}",
        corpus="wenetspeech",
        split={"DEV": "dev", "TEST_NET": "test", "TEST_MEETING": "test"}.get(subset, "train"),
        audio=str(root / item["path"]),
        start=segment["begin_time"],
        duration=round(segment["end_time"] - segment["begin_time"], 3),
        text=segment["text"],
        language="zh",
        dialogue=item.get("aid"),
        confidence=segment.get("confidence"),  # type: ignore[call-arg]
    )
