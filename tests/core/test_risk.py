"""Sentences about harming oneself."""

from __future__ import annotations

import pytest

from re_llm.core.risk import REPLIES, at_risk, careful_reply


@pytest.mark.parametrize(
    "said",
    [
        "I want to kill myself.", "Sometimes I wish I was dead.", "I don\u2019t want to live anymore.",
        "I keep thinking of suicide.", "I'm cutting myself again.", "i want to kill my self",
        "There is no reason to live.", "I could end it all tonight.",
        "I was ready to walk outside and get hit by a car.", "They are better off without me.",
        "Not worth it to live.", "Life isn't worth living.", "I have nothing to live for.", "I am so tired of living.",
    ],
)  # fmt: skip
def test_what_needs_care(said: str) -> None:
    assert at_risk(said)
    assert careful_reply(said) in REPLIES and careful_reply(said) == careful_reply(said)


@pytest.mark.parametrize(
    "said",
    [
        "The battery died.",
        "This bus kills me, it is late again.",
        "I'm dying to see you.",
        "I cut the bread.",
        "Take it all.",
        "It is not worth the price.",
        "That house is worth living in.",
        "I'm tired of living in this city.",
    ],
)
def test_what_does_not(said: str) -> None:
    assert not at_risk(said)
