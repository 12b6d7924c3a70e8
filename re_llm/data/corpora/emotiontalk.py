"""EmotionTalk: dialogues of Chinese actors, seven emotions (Sun et al. 2025).

One JSON file an utterance in `Audio/json`: `content`, `speaker_id`, `emotion_result` and `file_name`, whose recording
is found by its name anywhere in `Audio/wav`; `data` holds what each annotator said. The labels are those given to the
sound alone; those of the text and the video stand in folders of their own and are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.files import recordings, visible

INFO = CorpusInfo(
    name="emotiontalk",
    title="EmotionTalk",
    languages=("zh",),
    utterances=19_250,
    hours=23.6,
    emotions=("happy", "surprise", "sad", "disgust", "angry", "fear", "neutral"),
    licence="CC BY-NC-SA 4.0",
    get="https://huggingface.co/datasets/BAAI/Emotiontalk",
    citation="Sun et al., EmotionTalk: An Interactive Chinese Multimodal Emotion Dataset With Rich Annotations, 2025",
    root="Audio/json and Audio/wav",
)


def read(scan: Scan) -> Iterator[Utterance]:
    """Utterances in the order of their JSON files."""
    root = scan.path_root(lambda p: (p / "Audio" / "json").is_dir(), f"expected {INFO.root} in it")
    sounds = {path.stem: path for path in recordings(root / "Audio" / "wav")}
    for path in visible(sorted((root / "Audio" / "json").rglob("*.json"))):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            raw, name = str(row["emotion_result"]), str(row["file_name"])
        except (ValueError, KeyError, TypeError) as error:
            scan.problem(path, f"{type(error).__name__} {error}")
            continue
        stem = Path(name).stem
        yield INFO.utterance(
            sounds.get(stem, root / "Audio" / "wav" / name), key=stem,
            text=str(row.get("content") or "").strip() or None,
            speaker=str(row.get("speaker_id") or "") or None, emotion=scan.emotion(raw, path), emotion_raw=raw,
        )  # fmt: skip
