"""Norms of emotion words in place of annotated dimensions."""

from re_llm.core.emotions import CANONICAL
from re_llm.core.norms import NORMS, norm, with_norm
from re_llm.core.records import Utterance


def row(**fields) -> Utterance:
    return Utterance(key="a", corpus="c", split="all", audio="a.wav", **fields)


def test_every_emotion_but_other_has_a_norm_on_0_to_1():
    assert set(NORMS) == set(CANONICAL) - {"other"}
    for emotion in NORMS:
        assert all(0 <= value <= 1 for value in norm(emotion, "strong"))
    assert norm("other") is None and norm(None) is None


def test_intensity_moves_the_norm_away_from_neutral():
    assert norm("neutral") == (0.5, 0.5, 0.5)
    assert norm("angry", "strong") == (0.245, 0.795, 0.625)
    assert norm("angry", "low") == (0.3725, 0.6475, 0.5625)
    assert norm("angry") == norm("angry", "normal")


def test_annotated_dimensions_stay_and_norms_are_marked():
    annotated = row(emotion="sad", valence=0.1, arousal=0.2, dominance=0.3, vad_source="annotated")
    assert with_norm(annotated) is annotated
    given = with_norm(row(emotion="sad", intensity="strong"))
    assert given.dimensions() == (0.185, 0.365, 0.335) and given.vad_source == "pseudo:norms"
    assert with_norm(row()).vad_source is None
