"""Rules that judge a reply: does it name what was said, and does its tone fit the emotion it answers? English.

They look at words alone: whether a reply is about the matter and meant for this emotion, not whether it is wise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from re_llm.small.turned import content_words, words

# Words and beginnings of words (with *) by which a tone is known. A reply without any is neutral.
CUES: dict[str, tuple[str, ...]] = {
    "sad": (
        "sorry", "sad*", "hard", "pain*", "hurt*", "heart", "sorrow", "grie*", "alone", "lonel*", "comfort*", "gentle",
        "tears", "cry*", "loss", "weigh*", "tough", "difficult", "low", "miss", "heartbreak*",
    ),
    "angry": (
        "angry", "anger*", "furious", "frustrat*", "upset", "unfair", "annoy*", "fair", "mad", "deserve", "outrag*",
        "justified", "infuriat*", "rage", "unacceptable", "respect", "irritat*", "right to",
    ),
    "happy": (
        "happy", "wonderful", "great", "fantastic", "joy*", "glad", "lovely", "congratulations", "celebrat*", "smile*",
        "delight*", "cheer*", "enjoy*", "love", "awesome", "exciting", "good news", "pleased",
    ),
    "surprise": (
        "wow", "surpris*", "unexpected*", "goodness", "oh my", "amaz*", "astonish*", "expect", "expected", "really?",
        "coming", "shock*", "speechless", "who would have", "predicted", "whoa",
    ),
}  # fmt: skip
_PATTERNS = {
    emotion: re.compile(
        "|".join(rf"(?<!\w){re.escape(cue.rstrip('*'))}" + (r"\w*" if cue.endswith("*") else r"(?!\w)") for cue in cues)
    )
    for emotion, cues in CUES.items()
}
SUFFIXES = ("ing", "ed", "es", "s", "ly", "er", "e", "'s")


def tone(reply: str, said: str = "") -> str | None:
    """The emotion that a reply answers: that of most of its cues, `neutral` without any; None when two are level.

    Args:
        said: the sentence that is answered. What it says itself, the reply may repeat: it is no cue.
    """
    low, before = reply.lower().replace("\u2019", "'"), said.lower().replace("\u2019", "'")
    votes = {}
    for emotion, pattern in _PATTERNS.items():
        there = set(pattern.findall(before))
        votes[emotion] = sum(found not in there for found in pattern.findall(low))
    first, second = sorted(votes.values(), reverse=True)[:2]
    if first == 0:
        return "neutral"
    return None if first == second else max(votes, key=votes.__getitem__)


def stem(word: str) -> str:
    """A word without its ending, by which forms of one word are known."""
    while suffix := next((end for end in SUFFIXES if word.endswith(end) and len(word) - len(end) >= 3), None):
        word = word.removesuffix(suffix)
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def names_topic(reply: str, said: str) -> bool:
    """Whether a reply takes up a content word of what was said, in whatever form."""
    there = {stem(word.lower()) for word in words(reply)}
    return any(stem(word) in there for word in content_words(said))


def repeated(answer: str, said: str) -> float:
    """Fraction of the content words of what was said that an answer holds; 1 without content words."""
    there = {stem(word.lower()) for word in words(answer)}
    wanted = [stem(word) for word in content_words(said)]
    return sum(word in there for word in wanted) / len(wanted) if wanted else 1.0


def all_different(replies: Sequence[str]) -> bool:
    """Whether no two replies to one sentence are the same."""
    plain = [" ".join(words(reply.lower())) for reply in replies]
    return len(set(plain)) == len(plain)
