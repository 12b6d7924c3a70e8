"""SAVEE: four British men, 120 sentences each in seven emotions (Haq and Jackson 2010).

Both layouts are read: `AudioData/DC/a01.wav` and `DC_a01.wav`. The words are not in the release.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names, tree_root

INFO = CorpusInfo(
    name="savee",
    title="SAVEE",
    languages=("en",),
    utterances=480,
    hours=0.5,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust", "surprise"),
    licence="free for research, registration",
    get="http://kahlan.eps.surrey.ac.uk/savee/",
    citation="Haq and Jackson, Multimodal Emotion Recognition, in: Machine Audition, IGI Global 2010",
    root="DC, JE, JK, KL with a01.wav, or DC_a01.wav",
)

EMOTIONS = {
    "a": "angry", "d": "disgust", "f": "fear", "h": "happy", "n": "neutral", "sa": "sad", "su": "surprise",
}  # fmt: skip
SPEAKERS = ("DC", "JE", "JK", "KL")
_NAME = re.compile(r"(?:(DC|JE|JK|KL)_)?(sa|su|[adfhn])(\d\d)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by folder and name."""
    root = tree_root(scan, _NAME, INFO.root)
    for path, name in coded_names(scan, root, _NAME, "EMOTION and number, as in DC_a01"):
        speaker, raw, number = name.groups()
        speaker = speaker or path.parent.name
        if speaker not in SPEAKERS:
            scan.problem(path, f"the folder {speaker} is no speaker ({', '.join(SPEAKERS)})")
            continue
        key = f"{speaker}_{raw}{number}"
        yield INFO.utterance(path, key=key, speaker=speaker, emotion=EMOTIONS[raw], emotion_raw=raw)
