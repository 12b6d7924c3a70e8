"""Training rows of the miniature chat LLM, and the disturbance of their content embeddings.

Shapes: B rows, P prefix tokens, L content tokens, D width.

A frozen LLM that has only seen clean text cannot read speech embeddings, which blur, repeat and surround words. So
the content's embeddings are disturbed from the start of its training: tokens doubled, fillers put in between,
neighbours smeared into each other, noise added.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.files import hash_of
from re_llm.llm.prompts import PROMPTS, RELEASED, Prompt, get_prompt, split_chat
from re_llm.mini.grammar import Sentence, respond_to
from re_llm.mini.lexicon import CUES, TOPICS
from re_llm.model.convert.tokenizer import END_OF_TEXT, IM_END

# The others came after the miniature's LLM was trained.
TAUGHT = tuple(name for name, prompt in PROMPTS.items() if name not in ("label", "repeat") and prompt not in RELEASED)
# How often each prompt is trained: the ones the alignment stages lean on most come most often.
PROMPT_WEIGHTS = {"chat-empathetic": 2.0, "continue": 2.0, "continue-emotion": 2.0, "recognize": 1.5}


@dataclass(frozen=True)
class Row:
    """Token ids of one row; the pieces were tokenised apart."""

    prefix: tuple[int, ...]
    content: tuple[int, ...]
    suffix: tuple[int, ...]
    answer: tuple[int, ...]
    """With the end tokens."""


@dataclass(frozen=True)
class Disturbance:
    """How strongly content embeddings are disturbed. Training draws each row's strengths below these."""

    double: float = 0.6
    """Probability that a token is doubled."""
    filler: float = 0.6
    """Probability that a filler follows a token."""
    smear: float = 0.35
    """Part of an embedding that comes from its two neighbours."""
    noise: float = 0.7
    """Standard deviation of Gaussian noise, in RMS of the embedding matrix."""

    fraction: float = 0.7
    """Fraction of the rows that are disturbed at all."""

    @property
    def strengths(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "fraction"}

    def scaled(self, factor: float) -> Disturbance:
        """The same with all strengths multiplied; the fraction stays."""
        return replace(self, **{name: factor * value for name, value in self.strengths.items()})

    def draw(self, rng: random.Random) -> Disturbance:
        """Strengths for one row: each uniform between 0 and its value, or none at all."""
        if rng.random() >= self.fraction:
            return CLEAN
        return replace(CLEAN, **{name: rng.random() * value for name, value in self.strengths.items()})


def contents(sentences: Sequence[Sentence]) -> dict[str, str]:
    """Hashes of what the LLM is taught: the sentences, and what is answered to which prompt.

    An answer follows from the sentence's category, topic and emotion, so that one sentence of each category tells.
    """
    examples = {sentence.category: sentence for sentence in sentences}.values()
    answers = (
        f"{get_prompt(name)} {emotion} {respond_to(name, replace(sentence, words_emotion=emotion), emotion)}"
        for name in TAUGHT
        for emotion in PROMPT_EMOTIONS
        for sentence in examples
    )
    return {"sentences": hash_of(map(repr, sentences)), "prompts and answers": hash_of(answers)}


CLEAN = Disturbance(0.0, 0.0, 0.0, 0.0)


def vary(sentence: Sentence, rng: random.Random, words: list[str]) -> str:
    """The text as a recogniser might write it: case, final full stop, a few wrong words.

    The topic and the emotional words are kept, or the answer would not follow from the text any more.
    """
    text = sentence.text
    if rng.random() < 0.4:
        core = set(sentence.core.rstrip(".").split()) - {sentence.topic}
        kept = []
        for word in text.split():
            if word.strip(".,") not in core or word.endswith(",") or rng.random() > 0.1:
                kept.append(word)
            elif rng.random() < 0.8:
                kept.append(rng.choice(words) + ("." if word.endswith(".") else ""))
        text = " ".join(kept)
    if rng.random() < 0.2:
        text = text.rstrip(".")
    return text.lower() if rng.random() < 0.25 else text


class RowSource:
    """Micro-batches of rows; each is a function of (seed, step, number) alone, so that training can resume.

    Args:
        tokenizer: with the chat template.
        sentences: the training split.
        history: fraction of micro-batches whose rows have one earlier turn.
    """

    def __init__(self, tokenizer: Any, sentences: list[Sentence], *, seed: int = 0, history: float = 0.08):
        self.tokenizer, self.sentences, self.seed, self.history = tokenizer, sentences, seed, history

    @cached_property
    def neutral_words(self) -> list[str]:
        """Words that carry neither topic nor emotion, sorted: what wrong words and fillers are drawn from."""
        loud = {w for kinds in CUES.values() for cues in kinds.values() for cue in cues for w in cue.lower().split()}
        words = {w for s in self.sentences for w in re.findall(r"[A-Za-z]+", s.core)}
        return sorted(w for w in words if w.lower() not in loud and w.lower() not in TOPICS)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def fillers(self) -> list[int]:
        """Tokens that may stand between words without changing what is said."""
        encoded = (self.encode(" " + word) for word in self.neutral_words)
        return sorted({ids[0] for ids in encoded if len(ids) == 1})

    def row(
        self, prompt: Prompt, sentence: Sentence, emotion: str, text: str, history: list[dict[str, str]] | None = None
    ) -> Row:
        prefix, suffix = split_chat(self.tokenizer, prompt.with_emotion(emotion), history)
        answer = respond_to(prompt.id, sentence, emotion) + f"{IM_END}\n{END_OF_TEXT}"
        return Row(*(self.encode(piece) for piece in (prefix, text, suffix, answer)))

    def _turn(self, prompt: Prompt, rng: random.Random) -> list[dict[str, str]]:
        said = rng.choice(self.sentences)
        answer = respond_to(prompt.id, said, said.words_emotion)
        return [{"role": "user", "content": said.text}, {"role": "assistant", "content": answer}]

    def micro_batch(self, step: int, number: int, rows: int) -> list[Row]:
        """Rows of one prompt and one label, of similar length."""
        rng = random.Random(f"{self.seed} {step} {number}")
        prompt = get_prompt(rng.choices(TAUGHT, [PROMPT_WEIGHTS.get(name, 1.0) for name in TAUGHT])[0])
        emotion = rng.choice(PROMPT_EMOTIONS)
        chosen = sorted(rng.sample(self.sentences, min(4 * rows, len(self.sentences))), key=lambda s: len(s.text))
        first = rng.randrange(max(1, len(chosen) - rows + 1))
        talk = rng.random() < self.history
        return [
            self.row(prompt, s, emotion, vary(s, rng, self.neutral_words), self._turn(prompt, rng) if talk else None)
            for s in chosen[first : first + rows]
        ]


