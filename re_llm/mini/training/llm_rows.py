"""Training rows of the miniature chat LLM: prompts, one turn or several, and what the LLM is taught to answer."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.files import hash_of
from re_llm.llm.prompts import PROMPTS, RELEASED, Prompt, around_turns, get_prompt
from re_llm.mini.answers import NOTHING_TO_REMEMBER, QUESTIONS, REMEMBERED_EMOTION, REMEMBERED_TOPIC
from re_llm.mini.dialogues import Exchange, any_question, other_emotion, statement
from re_llm.mini.grammar import Sentence, respond_to
from re_llm.mini.lexicon import CUES, TOPICS
from re_llm.model.convert.tokenizer import END_OF_TEXT, IM_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The others came after the miniature's LLM was trained.
TAUGHT = tuple(name for name, prompt in PROMPTS.items() if name not in ("label", "repeat") and prompt not in RELEASED)
# How often each prompt is trained: the ones the alignment stages lean on most come most often, "chat-empathetic" in
# conversations.
PROMPT_WEIGHTS = {"continue": 2.0, "continue-emotion": 2.0, "recognize": 1.5}

_END = f"{IM_END}\n"  # of an answer
# The prompts of conversations: chat and server use the first ones, the cascades the others.
DIALOGUE_WEIGHTS = {
    "chat-empathetic": 3.0, "chat": 1.0, "chat-empathetic-paper": 1.0, "cascade": 1.0, "cascade-dialogue": 1.0,
}  # fmt: skip
DIALOGUES = 0.35
"""Fraction of the micro-batches whose rows have earlier turns."""
MOST_EARLIER = 5


@dataclass(frozen=True)
class Piece:
    """Token ids of a part of a row that was tokenised on its own."""

    ids: tuple[int, ...]
    kind: Literal["given", "content", "answer"] = "given"
    """Content (what a user says) is disturbed; an answer, with its end tokens, is what the LLM is taught."""


Row = tuple[Piece, ...]
"""A conversation of one turn or several; it ends with an answer."""


def contents(sentences: Sequence[Sentence]) -> dict[str, str]:
    """Hashes of what the LLM is taught: the sentences, and what is answered to which prompt.

    An answer follows from the sentence's category, topic and emotion, so that one sentence of each category tells.
    """
    examples = {sentence.category: sentence for sentence in sentences}.values()
    answers = (
        f"{_wording(get_prompt(name))} {emotion} {respond_to(name, replace(sentence, words_emotion=emotion), emotion)}"
        for name in TAUGHT
        for emotion in PROMPT_EMOTIONS
        for sentence in examples
    )
    talks = (QUESTIONS, REMEMBERED_EMOTION, REMEMBERED_TOPIC, NOTHING_TO_REMEMBER)
    mixture = (PROMPT_WEIGHTS, DIALOGUE_WEIGHTS, DIALOGUES, MOST_EARLIER)
    return {
        "sentences": hash_of(map(repr, sentences)),
        "prompts and answers": hash_of(answers),
        "conversations": hash_of(map(repr, (*talks, *mixture))),
    }


def _wording(prompt: Prompt) -> str:
    """What decides the text of a prompt, spelled out: a field that `Prompt` gets later changes no hash."""
    named = ("id", "system", "before", "after", "role_newline")
    return f"Prompt({', '.join(f'{name}={getattr(prompt, name)!r}' for name in named)})"


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
        dialogues: fraction of micro-batches whose rows have earlier turns.
        most_earlier: largest number of them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sentences: list[Sentence],
        *,
        seed: int = 0,
        dialogues: float = DIALOGUES,
        most_earlier: int = MOST_EARLIER,
    ):
        self.tokenizer, self.sentences, self.seed = tokenizer, sentences, seed
        self.dialogues, self.most_earlier = dialogues, most_earlier

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

    def row(self, prompt: Prompt, sentence: Sentence, emotion: str, text: str) -> Row:
        """A row of one turn; the emotion counts where the prompt names one."""
        return self.dialogue(prompt, [Exchange(text, respond_to(prompt.id, sentence, emotion), emotion)])

    def dialogue(self, prompt: Prompt, exchanges: Sequence[Exchange]) -> Row:
        """The row of a conversation; answers that cannot be told from words and prompt are given, not taught.

        What a prompt has around the content stands in every turn of the user's, as in a conversation of a cascade.
        """
        around = around_turns(self.tokenizer, [prompt.with_emotion(each.emotion) for each in exchanges])
        pieces: list[Piece] = []
        for exchange, before, after in zip(exchanges, around[::2], around[1::2], strict=True):
            pieces.append(Piece(self.encode(before.removeprefix(_END))))  # which stands in the answer before
            pieces.append(Piece(self.encode(exchange.text), "content"))
            pieces.append(Piece(self.encode(after)))
            end = _END + END_OF_TEXT if exchange is exchanges[-1] else _END
            pieces.append(Piece(self.encode(exchange.answer + end), "answer" if exchange.told else "given"))
        return tuple(pieces)

    def micro_batch(self, step: int, number: int, rows: int) -> list[Row]:
        """Rows of one prompt and one label, of similar length; or, in their place, fewer rows of several turns."""
        rng = random.Random(f"{self.seed} {step} {number}")
        if rng.random() < self.dialogues:
            earlier = rng.randint(1, self.most_earlier)
            prompt = get_prompt(rng.choices(list(DIALOGUE_WEIGHTS), list(DIALOGUE_WEIGHTS.values()))[0])
            return [
                self.dialogue(prompt, self.talk(prompt, earlier, rng)) for _ in range(max(1, rows // (earlier + 1)))
            ]
        prompt = get_prompt(rng.choices(TAUGHT, [PROMPT_WEIGHTS.get(name, 1.0) for name in TAUGHT])[0])
        emotion = rng.choice(PROMPT_EMOTIONS)
        chosen = sorted(rng.sample(self.sentences, min(4 * rows, len(self.sentences))), key=lambda s: len(s.text))
        first = rng.randrange(max(1, len(chosen) - rows + 1))
        return [self.row(prompt, s, emotion, vary(s, rng, self.neutral_words)) for s in chosen[first : first + rows]]

    def talk(self, prompt: Prompt, earlier: int, rng: random.Random) -> list[Exchange]:
        """A conversation with this many earlier turns; the last answer can be told from words and prompt.

        Half of the earlier replies fit another emotion than the words, as after a voice that spoke otherwise.
        """
        exchanges: list[Exchange] = []
        for turn in range(earlier + 1):
            last = turn == earlier
            if rng.random() < (0.4 if last else 0.15 if turn else 0.03):
                exchanges.append(any_question(exchanges, rng, rng.choice(PROMPT_EMOTIONS)))
                continue
            said = rng.choice(self.sentences)
            emotion, told = said.words_emotion, True
            if prompt.needs_emotion:
                emotion = rng.choice(PROMPT_EMOTIONS)
            elif not last and rng.random() < 0.5:
                emotion, told = other_emotion(emotion, rng), False
            text = vary(said, rng, self.neutral_words)
            exchanges.append(statement(prompt.id, said, emotion, text=text, told=told))
        return exchanges
