"""JL corpus: four New Zealand speakers, five primary and five secondary emotions (James et al. 2018).

`male2_anxious_9a_2.wav` is speaker, emotion, sentence, repetition; the words stand in a `.txt` beside it. The secondary
emotions without a canonical name (apologetic, assertive, concerned, encouraging) are `other`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names, read_lines, tree_root

INFO = CorpusInfo(
    name="jl",
    title="JL corpus",
    languages=("en",),
    utterances=2_400,
    hours=1.4,
    emotions=("neutral", "happy", "angry", "sad", "excited", "anxious", "other"),
    licence="CC0-1.0",
    get="https://www.kaggle.com/datasets/tli725/jl-corpus",
    citation="James et al., An Open Source Emotional Speech Corpus for Human Robot Interaction, Interspeech 2018",
    root="recordings such as male2_anxious_9a_2.wav, at any depth",
)

SECONDARY = dict.fromkeys(("apologetic", "assertive", "concerned", "encouraging"), "other")
_NAME = re.compile(r"((?:fe)?male\d)_([a-z]+)_(\d+[ab])_(\d+)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by folder and name."""
    root = tree_root(scan, _NAME, INFO.root)
    for path, name in coded_names(scan, root, _NAME, "SPEAKER_EMOTION_SENTENCE_REPETITION"):
        speaker, raw, sentence, _ = name.groups()
        emotion = scan.emotion(raw, path, extra=SECONDARY)
        if emotion is not None:
            text = _words(path.with_suffix(".txt"))
            yield INFO.utterance(path, text=text, speaker=speaker, emotion=emotion, emotion_raw=raw, sentence=sentence)


def _words(path: Path) -> str | None:
    return " ".join(line for _, line in read_lines(path)).strip() or None if path.is_file() else None
