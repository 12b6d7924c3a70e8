"""Valence, arousal and dominance of emotion words, for corpora that name an emotion and nothing else.

Values: Russell and Mehrabian, Evidence for a three-factor theory of emotions, Journal of Research in Personality 11,
1977, table 4: mean pleasure, arousal and dominance of 151 terms on -1..1. Neutral is the origin of their scales.
Intensity is ours: an emotion that was acted strongly lies at its norm, one that was not, on the way there.
"""

from __future__ import annotations

from re_llm.core.records import Utterance

NORMS_SOURCE = "pseudo:norms"
# Canonical emotion -> (pleasure, arousal, dominance); in the comment their term, where it is another word.
NORMS = {
    "neutral": (0.0, 0.0, 0.0),
    "happy": (0.81, 0.51, 0.46),
    "angry": (-0.51, 0.59, 0.25),
    "sad": (-0.63, -0.27, -0.33),
    "surprise": (0.40, 0.67, -0.13),  # surprised
    "fear": (-0.64, 0.60, -0.43),  # fearful
    "disgust": (-0.60, 0.35, 0.11),  # disgusted
    "contempt": (-0.23, 0.31, 0.18),
    "calm": (0.68, -0.46, 0.06),  # relaxed
    "excited": (0.62, 0.75, 0.38),
    "frustrated": (-0.64, 0.52, -0.35),
    "bored": (-0.65, -0.62, -0.33),
    "anxious": (0.01, 0.59, -0.15),
}
INTENSITIES = {"low": 0.5, "normal": 0.75, "medium": 0.75, "strong": 1.0, "high": 1.0}
UNSTATED = 0.75


def norm(emotion: str | None, intensity: str | None = None) -> tuple[float, float, float] | None:
    """(valence, arousal, dominance) on 0..1 of a canonical emotion; None for one without a norm.

    Args:
        intensity: as the corpus calls it (`INTENSITIES`); another word, or none, counts as normal.
    """
    if emotion not in NORMS:
        return None
    strength = INTENSITIES.get(intensity or "", UNSTATED)
    valence, arousal, dominance = (round((1 + strength * value) / 2, 4) for value in NORMS[emotion])
    return valence, arousal, dominance


def with_norm(row: Utterance) -> Utterance:
    """The row with the norm of its emotion, marked as that, where it has no dimensions of its own."""
    if row.dimensions() is not None:
        return row
    found = norm(row.emotion, getattr(row, "intensity", None))
    if found is None:
        return row
    named = dict(zip(("valence", "arousal", "dominance"), found, strict=True))
    return row.model_copy(update={**named, "vad_source": NORMS_SOURCE})
