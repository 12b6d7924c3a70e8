"""What a mean score hides: questions, length, repetition, and whether a reply names the right emotion."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean

from re_llm.core.answer_parser import parse_answer
from re_llm.evaluate.empathy.language import looks_english
from re_llm.evaluate.empathy.text_features import tokens
from re_llm.evaluate.empathy.truncation import truncate

# A template: what is left when the words that most replies do not share are blanked out.
TEMPLATE_WORDS = 5
REPEATED_WORDS = 4
# Words for what causes a feeling, read as the feeling; "isn't" reads as "is not".
_READ_AS = {
    "n't": " not", "n’t": " not", "frustrating": "frustrated", "infuriating": "angry", "scary": "afraid",  # noqa: RUF001
    "frightening": "afraid", "terrifying": "afraid", "exciting": "excited", "heartbreaking": "sad", "upsetting": "sad",
    "upset": "sad", "annoying": "angry", "annoyed": "angry", "disgusting": "disgusted", "boring": "bored",
}  # fmt: skip
_READ = re.compile("|".join(map(re.escape, sorted(_READ_AS, key=len, reverse=True))), re.IGNORECASE)
ALL_EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise", "fear", "disgust", "contempt", "excited", "frustrated",
                "bored", "anxious")  # fmt: skip
# Emotion words that replies use and that are no labels of a corpus ("you seem upset" is an answer about no label).
_ABOUT_SEEKER = re.compile(
    r"\b(?:you(?:'re|r| are| seem| sound| feel| must be| look)?|that(?:'s| sounds| is| must be)|"
    r"it(?:'s| sounds| is| must be)|sorry|hear)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Audit:
    """Fractions (0..1) and means over the replies of one group.

    Attributes:
        asks: fraction with a question mark; ends_asking: fraction that ends with one.
        not_english: number of replies that do not look English, the only language of the EPITOME scorers.
        words: mean length; over_64: fraction with more than the 64 tokens that the original scorer sees.
        hidden_question: fraction whose only question marks lie beyond them.
        distinct: different replies divided by replies; most_common: the reply given most often, and its fraction.
        openings: different openings (first five words) divided by replies; most_common_opening with its
            fraction.
        distinct_1, distinct_2: different words, and pairs of them, over all (Li et al. 2016); more replies repeat more,
            so compare systems on equally many. repetition: mean fraction of a reply's runs of four words that it had
            before (Welleck et al. 2020), over replies of four words and more.
        named: fraction of the replies (with a reference emotion) that name an emotion; named_right: fraction
            of those that name the reference emotion. None when nothing can be compared.
    """

    count: int
    empty: int
    not_english: int
    asks: float
    ends_asking: float
    words: float
    over_64: float
    hidden_question: float
    distinct: float
    most_common: tuple[str, float]
    distinct_1: float
    distinct_2: float
    repetition: float
    openings: float
    most_common_opening: tuple[str, float]
    named: float | None
    named_right: float | None

    @property
    def named_wrong(self) -> float | None:
        """Fraction of the replies that name an emotion which is not the reference."""
        return None if self.named is None else self.named * (1 - (self.named_right or 0.0))


@lru_cache(maxsize=1 << 15)
def named_emotion(response: str) -> str | None:
    """The emotion that a reply ascribes to whom it answers; None when it names none.

    Read sentence by sentence: the first one that speaks about the other person ("you sound angry", "I'm sorry you're
    sad") and holds an emotion word counts; a reply's own feelings ("I'm happy to help") do not.
    """
    for sentence in re.split(r"(?<=[.!?])\s+", response):
        about = _ABOUT_SEEKER.search(sentence)
        if about is None:
            continue
        plain = _READ.sub(lambda match: _READ_AS[match.group().lower()], sentence[about.start() :])
        if name := parse_answer(plain, ALL_EMOTIONS):
            return name
    return None


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def _distinct(replies: Sequence[Sequence[str]], length: int) -> float:
    runs = [run for words in replies for run in _runs(words, length)]
    return len(set(runs)) / max(1, len(runs))


def _repetition(replies: Sequence[Sequence[str]]) -> float:
    each = [runs for words in replies if (runs := _runs(words, REPEATED_WORDS))]
    return fmean(1 - len(set(runs)) / len(runs) for runs in each) if each else 0.0


def _most_common(values: Sequence[str]) -> tuple[str, float]:
    value, count = Counter(values).most_common(1)[0]
    return value, count / len(values)


def audit(responses: Sequence[str], emotions: Sequence[str | None] | None = None) -> Audit:
    """Audits the replies of one group (at least one).

    Args:
        emotions: the reference emotion of each, None where unknown.

    Raises:
        ValueError: no replies, or as many emotions as replies are not given.
    """
    if not responses or (emotions is not None and len(emotions) != len(responses)):
        raise ValueError(f"{len(responses)} replies and {len(emotions or [])} emotions")
    heads = [truncate(text) for text in responses]
    words = [tokens(text) for text in responses]
    openings = [" ".join(each[:TEMPLATE_WORDS]) for each in words]
    known = [(named_emotion(r), e) for r, e in zip(responses, emotions or [], strict=False) if e]
    named = [(found, emotion) for found, emotion in known if found]
    return Audit(
        count=len(responses),
        empty=sum(not text.strip() for text in responses),
        not_english=sum(not looks_english(text) for text in responses),
        asks=fmean("?" in text for text in responses),
        ends_asking=fmean(text.rstrip().endswith("?") for text in responses),
        words=fmean(len(text.split()) for text in responses),
        over_64=fmean(head != text for head, text in zip(heads, responses, strict=True)),
        hidden_question=fmean("?" in text and "?" not in head for head, text in zip(heads, responses, strict=True)),
        distinct=len(set(responses)) / len(responses),
        most_common=_most_common(responses),
        distinct_1=_distinct(words, 1),
        distinct_2=_distinct(words, 2),
        repetition=_repetition(words),
        openings=len(set(openings)) / len(responses),
        most_common_opening=_most_common(openings),
        named=len(named) / len(known) if known else None,
        named_right=fmean(found == emotion for found, emotion in named) if named else None,
    )
