"""Replies of several systems to the same sentences, spoken in several emotions, and a scorer that goes by keywords."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate.empathy.epitome import MECHANISMS, Empathy, Level

SENTENCES = ("I got the letter today.", "She is moving to Spain.", "The train was late again.", "We won the game.")
EMOTIONS = ("neutral", "sad", "angry", "happy", "surprise")
# What a system that hears the emotion says, and what one that does not.
HEARD = {
    "neutral": "I see. Thanks for telling me.",
    "sad": "I'm so sorry, you sound sad. What happened?",
    "angry": "I'm sorry, that sounds infuriating. You sound angry. What happened?",
    "happy": "That is wonderful, you sound happy! How did it go?",
    "surprise": "You sound surprised! What happened?",
}
DEAF = "Thanks for telling me."


class Keywords:
    """ER by `sorry`, EX by the question mark, IP by `you sound`."""

    name = "keywords"
    window = None
    mechanisms = MECHANISMS

    def score(self, seekers: Sequence[str], responses: Sequence[str]) -> list[Empathy]:
        signs = dict(zip(MECHANISMS, ("sorry", "you sound", "?"), strict=True))
        return [
            {
                m: Level(2, (0.0, 0.0, 1.0)) if sign in text.lower() else Level(0, (1.0, 0.0, 0.0))
                for m, sign in signs.items()
            }
            for text in responses
        ]


def reply(system: str, key: str, emotion: str, *, hears: bool, **more: object) -> ReplyRecord:
    """A reply; the answer to the recognition prompt is right when the system hears, else `neutral`."""
    answer = f"The emotion is {emotion}." if hears else "It sounds neutral."
    response = HEARD[emotion] if hears else DEAF
    fields = {"text": SENTENCES[0], "answer": answer, "corpus": "esd", "response": response, **more}
    return ReplyRecord(key=key, system=system, emotion=emotion, **fields)


def write_replies(path: Path, system: str, *, fraction: float, corpus: str = "esd", seed: int | None = None) -> Path:
    """Replies of a system that hears the emotion in a share of the utterances; 20 utterances for each sentence."""
    rows = []
    for s, sentence in enumerate(SENTENCES):
        for e, emotion in enumerate(EMOTIONS):
            for n in range(4):
                hears = ((s * 20 + e * 4 + n) * 37 + (seed or 0) * 11) % 100 < 100 * fraction
                key = f"{corpus}-{s}-{emotion}-{n}"
                rows.append(reply(system, key, emotion, hears=hears, text=sentence, corpus=corpus, seed=seed))
    write_records(path, rows)
    return path
