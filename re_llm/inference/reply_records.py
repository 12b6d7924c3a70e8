"""Records of replies; and which model names mean an emotion encoder alone. No torch."""

from __future__ import annotations

import json
from pathlib import Path

from re_llm.core.assets import resolve_component
from re_llm.core.records import DIMENSIONS, ReplyRecord, Utterance
from re_llm.inference.reply import Reply, ReplyOptions

FIELDS_OF_ROW = (
    "key",
    "text",
    "audio",
    "speaker",
    "language",
    "duration",
    "emotion",
    "label_set",
    "reference",
    "words_emotion",
)
SHARED_EMOTION = "re_llm_shared_emotion"  # model type of an emotion encoder that reads Whisper's layers
# The recordings of earlier turns are the manifest's, not the record's.
_UNHEARD = {"audio": None, "start": 0.0, "duration": None}


def is_recognizer(name: str) -> bool:
    """Whether a name means an emotion encoder instead of a RE-LLM, by its config.json; false for what is not here."""
    try:
        config = json.loads((Path(resolve_component(name)) / "config.json").read_bytes())
        heads = config.get("architectures") or []
        return config["model_type"] == SHARED_EMOTION or any(head.endswith("SequenceClassification") for head in heads)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # whoever loads it says what is wrong


def to_record(row: Utterance, reply: Reply, options: ReplyOptions, source: str | None = None) -> ReplyRecord:
    """The record of one reply.

    Args:
        source: hash of the row and its recording, so that a row that has changed since is noticed.
    """
    predictions = reply.predictions()
    # The head is linear and may leave 0..1 by a little; the record's scale ends there.
    predictions |= {n: min(max(value, 0.0), 1.0) for n in DIMENSIONS if (value := predictions[n]) is not None}
    predictions["probabilities"] = predictions["probabilities"] or None
    if reply.trajectory:
        predictions["trajectory"] = [moment.predictions() for moment in reply.trajectory]
    if reply.notice:
        predictions["notice"] = reply.notice
    decoded = ("tokens", "finish_reason") if options.prompt else ()
    names = ("response", "answer", "named_emotion", "unsure", "transcript", "asked", *decoded)
    return ReplyRecord(
        **{name: getattr(row, name) for name in FIELDS_OF_ROW},
        **predictions,
        **{name: getattr(reply, name) for name in names},
        **options.variant.fields(options.system, row.key),
        corpus=options.corpus or row.corpus,
        gender=(row.model_extra or {}).get("gender"),
        start=row.start or None,
        **{f"reference_{name}": getattr(row, name) for name in DIMENSIONS},
        prompt=options.prompt,
        seed=options.seed,
        source=source,
        history=[each.model_copy(update=_UNHEARD) for each in row.history] if row.history else None,
    )
