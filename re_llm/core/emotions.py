"""Canonical emotion names, how corpora and people spell them, and how an answer is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from re_llm.core.errors import RellmError

# The options of the recognition prompt, in its order (RE-LLM section II-C).
PROMPT_EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")

CANONICAL = (
    "neutral", "happy", "angry", "sad", "surprise",
    "fear", "disgust", "contempt", "calm", "excited", "frustrated", "bored", "anxious", "other",
)  # fmt: skip

# Other spellings that mean the same class in corpora, chat answers and EmoBox files.
SPELLINGS = {
    "neu": "neutral", "n": "neutral",
    "hap": "happy", "happiness": "happy", "joy": "happy", "joyful": "happy", "cheerful": "happy", "amused": "happy",
    "ang": "angry", "anger": "angry", "mad": "angry", "furious": "angry",
    "sadness": "sad", "unhappy": "sad",
    "sur": "surprise", "surprised": "surprise", "surprising": "surprise", "amazed": "surprise",
    "fea": "fear", "fearful": "fear", "afraid": "fear", "scared": "fear",
    "dis": "disgust", "disgusted": "disgust",
    "con": "contempt", "contemptuous": "contempt",
    "exc": "excited", "excitement": "excited",
    "fru": "frustrated", "frustration": "frustrated",
    "boredom": "bored", "anxiety": "anxious", "oth": "other",
}  # fmt: skip


def canonical(label: str, allowed: Sequence[str] = CANONICAL, *, where: str = "") -> str:
    """Canonical name of `label`.

    Raises:
        RellmError: the label is unknown or not in `allowed`; names `where` (file and line).
    """
    name = label.strip().lower()
    name = SPELLINGS.get(name, name)
    if name not in allowed:
        place = f" in {where}" if where else ""
        raise RellmError(
            f"unknown emotion label {label!r}{place}",
            allowed=", ".join(allowed),
            todo="Correct the label, or add it to `emotions` in the recipe",
        )
    return name


_WORDS = {**{name: name for name in CANONICAL if name != "other"}, **{k: v for k, v in SPELLINGS.items() if len(k) > 3}}
_PATTERN = re.compile(r"\b(" + "|".join(sorted(_WORDS, key=len, reverse=True)) + r")\b", re.IGNORECASE)


def parse_answer(answer: str, allowed: Sequence[str] = PROMPT_EMOTIONS) -> str | None:
    """First emotion of `allowed` that a free-text answer names; None when it names none.

    "not angry but sad" counts as "sad": a name right after a negation is passed over.
    """
    for match in _PATTERN.finditer(answer):
        name = _WORDS[match.group(1).lower()]
        before = answer[: match.start()].lower().split()[-2:]
        if name in allowed and not {"not", "no", "never", "neither"} & {w.strip(",.;:'\"") for w in before}:
            return name
    return None
