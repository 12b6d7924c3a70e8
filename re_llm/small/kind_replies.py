"""Kind replies to open topics, written by rule: what small:llm learns to answer, by the emotion in the voice."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files

import yaml

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.small.tone import all_different, names_topic, tone
from re_llm.small.turned import clause, topic

TRIES = 12


@cache
def wordings() -> dict[str, dict[str, list[str]]]:
    """Heads, tails and cues by emotion (`assets/replies.yaml`)."""
    text = (files("re_llm.small") / "assets" / "replies.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def kind_reply(text: str, emotion: str, rng: random.Random) -> str | None:
    """A reply that names what was said and fits the emotion; None when the rules write none that does.

    Args:
        emotion: one of those that `assets/replies.yaml` holds.
    """
    parts = wordings()[emotion]
    said = {"clause": clause(text), "topic": topic(text)}
    kinds = [kind for kind in ("clause", "topic") if said[kind]]
    for _ in range(TRIES if kinds else 0):
        kind = kinds[0] if len(kinds) == 1 or rng.random() < 0.6 else kinds[1]
        head = rng.choice(parts[kind]).format(**{kind: said[kind]})
        reply = f"{head[0].upper()}{head[1:]} {rng.choice(parts['tail'])}"
        if names_topic(reply, text) and tone(reply, text) == emotion:
            return reply
    return None


def kind_replies(text: str, rng: random.Random) -> dict[str, str]:
    """A reply for every emotion; empty when one of them cannot be written, or two are the same."""
    found = {emotion: kind_reply(text, emotion, rng) for emotion in PROMPT_EMOTIONS}
    written = {emotion: reply for emotion, reply in found.items() if reply is not None}
    return written if len(written) == len(found) and all_different(list(written.values())) else {}


def with_cue(text: str, emotion: str, rng: random.Random) -> str:
    """The sentence with words in front or behind that carry the emotion."""
    cue = rng.choice(wordings()[emotion]["cue"])
    if not cue:
        return text
    return f"{cue} {text}" if rng.random() < 0.5 else f"{text} {cue}"
