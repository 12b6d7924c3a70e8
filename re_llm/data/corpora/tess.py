"""TESS: two women say "Say the word ..." with 200 words in seven emotions (Dupuis and Pichora-Fuller 2010).

Quirks: 24,414 Hz; pleasant surprise is `ps` in names and `Pleasant_surprise` in folders; one file of OAF is `OA_...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names, tree_root

INFO = CorpusInfo(
    name="tess",
    title="Toronto emotional speech set (TESS)",
    languages=("en",),
    utterances=2_800,
    hours=1.6,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust", "surprise"),
    licence="CC BY-NC-ND 4.0",
    get="https://doi.org/10.5683/SP2/E8H2MF",
    citation="Dupuis and Pichora-Fuller, Toronto emotional speech set, University of Toronto, 2010",
    root="recordings such as OAF_pool_disgust.wav, at any depth",
)

_NAME = re.compile(r"(OAF?|YAF)_([A-Za-z]+)_([a-z]+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by folder and name."""
    root = tree_root(scan, _NAME, INFO.root)
    for path, name in coded_names(scan, root, _NAME, "SPEAKER_WORD_EMOTION"):
        speaker, word, raw = name.groups()
        speaker = "OAF" if speaker == "OA" else speaker
        emotion = scan.emotion(raw, path)
        if emotion is not None:
            yield INFO.utterance(
                path, key=f"{speaker}_{word}_{raw}", text=f"Say the word {word.lower()}.", speaker=speaker,
                emotion=emotion, emotion_raw=raw,
            )  # fmt: skip
