"""RECCON: conversations of DailyDialog and IEMOCAP whose utterances have emotions and their causes (Poria et al. 2021).

`{"tr_10180": [[{"turn": 1, "speaker": "A", "utterance": ..., "emotion": ..., "expanded emotion cause evidence": [...]},
...]]}`. The speaker of the first utterance is taken for the user. IEMOCAP's recordings come with that corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.text_dialogues import Said, user_turns

INFO = CorpusInfo(
    name="reccon",
    title="RECCON (text)",
    languages=("en",),
    licence="MIT for the annotations; DailyDialog is CC BY-NC-SA 4.0, IEMOCAP has its own",
    get="https://github.com/declare-lab/RECCON (data/original_annotation)",
    citation="Poria et al., Recognizing Emotion Cause in Conversations, Cognitive Computation 2021",
    root="dailydialog_train.json, dailydialog_valid.json, dailydialog_test.json, iemocap_test.json, or some of them",
    text_only=True,
)

FILES = {
    "dailydialog_train": "train",
    "dailydialog_valid": "dev",
    "dailydialog_test": "test",
    "iemocap_test": "test-iemocap",
}


def read(scan: Scan) -> Iterator[Utterance]:
    """Turns of the first speaker, by file."""
    root = scan.path_root(lambda p: any((p / f"{name}.json").is_file() for name in FILES), f"expected {INFO.root}")
    for name, split in FILES.items():
        path = root / f"{name}.json"
        for dialogue, parts in _dialogues(path).items() if path.is_file() else ():
            try:
                said = [_said(scan, path, each) for part in parts for each in part]
            except (KeyError, TypeError, AttributeError) as error:
                scan.problem(path, f"{dialogue}: {type(error).__name__} {error}")
                continue
            if said:
                yield from user_turns(scan, INFO, dialogue, said, said[0].speaker, split=split)


def _said(scan: Scan, path: Path, each: Mapping[str, Any]) -> Said:
    raw = each["emotion"]
    return Said(each["speaker"], each["utterance"].strip(), scan.emotion(raw, path), raw)


def _dialogues(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RellmError(f"{path} cannot be read as JSON: {error}", allowed=INFO.root) from None
    if not isinstance(found, dict):
        raise RellmError(f"{path} holds no conversations by name", allowed=INFO.root)
    return found
