"""Does a system follow the voice or the words? The same words spoken in several emotions, and words that contradict.

Two measures, of any system's replies to utterances whose words are spoken in at least two emotions:
- what explains the named emotion, and the reply: adjusted R squared of the voice's emotion, the words, and the speaker,
  each alone. Outcomes are vectors (one-hot, or unit tf-idf vectors of the reply's words), their variance is the mean
  squared distance from the mean, as in a permutational analysis of variance (Anderson, Austral Ecology 26, 2001).
  Where everybody says everything in every emotion, the three do not overlap; what they leave is interplay and chance.
- where the words have an emotion of their own that is not the voice's: which of the two is named. A set made for this
  question tells it of every utterance (`words_emotion`), which then need not be said in several emotions.
N utterances, S sentences, D dimensions of an outcome, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import ReplyRecord
from re_llm.evaluate import audits
from re_llm.evaluate.reply_rows import named_emotion
from re_llm.evaluate.word_errors import plain

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FACTORS = ("voice", "words", "speaker")
RESAMPLES = 1000
MIN_ITEMS = 20


@dataclass(frozen=True)
class Explained:
    """How much of an outcome each factor explains, 0..1.

    Attributes:
        outcome: `named emotion`, `predicted emotion` or `reply`.
        explained: adjusted R squared by factor (0 where it is below); the speaker only where it is known everywhere.
        intervals: 95 %, of a bootstrap over the sentences.
    """

    outcome: str
    explained: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Contradiction:
    """Utterances whose words have another emotion than the voice.

    Attributes:
        outcome: where the emotion is named: `named emotion`, `predicted emotion`, or `reply` (of those that name one).
        voice, words, other: fractions that name the voice's emotion, the words', another one or none.
        interval: 95 %, of voice minus words; a bootstrap over the sentences.
    """

    outcome: str
    voice: float
    words: float
    other: float
    interval: tuple[float, float]
    items: int


@dataclass(frozen=True)
class Conflict:
    """The conflict test of one system on one corpus.

    Attributes:
        items, sentences: utterances whose words are spoken in at least two emotions, and these words; 0 where there are
            too few.
        left_out: utterances without words or emotion, or whose words are spoken in one emotion only and have none.
    """

    system: str
    corpus: str
    items: int
    sentences: int
    left_out: int
    explained: list[Explained]
    contradictions: list[Contradiction]


def _codes(names: Sequence[str]) -> Ints:
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def adjusted_r2(outcomes: sp.csr_matrix, codes: Ints | None, sentences: Ints, draws: Floats) -> Floats:
    """Fraction of the variance of outcomes between groups, adjusted for their number, at least 0: [R].

    Args:
        outcomes: [N, D]. sentences: [N] which sentence each item says.
        codes: [N] group of each item; None: the sentences are the groups, and one that is drawn twice is two.
        draws: [R, S] how often each sentence is drawn.
    """
    squares = np.bincount(sentences, np.asarray(outcomes.multiply(outcomes).sum(axis=1)).ravel())
    of_all, count = _between(outcomes, sentences, draws)
    total = draws @ squares - of_all
    if codes is None:
        sizes = np.bincount(sentences)
        sums = _sums(outcomes, sentences, draws.shape[1])
        between = draws @ (np.asarray(sums.multiply(sums).sum(axis=1)).ravel() / sizes)
        groups = draws.sum(axis=1).astype(np.float64)
    else:
        between, groups = np.zeros(len(draws)), np.zeros(len(draws))
        for group in range(codes.max() + 1):
            own = codes == group
            each, size = _between(outcomes[own], sentences[own], draws)
            between += each
            groups += size > 0
    between -= of_all
    usable = (total > 1e-9) & (count > groups)
    left = 1 - between / np.where(usable, total, 1.0)
    adjusted = 1 - left * (count - 1) / np.where(usable, count - groups, 1.0)
    return np.where(usable, np.clip(adjusted, 0.0, 1.0), 0.0)


def _sums(outcomes: sp.csr_matrix, sentences: Ints, count: int) -> sp.csr_matrix:
    """[S, D] sum of the outcomes of each sentence."""
    places = (sentences, np.arange(len(sentences)))
    return (sp.csr_matrix((np.ones(len(sentences)), places), shape=(count, len(sentences))) @ outcomes).tocsr()


def _between(outcomes: sp.csr_matrix, sentences: Ints, draws: Floats) -> tuple[Floats, Floats]:
    """Squared length of the sum of the drawn outcomes over their number, and that number: [R] each."""
    count = draws.shape[1]
    sums = _sums(outcomes, sentences, count)
    sizes = draws @ np.bincount(sentences, minlength=count)
    if sums.shape[1] <= count:
        squared = ((draws @ sums.toarray()) ** 2).sum(axis=1)
    else:
        squared = ((draws @ (sums @ sums.T).toarray()) * draws).sum(axis=1)
    return np.asarray(squared / np.maximum(sizes, 1)), np.asarray(sizes)


def _one_hot(names: Sequence[str]) -> sp.csr_matrix:
    codes = _codes(names)
    return sp.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)))


def _reply_vectors(responses: Sequence[str]) -> sp.csr_matrix | None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(sublinear_tf=True).fit_transform([plain(text) for text in responses]).tocsr()
    except ValueError:  # replies without a word
        return None


def _draws(sentences: Ints, seed: int) -> Floats:
    """[1 + R, S] how often each sentence is drawn: once each, then at random."""
    count = int(sentences.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    return np.vstack([np.ones((1, count)), drawn])


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _explain(outcome: str, vectors: sp.csr_matrix, factors: Mapping[str, Ints], seed: int) -> Explained:
    sentences = factors["words"]
    draws = _draws(sentences, seed)
    found = {
        name: adjusted_r2(vectors, None if name == "words" else codes, sentences, draws)
        for name, codes in factors.items()
    }
    explained = {name: float(values[0]) for name, values in found.items()}
    return Explained(outcome, explained, {name: _interval(values[1:]) for name, values in found.items()})


def _contradict(
    outcome: str, named: Sequence[str | None], voice: Sequence[str], words: Sequence[str], sentences: Ints, seed: int
) -> Contradiction:
    by_voice = np.array([n == v for n, v in zip(named, voice, strict=True)], np.float64)
    by_words = np.array([n == w for n, w in zip(named, words, strict=True)], np.float64)
    draws = _draws(sentences, seed)[1:]
    gaps = (draws @ np.bincount(sentences, by_voice - by_words)) / (draws @ np.bincount(sentences))
    first, second = float(by_voice.mean()), float(by_words.mean())
    return Contradiction(outcome, first, second, 1 - first - second, _interval(gaps), len(named))


OUTCOMES: Mapping[str, Callable[[ReplyRecord], str | None]] = {
    "named emotion": lambda reply: named_emotion(reply, PROMPT_EMOTIONS),
    "predicted emotion": lambda reply: reply.predicted_emotion,
    "reply": lambda reply: audits.named_emotion(reply.response),
}


def conflict(
    system: str,
    corpus: str,
    replies: Sequence[ReplyRecord],
    words: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
) -> Conflict | None:
    """The conflict test of one system on one corpus; None when fewer than `MIN_ITEMS` utterances can be used.

    Args:
        words: emotion of the words alone, by `plain` text, where the reply does not tell it; None when unknown. Neutral
            words contradict nothing.
    """
    spoken: dict[str, set[str]] = {}
    for reply in replies:
        if reply.text and reply.emotion and plain(reply.text):
            spoken.setdefault(plain(reply.text), set()).add(reply.emotion)
    known = [r for r in replies if r.emotion and r.text and plain(r.text)]
    crossed = [r for r in known if len(spoken[plain(r.text or "")]) > 1]
    used = crossed if len(crossed) >= MIN_ITEMS else []
    told = [r for r in known if r.words_emotion or len(spoken[plain(r.text or "")]) > 1]
    contradictions = _contradictions(told, words or {}, seed)
    if not used and not contradictions:
        return None
    sentences = {plain(r.text or "") for r in used}
    explained = _explanations(used, seed) if used else []
    return Conflict(system, corpus, len(used), len(sentences), len(replies) - len(told), explained, contradictions)


def _explanations(used: Sequence[ReplyRecord], seed: int) -> list[Explained]:
    """What explains each outcome of utterances whose words are spoken in several emotions."""
    factors = {
        "voice": _codes([r.emotion or "" for r in used]),
        "words": _codes([plain(r.text or "") for r in used]),
    }
    if all(r.speaker for r in used):
        factors["speaker"] = _codes([r.speaker or "" for r in used])
    explained = []
    for name in ("named emotion", "predicted emotion"):
        named = [OUTCOMES[name](reply) for reply in used]
        if any(named):
            explained.append(_explain(name, _one_hot([each or "none" for each in named]), factors, seed))
    vectors = _reply_vectors([r.response for r in used])
    if vectors is not None:
        explained.append(_explain("reply", vectors, factors, seed))
    return explained


def _contradictions(told: Sequence[ReplyRecord], words: Mapping[str, str], seed: int) -> list[Contradiction]:
    """Which emotion is named, by outcome, where that of the words is neither neutral nor the voice's."""
    texts = [plain(r.text or "") for r in told]
    own = [r.words_emotion or words.get(text, "neutral") for r, text in zip(told, texts, strict=True)]
    voice = [r.emotion or "" for r in told]
    found = []
    for name, read in OUTCOMES.items():
        named = [read(reply) for reply in told]
        rows = [i for i in range(len(told)) if own[i] not in ("neutral", voice[i]) and (name != "reply" or named[i])]
        if len(rows) >= MIN_ITEMS and any(named):
            by_voice, by_words, said = ([side[i] for i in rows] for side in (voice, own, texts))
            found.append(_contradict(name, [named[i] for i in rows], by_voice, by_words, _codes(said), seed))
    return found


def words_emotions(replies: Sequence[ReplyRecord]) -> dict[str, str]:
    """Emotion of the words alone, by `plain` text: what a text system names, where it names one and always the same."""
    found: dict[str, set[str | None]] = {}
    for reply in replies:
        if reply.text:
            found.setdefault(plain(reply.text), set()).add(OUTCOMES["named emotion"](reply))
    return {text: name for text, names in found.items() if len(names) == 1 and (name := next(iter(names)))}
