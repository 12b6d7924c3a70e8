"""Text as numbers for the small empathy scorer: hashed word and character n-grams, and a small lexicon. numpy only.

Everything is computed for a batch at once: texts become one long array, n-grams are rolling hashes over it, and
counting is sorting. The same functions serve training and scoring, so the two cannot drift apart.
N n-gram occurrences, R rows (sentences or documents), K lexicon classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

WORD_ORDERS = (1, 2, 3)
CHAR_ORDERS = (2, 3, 4, 5)

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\?+|!+|\.\.+|[^\sa-z0-9]")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+|\n|$)|[.!?]+")
_WORDY = re.compile(r"\w|\?")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})  # noqa: RUF001 (those are what is replaced)

# Words and phrases (up to three tokens) that carry a mechanism, or set one off against another.
LEXICON = {
    "sorry": "sorry|condolences|sympathy|sympathies|heartbreaking|heartbroken|sad to|saddens|hate that|awful|terrible|"
    "horrible|sucks|tough|rough|that hurts",
    "hope": "hope|wish|wishing|luck|praying|pray|prayers|blessings|best wishes",
    "warm": "feel for you|feel your|hug|hugs|hugging|love you|i love|< 3|care about you|i care|proud|glad|happy for|"
    "worried|concerned|delighted|wonderful|congratulations",
    "courage": "hang in|stay strong|keep going|give up|gets better|get better|be okay|be ok|be alright|be fine|"
    "got this|you can do|you'll|strong|strength|stay safe|keep fighting|worth|deserve|brave|believe in you|things will",
    "offer": "talk to me|pm me|pm|dm|message me|inbox|here for you|i'm here|im here|i am here|listen|wanna talk|"
    "want to talk|need to talk|feel free|reach out|chat",
    "shared": "understand|relate|relatable|i know how|the feeling|that feeling|know what you|i get it|get that|"
    "makes sense|imagine|i hear you|can see|same|same here|me too|same boat|been there|similar|exactly|identify|"
    "resonate|not alone",
    "guess": "sounds like|seems like|it sounds|that sounds|it seems|must be|must have|you're feeling|you feel|"
    "you are feeling|looks like|you seem|you sound|guess you|probably",
    "own_past": "i was|i had|i've|i have|i did|i used|i went|i got|i am|i'm|im|i felt|i feel|when i|my|mine|myself",
    "advice": "should|try|maybe|you could|you can|you need|need to|have to|recommend|suggest|consider|advice|therapist|"
    "therapy|doctor|get help|see a|stop|start|go|take|make sure",
    "emotion": "feel|feeling|feels|felt|feelings|emotion|emotions|pain|painful|hurt|hurts|sad|angry|anxious|anxiety|"
    "depressed|depression|lonely|afraid|scared|hopeless|worthless|empty|numb|tired|suffer|suffering|struggling|"
    "struggle|happy|frustrated|frustrating|surprised|upset",
    "polite": "thank|thanks|please|appreciate|welcome|grateful",
    "swear": "fuck|fucking|shit|shitty|damn|hell|crap|ass|bitch",
    "negation": "not|no|never|nothing|none|nobody|can't|don't|won't|isn't|doesn't|didn't",
    "wh": "what|why|how|when|where|who|which|whats|what's|how's|hows",
    "asks": "do you|did you|are you|have you|can you|could you|would you|is it|is there|was it|were you|is that|"
    "will you|you ok|u ok|you okay",
    "explore": "what happened|what's going|whats going|what's up|whats up|what's wrong|tell me|tell us|what is|"
    "why do you|how do you|how are you|how long|have you tried|wondering|curious|may i ask|can i ask|mind if|"
    "elaborate|what kind|like what|such as|to share|explain|tell me more|what makes you|more about",
    "you": "you|your|you're|u|ur|yourself|yours|youre",
    "i": "i|i'm|im|i've|i'd|i'll|me|my|myself|mine",
    "others": "we|us|our|we're|people|they|them|everyone",
    "heard": "to hear|to read|hear that|hear this|hear about|going through|your loss|that happened",
    "greeting": "hey|hi|hello|dude|man|bro|friend|buddy|op|dear",
    "hedge": "perhaps|kind of|kinda|sort of|i think|i guess|might|may|honestly",
    "time": "years|year|months|month|weeks|days|ago|now|today|then|since|still|until|last|night",
    "life": "mom|mum|dad|mother|father|parents|brother|sister|family|friends|wife|husband|girlfriend|boyfriend|kids|"
    "son|daughter|job|school|work|college",
}
CLASSES = tuple(LEXICON)
_STOP = (
    "the a an and or but if of to in on at for with is are was were be been am i you it that this my your me we they "
    "he she so as not have has had do does did just can will would could should about from what when there all get "
    "like really no up out"
)


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers, runs of ? and !, and single other signs."""
    return _TOKEN.findall(text.translate(_QUOTES).lower())


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences of a text, at least one; signs alone belong to the sentence before them."""
    spans: list[tuple[int, int]] = []
    for match in _SENTENCE.finditer(text):
        if _WORDY.search(match.group()):
            spans.append(match.span())
        elif spans:
            spans[-1] = (spans[-1][0], match.end())
    return spans or [(0, len(text))]


def _mix(state: Hashes, symbol: Hashes) -> Hashes:
    with np.errstate(over="ignore"):
        mixed = (state ^ symbol) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _final(state: Hashes) -> npt.NDArray[np.uint32]:
    return (state >> np.uint64(32)).astype(np.uint32)


@lru_cache(maxsize=200_000)
def _token_id(token: str) -> int:
    return crc32(token.encode("utf-8"))


@dataclass(frozen=True)
class Tokens:
    """The tokens of several texts.

    Attributes:
        ids: [N] hash of each token. rows: [N] which text it is of. words: [N] whether it is a word or number, no sign.
        count: of texts.
    """

    ids: Hashes
    rows: Ints
    words: npt.NDArray[np.bool_]
    count: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Tokens:
        split = [tokens(text) for text in texts]
        rows = np.repeat(np.arange(len(split)), [len(t) for t in split])
        ids = np.fromiter((_token_id(t) for text in split for t in text), np.uint64, len(rows))
        words = np.fromiter((t[0].isalnum() for text in split for t in text), np.bool_, len(rows))
        return cls(ids, rows, words, len(split))

    def grams(self, orders: Sequence[int] = WORD_ORDERS) -> tuple[Ints, npt.NDArray[np.uint32]]:
        """(rows, hashes) of all n-grams that stay within a text."""
        rows, hashes = [], []
        state = np.zeros(len(self.ids), np.uint64)
        for n in range(1, max(orders) + 1):
            size = max(0, len(self.ids) - n + 1)
            state = _mix(state[:size], self.ids[n - 1 :])
            if n in orders:
                inside = self.rows[:size] == self.rows[n - 1 :]
                rows.append(self.rows[:size][inside])
                hashes.append(_final(state[inside]))
        return np.concatenate(rows), np.concatenate(hashes)

    def per_row(self, mask: npt.NDArray[np.bool_] | None = None) -> Floats:
        """Number of tokens (that the mask marks) of every text."""
        return np.bincount(self.rows, mask, minlength=self.count)[: self.count].astype(np.float64)


def char_grams(texts: Sequence[str]) -> tuple[Ints, npt.NDArray[np.uint32]]:
    """(rows, hashes) of the character n-grams within words; a word's edge counts as a character."""
    padded = [f" {' '.join(text.translate(_QUOTES).lower().split())} " for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    rows = np.repeat(np.arange(len(padded)), [len(p) for p in padded])
    space = codes == ord(" ")
    before = np.concatenate([[0], np.cumsum(space)])
    out_rows, out_hashes = [], []
    state = np.full(len(codes), 1, np.uint64)
    for n in range(1, max(CHAR_ORDERS) + 1):
        size = max(0, len(codes) - n + 1)
        state = _mix(state[:size], codes[n - 1 :])
        if n in CHAR_ORDERS:
            interior = before[n - 1 : n - 1 + size] - before[1 : 1 + size]
            good = (interior == 0) & (rows[:size] == rows[n - 1 :])
            if n == 2:
                good &= ~(space[:size] & space[n - 1 :])
            out_rows.append(rows[:size][good])
            out_hashes.append(_final(state[good]))
    return np.concatenate(out_rows), np.concatenate(out_hashes)


@lru_cache(maxsize=1)
def _lexicon() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """Sorted hashes of the phrases [P] and the classes they belong to [P, K]."""
    phrases = sorted({phrase for text in LEXICON.values() for phrase in text.split("|")})
    table = np.array([[p in LEXICON[c].split("|") for c in CLASSES] for p in phrases])
    hashes = []
    for phrase in phrases:
        ids = Tokens.of([phrase])
        hashes.append(ids.grams((len(ids.ids),))[1][0])
    order = np.argsort(hashes)
    return np.array(hashes, np.uint32)[order], table[order]


@lru_cache(maxsize=1)
def _stop_ids() -> Hashes:
    return np.unique(Tokens.of([_STOP]).ids)


def lookup(sorted_hashes: npt.NDArray[np.uint32], hashes: npt.NDArray[np.uint32]) -> Ints:
    """Index of every hash in the sorted list, -1 where it is not in it."""
    place = np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)
    return np.where(sorted_hashes[place] == hashes, place, -1)


def lexicon_counts(rows: Ints, hashes: npt.NDArray[np.uint32], count: int) -> Floats:
    """How often each row holds a phrase of each class: [R, K]."""
    known, table = _lexicon()
    place = lookup(known, hashes)
    found = place >= 0
    rows, member = rows[found], table[place[found]]
    return np.stack([np.bincount(rows, member[:, k], minlength=count)[:count] for k in range(len(CLASSES))], axis=1)


def is_content(words: Tokens) -> npt.NDArray[np.bool_]:
    """Marks the words that are no function words."""
    return words.words & ~np.isin(words.ids, _stop_ids())


def shared_words(words: Tokens, documents: Ints, seekers: Tokens) -> npt.NDArray[np.bool_]:
    """Marks the content tokens that also stand in the seeker's text of the same document.

    Args:
        documents: the document of each row of `words`; `seekers` has one row per document.
    """
    ours = documents[words.rows].astype(np.uint64) << np.uint64(32) | words.ids
    theirs = seekers.rows.astype(np.uint64) << np.uint64(32) | seekers.ids
    return np.isin(ours, theirs) & is_content(words)
