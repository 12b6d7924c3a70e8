"""CREMA-D: 91 actors, twelve sentences, six emotions, rated by a crowd (Cao et al. 2014).

The name of a file says what was acted. What listeners heard stands in `processedResults/summaryTable.csv`; ties are
written `N:S` there. Protocol `perceived` takes that as the label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import coded_names, read_table

INFO = CorpusInfo(
    name="crema_d",
    title="CREMA-D",
    languages=("en",),
    utterances=7_442,
    hours=5.3,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust"),
    licence="Open Database License 1.0",
    get="https://github.com/CheyneyComputerScience/CREMA-D",
    citation="Cao et al., CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE TAFFC 5, 2014",
    root="AudioWAV (and processedResults for protocol perceived)",
    protocols={"perceived": "the emotion that most listeners heard in the voice; ties are left out"},
)

SENTENCES = {
    "IEO": "It's eleven o'clock.", "TIE": "That is exactly what happened.", "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.", "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.", "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.", "ITS": "I think I've seen this before.", "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}  # fmt: skip
EMOTIONS = {"ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
VOTES = {code[0]: name for code, name in EMOTIONS.items()}
_NAME = re.compile(rf"(\d{{4}})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_(LO|MD|HI|XX?)")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by actor and name."""
    root = scan.path_root(lambda p: (p / "AudioWAV").is_dir(), f"expected {INFO.root} in it")
    summary = root / "processedResults" / "summaryTable.csv"
    votes = {}
    if scan.protocol == "perceived":
        votes = {row["FileName"]: row["VoiceVote"] for _, row in read_table(scan, summary, ("FileName", "VoiceVote"))}
    for path, name in coded_names(scan, root / "AudioWAV", _NAME, "ACTOR_SENTENCE_EMOTION_LEVEL"):
        actor, sentence, acted, level = name.groups()
        raw, emotion = acted, EMOTIONS[acted]
        if scan.protocol == "perceived":
            vote = votes.get(path.stem)
            if vote is None:
                scan.problem(summary, f"no votes for {path.stem}")
                continue
            if vote not in VOTES:
                scan.drop("tie between listeners" if ":" in vote else f"vote {vote}")
                continue
            raw, emotion = vote, VOTES[vote]
        text = SENTENCES[sentence]
        yield INFO.utterance(path, text=text, speaker=actor, emotion=emotion, emotion_raw=raw, intensity=level)
