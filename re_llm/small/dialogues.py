"""Sentences that a chat LLM writes itself: it plays a person who talks to an assistant about everyday topics.

The first words of the user's turn are given (`I`, `Can you`, `Yesterday`, ...). The LLM continues through its own end
of turn into the assistant's answer and the next question, so every token it makes is a token of speech.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TypeVar

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.records import Record
from re_llm.small.rows import growing

OPENERS = (
    "I", "I am", "I have", "I think", "I feel", "I was", "I want", "My", "We", "They", "He", "She", "It", "You", "The",
    "Yesterday", "Last week", "This morning", "Tomorrow", "When", "Because", "If", "Please", "Can you", "Could you",
    "Do you", "Did you", "Have you", "Is it", "Are there", "What", "Why", "How", "How much", "Where", "Who", "Which",
    "Should I", "Well", "No", "Yes", "Honestly", "Maybe", "Nobody", "Everyone", "There", "Tell me", "Let me",
)  # fmt: skip
GREETINGS = (
    ("Hi! Can we talk about {topic}?", "Of course! Tell me, what happened?"),
    ("Hello, I have a question about {topic}.", "Sure, go ahead."),
    ("Hey, guess what. It is about {topic}.", "Oh, tell me more!"),
    ("Do you have a minute? I would like to tell you about {topic}.", "Yes, I am listening."),
)
T = TypeVar("T")
MARKS = ("<|im_start|>", "<|im_end|>")


class Dialogue(Record):
    """One continuation: `text` still holds the marks of the turns."""

    topic: str
    text: str


@cache
def topics() -> tuple[str, ...]:
    """Everyday topics, as they stand in "Can we talk about ...?"."""
    return asset_lines("topics.txt")


def asset_lines(name: str) -> tuple[str, ...]:
    """The lines of a list that ships with this package, without its comments."""
    lines = (files("re_llm.small") / "assets" / name).read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def prompts(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(topic, prompt, opener) of `count` dialogues; topics, openers and greetings in turn, each shuffled."""
    rng = random.Random(f"dialogues {seed}")
    made: list[tuple[str, str, str]] = []
    decks: tuple[Iterator[str], Iterator[str], Iterator[int]] = (
        _deck(rng, topics()), _deck(rng, OPENERS), _deck(rng, range(len(GREETINGS))),
    )  # fmt: skip
    for topic, opener, number in islice(zip(*decks, strict=False), count):
        question, answer = GREETINGS[number]
        turns = (("user", question.format(topic=topic)), ("assistant", answer))
        turns_text = "".join(f"{MARKS[0]}{who}\n{text}{MARKS[1]}\n" for who, text in turns)
        made.append((topic, f"{turns_text}{MARKS[0]}user\n{opener}", opener))
    return made


def _deck(rng: random.Random, cards: Sequence[T]) -> Iterator[T]:
    """Endless draws without replacement, shuffled anew each round."""
    while True:
        yield from rng.sample(cards, len(cards))


def write_dialogues(
    llm: Path,
    out: Path,
    *,
    count: int,
    seed: int,
    batch: int = 64,
    tokens: int = 96,
    temperature: float = 0.8,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Appends dialogues to `out`, a batch at a time, until there are at least `count`; resumes after a stop.

    Args:
        llm: folder of a chat LLM with ChatML turns.
        tokens: length of each continuation.
        say: receives the progress as text, after each batch.

    Raises:
        RellmError: the folder holds no such LLM, or `out` was started with other settings.
    """
    weights = llm / "model.safetensors"
    if not weights.is_file():
        raise RellmError(f"{llm} holds no model.safetensors", todo="Name the folder of a chat LLM of transformers")
    count = -(-count // batch) * batch  # only whole batches, so that a larger count extends the file of a smaller one
    wanted = prompts(count, seed)
    settings = {
        "seed": seed, "batch": batch, "tokens": tokens, "temperature": temperature, "topics": len(topics()),
    }  # fmt: skip
    with growing(out, settings, {"llm": file_hash(weights)}) as rows:
        write = None
        for first in range(0, count, batch):
            keys = [f"{number:05d}" for number in range(first, first + batch)]
            if keys[-1] in rows.keys:
                continue
            write = write or _Writer(llm, tokens, temperature)
            part = wanted[first : first + batch]
            texts = write([prompt for _, prompt, _ in part], seed=seed * 1_000_003 + first)
            new = zip(keys, part, texts, strict=True)
            rows.append(Dialogue(key=key, topic=topic, text=began + text) for key, (topic, _, began), text in new)
            say(f"text: {rows.rows} of {count} dialogues")


class _Writer:
    """A chat LLM that continues prompts past its own end of turn."""

    def __init__(self, llm: Path, tokens: int, temperature: float):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(llm, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.bfloat16).eval()
        self._options = {
            "do_sample": True, "temperature": temperature, "top_p": 0.92, "top_k": 0,
            "min_new_tokens": tokens, "max_new_tokens": tokens, "eos_token_id": None,
            "pad_token_id": self._tokenizer.pad_token_id,
        }  # fmt: skip

    def __call__(self, texts: list[str], *, seed: int) -> list[str]:
        import torch

        encoded = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            ids = self._model.generate(**encoded, **self._options)
        return self._tokenizer.batch_decode(ids[:, encoded["input_ids"].shape[1] :])
