"""The text that small:llm is trained on: kind replies to words and emotion, and what must not be forgotten for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.risk import at_risk, careful_reply
from re_llm.llm.completion import TextLlm
from re_llm.llm.prompts import Prompt, get_prompt
from re_llm.small.kind_replies import kind_replies, with_cue

KINDS = {"told": 0.55, "heard": 0.2, "named": 0.08, "repeated": 0.07, "continued": 0.1}
"""Fraction of the rows: reply to a sentence whose emotion the prompt names; to one with words that carry the emotion;
that emotion's name; the sentence itself; what the untrained LLM continues."""
LABELLED = 2  # emotions of each sentence that a prompt names
CONTINUED_TOKENS = 40


@dataclass(frozen=True)
class TextRow:
    """One row: the answer to `content` in `prompt`. A cut answer teaches no end."""

    prompt: Prompt
    content: str
    answer: str
    cut: bool = False


def kind_rows(sentences: Sequence[str], count: int, *, seed: int) -> list[TextRow]:
    """Rows of all kinds but those that the LLM continues, shuffled; sentences without written replies are left out.

    Args:
        count: rows in all kinds together; fewer come when the sentences do not suffice.
    """
    rng = random.Random(f"kind {seed}")
    wanted = {kind: round(fraction * count) for kind, fraction in KINDS.items() if kind != "continued"}
    makers: dict[str, Callable[[str, dict[str, str]], Iterator[TextRow]]] = {
        "told": lambda text, replies: _told(text, replies, rng),
        "heard": lambda text, replies: _heard(text, replies, rng),
        "named": lambda text, replies: _named(text, rng),
        "repeated": lambda text, replies: iter([TextRow(get_prompt("repeat"), text, text)]),
    }
    rows: list[TextRow] = []
    for text in rng.sample(list(sentences), len(sentences)):
        open_kinds = [kind for kind, left in wanted.items() if left > 0]
        if not open_kinds:
            break
        careful = dict.fromkeys(PROMPT_EMOTIONS, careful_reply(text)) if at_risk(text) else None
        replies = careful or kind_replies(text, rng)
        if not replies:
            continue
        kind = rng.choices(open_kinds, weights=[wanted[kind] for kind in open_kinds])[0]
        made = list(makers[kind](text, replies))
        wanted[kind] -= len(made)
        rows += made
    rng.shuffle(rows)
    return rows


def continued_rows(sentences: Sequence[str], count: int, llm: TextLlm, *, seed: int, batch_size: int) -> list[TextRow]:
    """Rows with what the LLM continues before it is trained, half of them with an emotion."""
    rng = random.Random(f"continued {seed}")
    asked = []
    for text in rng.sample(list(sentences), min(round(KINDS["continued"] * count), len(sentences))):
        prompt = get_prompt(rng.choice(("continue", "continue-emotion")))
        asked.append((prompt.with_emotion(rng.choice(PROMPT_EMOTIONS)), text))
    answers = llm.answer(asked, max_new_tokens=CONTINUED_TOKENS, batch_size=batch_size)
    pairs = zip(asked, answers, strict=True)
    return [TextRow(*one, answer.text, answer.finish_reason == "length") for one, answer in pairs if answer.text]


def _told(text: str, replies: dict[str, str], rng: random.Random) -> Iterator[TextRow]:
    for emotion in rng.sample(PROMPT_EMOTIONS, LABELLED):
        yield TextRow(get_prompt("cascade").with_emotion(emotion), text, replies[emotion])


def _heard(text: str, replies: dict[str, str], rng: random.Random) -> Iterator[TextRow]:
    emotion = rng.choice(PROMPT_EMOTIONS)
    yield TextRow(get_prompt("chat-empathetic"), with_cue(text, emotion, rng), replies[emotion])


def _named(text: str, rng: random.Random) -> Iterator[TextRow]:
    emotion = rng.choice(PROMPT_EMOTIONS)
    yield TextRow(get_prompt("recognize"), with_cue(text, emotion, rng), emotion)
