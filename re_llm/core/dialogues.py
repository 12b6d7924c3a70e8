"""What was said before an utterance in a dialogue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DIALOGUES = "-dialogues"  # behind the name of a corpus: the dialogues that were cut out of it
Role = Literal["user", "assistant"]


class Earlier(BaseModel):
    """An utterance that was said before another one in a dialogue; `key` is that of its own row in the corpus.

    Entries of one role that follow each other are one turn. `audio` is relative to the manifest, as everywhere.
    `prompt`: the id of the prompt around the text, with the emotion, where an LLM is to read it so.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    role: Role
    text: str = Field(min_length=1)
    key: str | None = None
    audio: str | None = None
    start: float = Field(default=0.0, ge=0.0)
    duration: float | None = Field(default=None, gt=0.0)
    speaker: str | None = None
    emotion: str | None = None
    prompt: str | None = None


def turns(history: Sequence[Earlier]) -> list[tuple[Role, list[Earlier]]]:
    """Who spoke, and the utterances of the turn."""
    return [(role, list(said)) for role, said in groupby(history, key=lambda each: each.role)]


def words(said: Sequence[Earlier]) -> str:
    """Words of a turn."""
    return " ".join(each.text for each in said)


def first_emotion(history: Sequence[Earlier]) -> str | None:
    """Emotion of the first turn, which is the user's; None when it has no label."""
    return next((each.emotion for _, said in turns(history)[:1] for each in said if each.emotion), None)
