"""RAVDESS: 24 actors, two sentences, eight emotions in two intensities (Livingstone and Russo 2018).

Quirks: five files have two channels, two are byte-identical (a check reports them); songs and videos of the full
release follow the same naming and are left out; the copy at Kaggle holds every recording twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import BLSP_EMO, CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names

INFO = CorpusInfo(
    name="ravdess",
    title="RAVDESS (speech)",
    languages=("en",),
    utterances=1_440,
    hours=1.5,
    emotions=("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    licence="CC BY-NC-SA 4.0",
    get="https://zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip)",
    citation="Livingstone and Russo, The Ryerson Audio-Visual Database of Emotional Speech and Song, PLoS ONE 13, 2018",
    root="Actor_01 ... Actor_24",
    protocols={
        "blsp-emo": "test set of BLSP-Emo: neutral, happy, sad, angry, surprise (864 utterances)",
        "actors": "the actors of the option `test` are the test set, the others the training; the same five emotions",
    },
    options={"test": "numbers of the test actors, separated by commas (21,22,23,24)"},
    filters={"blsp-emo": BLSP_EMO, "actors": BLSP_EMO},
    published={"blsp-emo": {"test": 864}},
)

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
STATEMENTS = ("Kids are talking by the door.", "Dogs are sitting by the door.")
TEST_ACTORS = ("21", "22", "23", "24")
SPEECH, AUDIO_ONLY = "01", "03"
_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
_FORM = "MODALITY-CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR"


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by actor and name."""
    root = scan.path_root(lambda p: any(p.glob("Actor_[0-9][0-9]")), f"expected {INFO.root} in it")
    tested = {f"{int(actor):02d}" for actor in scan.names("test", TEST_ACTORS)} if scan.protocol == "actors" else None
    for path, name in coded_names(scan, root, _NAME, _FORM):
        modality, channel, emotion, intensity, statement, repetition, actor = name.groups()
        if channel != SPEECH or modality != AUDIO_ONLY:
            scan.drop("song" if channel != SPEECH else "video")
        elif path.parent.name != f"Actor_{actor}":
            scan.problem(path, f"the file of actor {actor} lies in {path.parent.name}")
        else:
            yield INFO.utterance(
                path, split="test" if tested is None or actor in tested else "train",
                text=STATEMENTS[int(statement) - 1], speaker=actor,
                emotion=EMOTIONS[int(emotion) - 1], emotion_raw=emotion,
                gender="male" if int(actor) % 2 else "female",
                intensity="strong" if intensity == "02" else "normal", repetition=int(repetition),
            )  # fmt: skip
