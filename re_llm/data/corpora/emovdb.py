"""EmoV-DB: four English speakers read CMU Arctic sentences in five emotional states (Adigwe et al. 2018).

Two layouts: `bea/Neutral/neutral_253-280_0257.wav` and `bea_Neutral/neutral_253-280_0257.wav`. The last number is that
of the Arctic sentence; the words are taken from `cmuarctic.data` when it lies in the root. `Sleepy` is `other`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names, read_lines, tree_root

INFO = CorpusInfo(
    name="emovdb",
    title="EmoV-DB",
    languages=("en",),
    utterances=6_893,
    hours=7.0,
    emotions=("neutral", "happy", "angry", "disgust", "other"),
    licence="research only (see the licence file of the release)",
    get="https://openslr.org/115/",
    citation="Adigwe et al., The Emotional Voices Database, arXiv:1806.09514, 2018",
    root="bea, jenie, josh, sam with Amused, Angry, Disgusted, Neutral, Sleepy (or bea_Amused ...)",
)

SPEAKERS = ("bea", "jenie", "josh", "sam")
SLEEPY = {"sleepy": "other", "sleepiness": "other"}
LAST_OF_SET_A = 593
_NAME = re.compile(r"([A-Za-z]+)_(\d+)-(\d+)_(\d{4})")
_ARCTIC = re.compile(r'^\(\s*(arctic_[ab]\d{4})\s+"(.*)"\s*\)$')


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by speaker and name."""
    root = tree_root(scan, _NAME, INFO.root)
    words = _arctic(root / "cmuarctic.data")
    for path, name in coded_names(scan, root, _NAME, "EMOTION_FIRST-LAST_SENTENCE"):
        speaker, _, state = path.parent.name.partition("_")
        if not state:
            speaker, state = path.absolute().parent.parent.name, path.parent.name
        emotion = scan.emotion(state, path, extra=SLEEPY)
        if speaker not in SPEAKERS or emotion is None:
            if speaker not in SPEAKERS:
                scan.problem(path, f"the folder {speaker} is no speaker ({', '.join(SPEAKERS)})")
            continue
        number = int(name[4])
        text = words.get(f"arctic_a{number:04}") if number <= LAST_OF_SET_A else None
        key = f"{speaker}-{path.stem}"
        yield INFO.utterance(path, key=key, text=text, speaker=speaker, emotion=emotion, emotion_raw=state)


def _arctic(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return {m[1]: m[2] for _, line in read_lines(path) if (m := _ARCTIC.match(line))}
