"""Conversations of six turns with a speech LLM, on recordings of the miniature world: what the replies make of them.

Every conversation is one voice; each turn is another sentence, in another emotion than the turn before. The LLM's own
replies are the history. Between the turns it is asked in text what was said before and how it sounded.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.conversation import Turn
from re_llm.inference.decoding import Decoding
from re_llm.inference.dialogue import answer_dialogues
from re_llm.inference.estimate import EncodedSpeech
from re_llm.inference.reply import DEFAULT_PROMPT
from re_llm.llm.prompts import get_prompt
from re_llm.mini.answers import QUESTIONS
from re_llm.mini.grammar import emotion_of, gold_levels, topics_of
from re_llm.mini.quality import placed_sentences

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine

TURNS = 6
BATCH = 16
RESAMPLES = 2000


@dataclass(frozen=True)
class Rate:
    """A fraction of the conversations, with its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Rate:
        from scipy.stats import binomtest

        interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
        return cls(sum(hits) / len(hits), float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Conversations:
    """Rates over conversations.

    Attributes:
        first_fits: replies that fit the emotion of the second recording when nothing was said before it.
        second_fits: replies to the same recordings as second turns, after one in another emotion.
        second_less_first: their difference, with a bootstrap interval over conversations.
        second_keeps: of the second replies, those that fit the emotion of the first turn.
        topics: by turn, replies that name the topic of their turn and no other.
        whole: by turn, replies that are replies of the world, word for word.
        asked: answers to questions that name what is right: by `after N: KIND`.
    """

    conversations: int
    voices: int
    first_fits: Rate
    second_fits: Rate
    second_less_first: Rate
    second_keeps: Rate
    topics: list[Rate]
    whole: list[Rate]
    asked: dict[str, Rate]


@dataclass(frozen=True)
class _Said:
    """A recording of the world."""

    row: Utterance
    topic: str
    heard: EncodedSpeech


Talk = list[_Said]


def converse(engine: Engine, rows: Sequence[Utterance], root: Path, *, count: int = 80, seed: int = 0) -> Conversations:
    """Holds conversations with an engine.

    Args:
        rows: of a manifest of the miniature's corpora; those of neutral words are used.
        root: folder of the manifest.
        count: conversations.

    Raises:
        RellmError: no voice says enough sentences in enough emotions.
    """
    talks = _encoded(engine, _plans(rows, count, seed), root)
    alone = _answer(engine, [[Turn("user", (talk[1].heard,))] for talk in talks])
    history: list[list[Turn]] = [[] for _ in talks]
    replies: list[list[str]] = []
    asked: dict[str, Rate] = {}
    for turn in range(TURNS):
        said = [[*before, Turn("user", (talk[turn].heard,))] for before, talk in zip(history, talks, strict=True)]
        replies.append(_answer(engine, said))
        history = [[*turns, Turn("assistant", (text,))] for turns, text in zip(said, replies[turn], strict=True)]
        if turn in (0, 1, TURNS - 2):
            asked |= _ask(engine, talks, history, turn)
    emotions = [[str(talk[turn].row.emotion) for talk in talks] for turn in range(2)]
    first = [emotion_of(text) == wanted for text, wanted in zip(alone, emotions[1], strict=True)]
    second = [emotion_of(text) == wanted for text, wanted in zip(replies[1], emotions[1], strict=True)]
    kept = [emotion_of(text) == earlier for text, earlier in zip(replies[1], emotions[0], strict=True)]
    return Conversations(
        len(talks), len({talk[0].row.speaker for talk in talks}), Rate.of(first), Rate.of(second),
        _difference(second, first, seed), Rate.of(kept),
        [
            Rate.of([topics_of(text) == {talk[turn].topic} for text, talk in zip(each, talks, strict=True)])
            for turn, each in enumerate(replies)
        ],
        [Rate.of([gold_levels(text) is not None for text in each]) for each in replies],
        asked,
    )  # fmt: skip


def _plans(rows: Sequence[Utterance], count: int, seed: int) -> list[list[tuple[Utterance, str]]]:
    """Recordings of each conversation with their topics: one voice, other sentences, the emotion changes each turn."""
    voices: dict[str, list[tuple[Utterance, str]]] = defaultdict(list)
    for row, sentence in placed_sentences(rows):
        if sentence.words_emotion == "neutral" and row.speaker is not None and row.emotion is not None:
            voices[row.speaker].append((row, sentence.topic))
    rng = random.Random(f"conversations {seed}")
    plans = []
    names = sorted(voices)
    for number in range(count if names else 0):
        pool = rng.sample(voices[names[number % len(names)]], len(voices[names[number % len(names)]]))
        plan: list[tuple[Utterance, str]] = []
        for row, topic in pool:
            fresh = topic not in {each for _, each in plan}
            if len(plan) < TURNS and fresh and (not plan or row.emotion != plan[-1][0].emotion):
                plan.append((row, topic))
        if len(plan) == TURNS:
            plans.append(plan)
    if not plans:
        raise RellmError(
            f"no voice says {TURNS} sentences of neutral words in changing emotions",
            todo="Give the manifest of a corpus of the miniature, and the split of its unseen voices",
        )
    return plans


def _encoded(engine: Engine, plans: Sequence[list[tuple[Utterance, str]]], root: Path) -> list[Talk]:
    from re_llm.audio import waveform

    rows = {row.key: row for plan in plans for row, _ in plan}
    heard: dict[str, EncodedSpeech] = {}
    keys = sorted(rows, key=lambda key: (rows[key].duration or 0.0, key))
    for first in range(0, len(keys), BATCH):
        part = keys[first : first + BATCH]
        waves = [
            waveform.load(rows[key].audio, start=rows[key].start, duration=rows[key].duration, root=root)
            for key in part
        ]
        heard |= dict(zip(part, engine.encode(waves), strict=True))
    return [[_Said(row, topic, heard[row.key]) for row, topic in plan] for plan in plans]


def _answer(engine: Engine, dialogues: Sequence[list[Turn]]) -> list[str]:
    prompt, decoding = get_prompt(DEFAULT_PROMPT), Decoding(max_new_tokens=64)
    return [
        answer.text
        for first in range(0, len(dialogues), BATCH)
        for answer in answer_dialogues(engine, dialogues[first : first + BATCH], prompt, decoding)
    ]


def _ask(engine: Engine, talks: Sequence[Talk], history: Sequence[list[Turn]], turn: int) -> dict[str, Rate]:
    """Rates of right answers to the questions after a turn (from 0), which do not become part of the history."""
    found = {}
    for kind, (wording, *_) in QUESTIONS.items():
        answers = _answer(engine, [[*before, Turn("user", (wording,))] for before in history])
        meant = [talk[0 if kind.endswith("first") else turn] for talk in talks]
        found[f"after {turn + 1}: {kind}"] = Rate.of([
            emotion_of(text) == each.row.emotion if kind.startswith("sounded") else topics_of(text) == {each.topic}
            for text, each in zip(answers, meant, strict=True)
        ])  # fmt: skip
    return found


def _difference(second: Sequence[bool], first: Sequence[bool], seed: int) -> Rate:
    values = np.subtract(second, first, dtype=float)
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Rate(float(values.mean()), float(low), float(high))
