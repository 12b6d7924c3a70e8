"""EmoDB: ten German actors, ten sentences, seven emotions (Burkhardt et al. 2005).

`03a01Fa.wav` is speaker 03, sentence a01, emotion F (Freude), version a.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan, speaker_folds
from re_llm.data.corpora.files import coded_names, recordings

INFO = CorpusInfo(
    name="emodb",
    title="Berlin Database of Emotional Speech (EmoDB)",
    languages=("de",),
    utterances=535,
    hours=0.4,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust", "bored"),
    licence="free for research",
    get="http://emodb.bilderbar.info/",
    citation="Burkhardt et al., A database of German emotional speech, Interspeech 2005",
    root="wav",
    protocols={"10-fold": "speaker-independent: one speaker is the test set, the next one dev (option fold)"},
    options={"fold": "number of the test speaker in the order of their names, 1 to 10 (1)"},
)

EMOTIONS = {"W": "angry", "L": "bored", "E": "disgust", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
_NAME = re.compile(rf"(\d\d)({'|'.join(SENTENCES)})([{''.join(EMOTIONS)}])([a-z]?)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by name."""
    root = scan.path_root(lambda p: any(recordings(p / "wav")), f"expected {INFO.root} in it")
    splits = speaker_folds(scan, SPEAKERS) if scan.protocol else {}
    for path, name in coded_names(scan, root / "wav", _NAME, "SPEAKER, SENTENCE, EMOTION, VERSION as in 03a01Fa"):
        speaker, sentence, emotion, _ = name.groups()
        yield INFO.utterance(
            path, split=splits.get(speaker, "all"), text=SENTENCES[sentence], speaker=speaker,
            emotion=EMOTIONS[emotion], emotion_raw=emotion,
        )  # fmt: skip
