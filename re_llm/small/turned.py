"""A sentence turned from its speaker to its listener, and a phrase that names what it is about. Rules, English."""

from __future__ import annotations

import re
from functools import cache

from re_llm.small.dialogues import asset_lines

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*|\d[\d.,:]*\d|\d")
# First person -> second person. What is not here stays as it is.
_TURNED = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'm": "you're", "i've": "you've",
    "i'll": "you'll", "i'd": "you'd", "we": "you", "us": "you", "our": "your", "ours": "yours", "we're": "you're",
    "we've": "you've", "we'll": "you'll", "we'd": "you'd", "ourselves": "yourselves",
}  # fmt: skip
_VERBS = {"am": "are", "was": "were"}  # behind "I"
_SECOND = {"you", "your", "yours", "yourself", "you're", "you've", "you'll", "you'd"}
SUBJECTS = {"i", "i'm", "i've", "i'll", "i'd", "my", "we", "we're", "we've", "we'll", "our", "he", "she", "they",
            "he's", "she's", "they're", "the", "this", "these", "there", "there's", "his", "her", "their"}  # fmt: skip
_DETERMINERS = {"my", "our", "the", "a", "an", "his", "her", "their", "this", "these", "some", "any", "your"}
_PREPOSITIONS = {"about", "of", "for", "with", "from", "in", "on", "at", "by", "without", "into"}
_NOUNS = {"thing", "things", "lot", "way", "kind"}  # that end a phrase, though they name nothing by themselves
FUNCTION = frozenset(word for line in asset_lines("function_words.txt") for word in line.split())


def words(text: str) -> list[str]:
    """Words and numbers of a text, as they stand in it."""
    return WORD.findall(text.replace("\u2019", "'"))


def content_words(text: str) -> list[str]:
    """The words of a sentence that say what it is about, in lower case."""
    return [
        word for each in words(text) if (word := each.lower()) not in FUNCTION and (len(word) > 2 or word[0].isdigit())
    ]


def turned(text: str) -> str:
    """The words of a text in the second person: "I lost my keys" becomes "you lost your keys"."""
    pieces, before = re.split(r"(\s+)", text.replace("\u2019", "'")), ""
    for number, piece in enumerate(pieces):
        match = re.fullmatch(r"(\W*)([\w']+?)(\W*)", piece)
        if match is None:
            continue
        left, word, right = match.groups()
        low = word.lower()
        if before == "i" and low in _VERBS:
            word = _VERBS[low]
        elif low in _TURNED:
            word = _TURNED[low]
        pieces[number] = left + word + right
        before = low
    return "".join(pieces)


def clause(text: str) -> str | None:
    """What was said, as it may stand behind "that" in an answer; None for questions, requests and long sentences."""
    said = text.strip().rstrip(".!…").strip()
    found = words(said)
    lows = [word.lower() for word in found]
    if not 3 <= len(found) <= 14 or not content_words(said) or lows[0] not in SUBJECTS:
        return None
    if text.rstrip().endswith("?") or re.search(r'[.!?;:"()]', said) or _SECOND & set(lows):
        return None
    first = found[0]
    keep = first.startswith("I") and lows[0] in _TURNED  # "I" is turned whatever its case
    return turned(said if keep else said[0].lower() + said[1:])


def topic(text: str) -> str | None:
    """A phrase that names what a sentence is about, turned to its speaker; None when it has no content word."""
    found = words(text)
    lows = [word.lower() for word in found]
    phrases = list(_phrases(found, lows))
    if phrases:
        return turned(max(phrases, key=len))
    named = [word for word in found if word.lower() in set(content_words(text))]
    return f"“{max(named, key=len)}”" if named else None


def _phrases(found: list[str], lows: list[str]) -> list[str]:
    """Noun phrases: a determiner or preposition, and the content words behind it."""
    phrases = []
    for start, low in enumerate(lows):
        if low not in _DETERMINERS and low not in _PREPOSITIONS:
            continue
        end = start + 1
        while end < len(found) and end - start <= 3 and lows[end] not in FUNCTION and not _ends(lows[end], end - start):
            end += 1
        if start + 1 < end < len(found) and lows[end] in _NOUNS:
            end += 1
        if end == start + 1 or lows[end - 1].endswith(("ly", "est", "worst")):
            continue
        inside = found[start + 1 : end]
        phrases.append(" ".join([low, *inside] if low in _DETERMINERS else inside))
    return phrases


@cache
def _ends(word: str, place: int) -> bool:
    """Whether a word rather is the verb behind a phrase than a part of it."""
    return place > 1 and (word.endswith(("ing", "ed", "ly")) or word in {"left", "lost", "broke", "called", "works"})
