"""Emotion labels: canonical names, other spellings, other label sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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

# The nearest class of labels that corpora use beside the names above. Answers are not parsed with them.
NEAREST = {
    "worried": "anxious", "worry": "anxious", "nervous": "anxious",
    "annoyed": "angry", "annoyance": "angry", "irritated": "angry",
    "disappointed": "sad", "disappointment": "sad", "depressed": "sad",
    "ps": "surprise", "pleasant_surprise": "surprise", "pleasant surprise": "surprise",
    "pleasant_surprised": "surprise", "pleasantly_surprised": "surprise", "pleasantly surprised": "surprise",
    "enthusiastic": "excited", "enthusiasm": "excited", "terrified": "fear", "delighted": "happy", "relaxed": "calm",
}  # fmt: skip

# Rashkin et al., Towards Empathetic Open-domain Conversation Models, ACL 2019, table 1.
EMPATHETIC_DIALOGUES = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident",
    "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious",
    "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud",
    "sad", "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
LABEL_SETS = {"empathetic_dialogues": EMPATHETIC_DIALOGUES}
CUSTOM = "custom"  # a set that was given to `prepare` as a list; its rows were checked then


def parse_label_set(text: str) -> tuple[str, tuple[str, ...]]:
    """(name, labels) of a name of `LABEL_SETS`, a file with one label a line, or a comma-separated list.

    Raises:
        ValueError: fewer than two different labels.
    """
    if text in LABEL_SETS:
        return text, LABEL_SETS[text]
    in_file = "," not in text and Path(text).is_file()
    given = Path(text).read_text("utf-8").splitlines() if in_file else text.split(",")
    labels = tuple(dict.fromkeys(name for label in given if (name := label.strip().lower())))
    if len(labels) < 2:
        raise ValueError(text)
    return CUSTOM, labels


def is_label(emotion: str | None, label_set: str | None = None) -> bool:
    """Whether `emotion` is a label of the set that a row names; without one, of `CANONICAL`."""
    return emotion is not None and (label_set == CUSTOM or emotion in LABEL_SETS.get(label_set or "", CANONICAL))


def find_label(label: str, allowed: Sequence[str] = CANONICAL) -> str | None:
    """The label of `allowed` that a corpus means: the label itself, another spelling of it, or the nearest one."""
    name = label.strip().lower()
    candidates = (name, SPELLINGS.get(name), NEAREST.get(name))
    return next((found for found in candidates if found in allowed), None)


def canonical(label: str, allowed: Sequence[str] = CANONICAL, *, where: str = "") -> str:
    """As `find_label`.

    Raises:
        RellmError: the label is unknown or not in `allowed`; names `where` (file and line).
    """
    name = find_label(label, allowed)
    if name is None:
        place = f" in {where}" if where else ""
        raise RellmError(
            f"unknown emotion label {label!r}{place}",
            allowed=", ".join(allowed),
            todo="Correct the label, or add it to `emotions` in the recipe",
        )
    return name
