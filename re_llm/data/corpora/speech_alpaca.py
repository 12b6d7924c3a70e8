"""SpeechAlpaca: Alpaca instructions in four tones of a text-to-speech voice, the test set of BLSP-Emo's table 2.

JSON lines with audio, text, emotion (`cheerful` is happy); audio names carry the voice
(`00003-en-US-JasonNeural-cheerful.wav`) and are taken from the folder of the file, or from `audio_root`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import OPTIONS, Table, read_utterances, table_file

INFO = CorpusInfo(
    name="speech_alpaca",
    title="SpeechAlpaca",
    languages=("en",),
    utterances=400,
    emotions=("neutral", "happy", "angry", "sad"),
    licence="not stated; Alpaca itself is CC BY-NC 4.0",
    get="https://github.com/cwang621/blsp-emo",
    citation="Wang et al., BLSP-Emo: Towards Empathetic Large Speech-Language Models, EMNLP 2024",
    root="the jsonl, or its folder",
    options={"audio_root": OPTIONS["audio_root"]},
)

_VOICE = re.compile(r"-(?P<voice>[a-z]{2}-[A-Z]{2}-\w+Neural)-")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of the file."""
    file = table_file(scan.root)
    table = Table(
        file, "speech_alpaca", scan.option("audio_root", file.parent, Path), split="test", language="en",
        columns={"audio": "audio", "text": "text", "emotion": "emotion"},
    )  # fmt: skip
    for utterance in read_utterances(scan, table):
        voice = _VOICE.search(Path(utterance.audio).name)
        utterance.speaker = voice["voice"] if voice else utterance.speaker
        yield utterance
