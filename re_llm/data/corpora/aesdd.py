"""AESDD: Greek actors, nineteen utterances and one improvised, five emotions (Vryzas et al. 2018).

`a06 (5)b.wav` is emotion (anger, disgust, fear, happiness, sadness), utterance, speaker, and a letter for further
takes; a speaker can be written `01`. The corpus grows: its size depends on the day of the download.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan
from re_llm.data.corpora.files import coded_names, tree_root

INFO = CorpusInfo(
    name="aesdd",
    title="Acted Emotional Speech Dynamic Database (AESDD)",
    languages=("el",),
    utterances=604,
    hours=0.7,
    emotions=("happy", "angry", "sad", "fear", "disgust"),
    licence="free for research",
    get="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
    citation="Vryzas et al., Speech Emotion Recognition for Performance Interaction, J. Audio Eng. Soc. 66, 2018",
    root="anger, disgust, fear, happiness, sadness",
    protocols={"blsp-emo": "test set of BLSP-Emo: happy, angry, sad"},
    filters={"blsp-emo": Filters(emotions=PROMPT_EMOTIONS)},
    published={"blsp-emo": {"test": 724}},
)

EMOTIONS = {"a": "angry", "d": "disgust", "f": "fear", "h": "happy", "s": "sad"}
_NAME = re.compile(r"([adfhs])(\d\d)\s*\((\d+)\)\s*([a-z]?)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by emotion and name."""
    root = tree_root(scan, _NAME, INFO.root)
    for path, name in coded_names(scan, root, _NAME, "EMOTION and number, then (SPEAKER), as in a06 (5)b"):
        raw, utterance, speaker, take = name.groups()
        yield INFO.utterance(
            path, key=f"{raw}{utterance}-{speaker}{take}", split="test", speaker=str(int(speaker)),
            emotion=EMOTIONS[raw], emotion_raw=raw, sentence=f"aesdd-{utterance}",
        )  # fmt: skip
