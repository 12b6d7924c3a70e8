"""What an answer in the miniature world shows: whether topic and emotion were recognised.

Knows the world's grammar, so topic and emotion can be read off a reply separately. For synthetic corpora only.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import ReplyRecord, Utterance
from re_llm.evaluate.ser import score_recognition
from re_llm.mini.grammar import Sentence, emotion_of, right_topic, world


@dataclass
class Quality:
    """Rates of one system on one set of utterances.

    Attributes:
        topic: fraction of replies that name the topic of the utterance.
        tone: unweighted accuracy of the emotion that the reply fits (its template's), against the reference.
        recognized: unweighted accuracy of the emotion named in answer to the recognition prompt; None if not asked.
        unplaced: utterances whose sentence is not one of this world; they are left out.
        of_five: for each sentence that one voice says in all five emotions, how many of the five replies fit: counts
            of 0, 1, ... 5. Empty where nobody says a sentence in all five.
        voices_agree: of pairs of voices that say one sentence in one emotion, the fraction whose replies fit the same
            emotion, whichever it is; None without such pairs.
    """

    replies: int = 0
    topic: float = 0.0
    tone: float = 0.0
    named_emotion: float | None = None
    unplaced: int = 0
    by_words: dict[str, Quality] = field(default_factory=dict)
    of_five: list[int] = field(default_factory=list)
    voices_agree: float | None = None


def _plain(text: str) -> str:
    return re.sub(r"[^a-z' ]", "", text.lower())


def sentences(seed: int = 0) -> dict[str, Sentence]:
    """The world's sentences by their words without case and punctuation."""
    return {_plain(s.text): s for s in world(seed=seed)}


def placed_sentences(rows: Iterable[Utterance], *, seed: int = 0) -> list[tuple[Utterance, Sentence]]:
    """Utterances with the world's sentence that they say; others are left out."""
    known = sentences(seed)
    return [(row, found) for row in rows if (found := known.get(_plain(row.text or "")))]


def quality(replies: Iterable[ReplyRecord], *, seed: int = 0) -> Quality:
    """Rates over all replies, and apart for utterances that are neutral and emotional in words."""
    known = sentences(seed)
    groups: dict[str, list[tuple[ReplyRecord, Sentence]]] = defaultdict(list)
    unplaced = 0
    for reply in replies:
        sentence = known.get(_plain(reply.text or ""))
        if sentence is None or reply.emotion not in PROMPT_EMOTIONS:
            unplaced += 1
            continue
        for group in ("all", "neutral words" if sentence.words_emotion == "neutral" else "emotional words"):
            groups[group].append((reply, sentence))
    placed = groups.pop("all", [])
    result = _rates(placed)
    result.unplaced = unplaced
    result.of_five = _of_five(reply for reply, _ in placed)
    result.voices_agree = _voices_agree(reply for reply, _ in placed)
    result.by_words = {name: _rates(pairs) for name, pairs in sorted(groups.items())}
    return result


def _rates(pairs: list[tuple[ReplyRecord, Sentence]]) -> Quality:
    if not pairs:
        return Quality()
    reference = [str(reply.emotion) for reply, _ in pairs]
    asked = any(reply.answer is not None for reply, _ in pairs)
    return Quality(
        replies=len(pairs),
        topic=sum(right_topic(reply.response, sentence) for reply, sentence in pairs) / len(pairs),
        tone=score_recognition(reference, [emotion_of(reply.response) for reply, _ in pairs]).ua,
        named_emotion=score_recognition(reference, [r.named_emotion for r, _ in pairs]).ua if asked else None,
    )


def _of_five(replies: Iterable[ReplyRecord]) -> list[int]:
    said: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for reply in replies:
        if reply.speaker is not None:
            fits = emotion_of(reply.response) == reply.emotion
            said[reply.speaker, _plain(reply.text or "")][str(reply.emotion)] = fits
    counts = Counter(sum(fits.values()) for fits in said.values() if len(fits) == len(PROMPT_EMOTIONS))
    return [counts[n] for n in range(len(PROMPT_EMOTIONS) + 1)] if counts else []


def _voices_agree(replies: Iterable[ReplyRecord]) -> float | None:
    tones: dict[tuple[str, str], dict[str, str | None]] = defaultdict(dict)
    for reply in replies:
        if reply.speaker is not None:
            tones[_plain(reply.text or ""), str(reply.emotion)][reply.speaker] = emotion_of(reply.response)
    same = [a == b for by_voice in tones.values() for a, b in combinations(by_voice.values(), 2)]
    return sum(same) / len(same) if same else None
