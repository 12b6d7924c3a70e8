"""Dialogues that come as text alone: a row for every turn of the user's, with what was said before as `history`.

Such rows have no recording (`audio` is empty). Text systems answer them; a speech system lists them as dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from re_llm.core.dialogues import Earlier, Role
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan

NO_RECORDING = ""


@dataclass(frozen=True)
class Said:
    """One utterance of a dialogue. `emotion`: a label of the corpus' set, None when there is none."""

    speaker: str
    text: str
    emotion: str | None = None
    emotion_raw: str | None = None


def user_turns(
    scan: Scan, info: CorpusInfo, dialogue: str, said: Sequence[Said], user: str, **fields: object
) -> Iterator[Utterance]:
    """Turns of the speaker `user`; utterances of one speaker that follow each other are one turn.

    The label of a turn is that of its last utterance. Turns before the user's first are left out, and counted.

    Args:
        fields: further fields of every row.
    """
    history: list[Earlier] = []
    for turn, (speaker, group) in enumerate(groupby(said, key=lambda each: each.speaker)):
        own = list(group)
        text = " ".join(each.text for each in own)
        last = own[-1]
        if speaker == user:
            yield info.utterance(
                NO_RECORDING, key=f"{dialogue}-{turn}", text=text, speaker=speaker, dialogue=dialogue, turn=turn,
                emotion=last.emotion, emotion_raw=last.emotion_raw, history=list(history) or None, **fields,
            )  # fmt: skip
        elif not history:
            scan.drop("a turn before the user's first")
            continue
        role: Role = "user" if speaker == user else "assistant"
        history.append(Earlier(role=role, text=text, speaker=speaker, emotion=last.emotion))
