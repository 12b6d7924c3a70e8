"""CaFE: twelve actors of Québec, six sentences, seven emotions in two intensities (Gournay et al. 2018).

`08-P-2-1.wav` is actor, emotion (Colère, Dégoût, Joie, Neutre, Peur, Surprise, Tristesse), intensity, sentence. The
accents in the names of the folders are often broken by the archive, so that only the names of the files are read. The
release holds everything at 48 kHz and at 192 kHz: where both are there, the copies at 192 kHz are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Filters, Scan
from re_llm.data.corpora.files import coded_names, tree_root

INFO = CorpusInfo(
    name="cafe",
    title="Canadian French Emotional speech (CaFE)",
    languages=("fr",),
    utterances=936,
    hours=1.2,
    emotions=("neutral", "happy", "angry", "sad", "fear", "disgust", "surprise"),
    licence="CC BY-NC-SA 4.0",
    get="https://zenodo.org/records/1478765",
    citation="Gournay et al., A Canadian French Emotional Speech Dataset, MMSys 2018",
    root="recordings such as 08-P-2-1.wav, at any depth",
    protocols={"blsp-emo": "test set of BLSP-Emo: neutral, happy, angry, sad, surprise (648 utterances)"},
    filters={"blsp-emo": Filters(emotions=PROMPT_EMOTIONS)},
    published={"blsp-emo": {"test": 648}},
)

EMOTIONS = {
    "C": "angry", "D": "disgust", "J": "happy", "N": "neutral", "P": "fear", "S": "surprise", "T": "sad",
}  # fmt: skip
HIGH, LOW = "CaFE_192k", "CaFE_48k"
_NAME = re.compile(r"(\d\d)-([CDJNPST])-([12])-([1-6])")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by folder and name."""
    root = tree_root(scan, _NAME, INFO.root)
    twice = (root / LOW).is_dir() and (root / HIGH).is_dir()
    for path, name in coded_names(scan, root, _NAME, "ACTOR-EMOTION-INTENSITY-SENTENCE"):
        if twice and HIGH in path.relative_to(root).parts:
            scan.drop("copy at 192 kHz")
            continue
        actor, raw, intensity, sentence = name.groups()
        yield INFO.utterance(
            path, split="test", speaker=actor, emotion=EMOTIONS[raw], emotion_raw=raw,
            intensity=("weak", "strong")[int(intensity) - 1], sentence=f"cafe-{sentence}",
        )  # fmt: skip
