"""MEAD: talking faces of 60 actors in eight emotions and three intensities; here its sound (Wang et al. 2020).

`W019/audio/neutral/level_1/020.m4a`. The files are m4a and need the extra `av`; converted ones (wav, flac) of the same
names are read as well. There are no transcripts: give the option `transcripts`, made by any recogniser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import BLSP_EMO, CorpusInfo, Scan
from re_llm.data.corpora.files import recordings

INFO = CorpusInfo(
    name="mead",
    title="MEAD (audio)",
    languages=("en",),
    utterances=31_734,
    hours=37.3,
    emotions=("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust", "contempt"),
    licence="research only",
    get="https://wywu.github.io/projects/MEAD/MEAD.html",
    citation="Wang et al., MEAD: A Large-scale Audio-visual Dataset for Emotional Talking-face Generation, ECCV 2020",
    root="W009 ... M043",
    protocols={"blsp-emo": "training set of BLSP-Emo: five emotions, 5 words or more (needs transcripts)"},
    filters={"blsp-emo": BLSP_EMO},
    published={"blsp-emo": {"train": 15_345}},
)

_SPEAKER = re.compile(r"[MW]\d{3}")
_LEVEL = re.compile(r"level_([1-3])")


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances by speaker, emotion, level and number."""
    root = scan.path_root(_has_speakers, f"expected {INFO.root} in it")
    for folder in sorted(p for p in root.iterdir() if _SPEAKER.fullmatch(p.name)):
        for path in recordings(folder / "audio"):
            parts = path.relative_to(folder / "audio").parts
            level = _LEVEL.fullmatch(parts[1]) if len(parts) == 3 else None
            if level is None:
                scan.problem(path, "the path is not SPEAKER/audio/EMOTION/level_N/NUMBER")
                continue
            emotion = scan.emotion(parts[0], path)
            if emotion is not None:
                yield INFO.utterance(
                    path, key=f"{folder.name}-{parts[0]}-{level[1]}-{path.stem}", split="train", speaker=folder.name,
                    emotion=emotion, emotion_raw=parts[0], intensity=int(level[1]),
                )  # fmt: skip


def _has_speakers(folder: Path) -> bool:
    return folder.is_dir() and any(_SPEAKER.fullmatch(p.name) and (p / "audio").is_dir() for p in folder.iterdir())