@dataclass(frozen=True)
class Batch:
    """A micro-batch as the model takes it."""

    shared: Tensor
    """(1, P) the token ids that all prefixes begin with; their keys and values are computed once."""
    embeds: Tensor
    """(B, L, D) embeddings of the rest of each row, padded on the right."""
    predicts: Tensor
    """(B, L) true where the next token belongs to the answer."""
    targets: Tensor
    """(number of true positions,) the next tokens."""


def _lengthen(
    content: tuple[int, ...], how: Disturbance, fillers: list[int], rng: random.Random
) -> tuple[list[int], list[int]]:
    """Content with doubled tokens and fillers; the places (0-based) of fillers that shall be no token at all."""
    ids: list[int] = []
    blanks: list[int] = []
    for token in content:
        ids += [token] * (2 if rng.random() < how.double else 1)
        if rng.random() < how.filler:
            if rng.random() < 0.5:
                blanks.append(len(ids))
            ids.append(rng.choice(fillers))
    return ids, blanks


def _blur(embeds: Tensor, content: Tensor, strengths: list[Disturbance], rms: Tensor, noise: torch.Generator) -> Tensor:
    """(B, L, D) with content positions, `content` (B, L), smeared into their content neighbours and made noisy."""
    mask = content[..., None].to(embeds.dtype)
    smear = torch.tensor([s.smear for s in strengths])[:, None, None] * mask
    sigma = torch.tensor([s.noise for s in strengths])[:, None, None] * mask * rms
    left = nn.functional.pad(mask[:, :-1], (0, 0, 1, 0)) * embeds.roll(1, 1)
    right = nn.functional.pad(mask[:, 1:], (0, 0, 0, 1)) * embeds.roll(-1, 1)
    blurred = (1 - smear) * embeds + 0.5 * smear * (left + right)
    return blurred + sigma * torch.randn(embeds.shape, generator=noise)


def embed_rows(
    embedding: nn.Embedding,
    pieces: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]],
    strengths: list[Disturbance],
    fillers: list[int],
    rng: random.Random,
    *,
    pad_left: bool = False,
) -> tuple[Tensor, list[int]]:
    """Embeddings (B, L, D) of rows given as (before, content, after), the content disturbed; and their lengths.

    `strengths` are taken as they stand, one per row (`Disturbance.draw` draws them).
    """
    noise = torch.Generator().manual_seed(rng.randrange(2**62))
    lengthened = [_lengthen(content, how, fillers, rng) for (_, content, _), how in zip(pieces, strengths, strict=True)]
    lengths = [len(b) + len(c) + len(a) for (b, _, a), (c, _) in zip(pieces, lengthened, strict=True)]
    ids = torch.zeros(len(pieces), max(lengths), dtype=torch.long)
    content, blank = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for row, ((before, _, after), (middle, blanks)) in enumerate(zip(pieces, lengthened, strict=True)):
        start = max(lengths) - lengths[row] if pad_left else 0
        ids[row, start : start + lengths[row]] = torch.tensor([*before, *middle, *after])
        first = start + len(before)
        content[row, first : first + len(middle)] = True
        blank[row, [first + place for place in blanks]] = True
    embeds = embedding(ids)
    rms = embedding.weight.detach().pow(2).mean().sqrt()
    embeds = torch.where(blank[..., None], torch.randn(embeds.shape, generator=noise) * rms, embeds)
    return _blur(embeds, content, strengths, rms, noise), lengths


def collate(rows: list[Row], embedding: nn.Embedding, how: Disturbance, fillers: list[int], *, seed: str) -> Batch:
    """Rows with the same prompt as one batch, the content disturbed. Deterministic in `seed`."""
    rng = random.Random(f"disturbance {seed}")
    columns = zip(*(row.prefix for row in rows), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    pieces = [(row.prefix[shared:], row.content, row.suffix + row.answer[:-1]) for row in rows]
    embeds, lengths = embed_rows(embedding, pieces, [how.draw(rng) for _ in rows], fillers, rng)
    predicts = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        predicts[number, length - len(row.answer) : length] = True
    targets = torch.tensor([token for row in rows for token in row.answer])
    return Batch(torch.tensor([rows[0].prefix[:shared]]), embeds, predicts, targets)
