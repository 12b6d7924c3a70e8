"""Texts as tokens, sentences and word n-grams for the small empathy scorer, and the lexicon it looks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WORDS_TOGETHER = 3

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
PHRASES = tuple(sorted({phrase for text in LEXICON.values() for phrase in text.split("|")}))
# [P, K]: which classes a phrase belongs to.
MEMBERSHIP = np.array([[p in LEXICON[c].split("|") for c in CLASSES] for p in PHRASES], np.float64)
_FUNCTION_WORDS = (
    "the a an and or but if of to in on at for with is are was were be been am i you it that this my your me we they "
    "he she so as not have has had do does did just can will would could should about from what when there all get "
    "like really no up out"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def tokens(text: str) -> list[str]:
    """Lower-case words, numbers, runs of ? and !, and single other signs."""
    return _TOKEN.findall(text.translate(_QUOTES).lower())


def is_content(token: str) -> bool:
    """Whether a token is a word or number that is no function word."""
    return token[0].isalnum() and token not in FUNCTION_WORDS


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of the sentences of a text, at least one; signs alone belong to the sentence before them."""
    spans: list[tuple[int, int]] = []
    for match in _SENTENCE.finditer(text):
        if _WORDY.search(match.group()):
            spans.append(match.span())
        elif spans:
            spans[-1] = (spans[-1][0], match.end())
    return spans or [(0, len(text))]


def ngrams(words: Sequence[str]) -> list[str]:
    """All runs of one to three tokens."""
    orders = range(1, WORDS_TOGETHER + 1)
    return [" ".join(words[i : i + n]) for n in orders for i in range(len(words) - n + 1)]
