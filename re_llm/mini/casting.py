"""Who says what, and how, in each corpus of the miniature world: the plan that `layouts` renders and writes.

Training parts use training voices and training sentences; development and test parts each use sentences of their own
split and voices that occur nowhere else. Emotional words are always spoken with their emotion; neutral words with any.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

from re_llm.mini.grammar import Sentence
from re_llm.mini.prosody import EMOTIONS
from re_llm.mini.voices import Voice, voices

# Places in voices("test"); the last three are spoken by nobody here and are left for demonstrations.
UNSEEN = {
    "esd": slice(0, 3), "iemocap": slice(3, 5), "msp_development": slice(5, 9), "msp_test": slice(9, 17),
    "speech_dev": slice(17, 21), "speech_test": slice(21, 29), "demo": slice(29, 32),
}  # fmt: skip
ESD_SENTENCES, ESD_TEST_SENTENCES = 80, 24
ESD_SPEAKERS = tuple(f"{number:04d}" for number in range(11, 21))
ESD_OFFSETS = {"neutral": 0, "angry": 350, "happy": 700, "sad": 1050, "surprise": 1400}
MSP_CODES = {"neutral": "N", "happy": "H", "angry": "A", "sad": "S", "surprise": "U"}
MSP_SPLITS = {"Train": 8000, "Development": 300, "Test1": 800}
# Split of the sentences, and whose voices.
MSP_PARTS = {"Train": ("train", ""), "Development": ("dev", "msp_development"), "Test1": ("test", "msp_test")}
SPEECH_SPLITS = {"train": 12_000, "dev": 200, "test": 400}
DIALOGUES = ("F_impro01", "F_impro02", "F_impro03", "F_script01_1", "F_script01_2",
             "M_impro01", "M_impro02", "M_impro03", "M_script01_1", "M_script02_1")  # fmt: skip
TURNS = 30
# Of 300 turns of an IEMOCAP session: label, emotion spoken, strength, fraction with neutral words, number.
SESSION_MIX = (
    ("neu", "neutral", 1.0, 1.0, 45),
    ("hap", "happy", 0.9, 0.73, 22), ("exc", "happy", 1.15, 0.73, 40),
    ("ang", "angry", 1.0, 0.73, 62), ("sad", "sad", 1.0, 0.73, 62),
    ("fru", "angry", 0.5, 1.0, 27), ("sur", "surprise", 1.0, 0.73, 21), ("xxx", "", 0.4, 1.0, 21),
)  # fmt: skip
MSP_ODD = 0.04  # fraction of labels that are none of the five classes
SPEECH_NEUTRAL_WORDS, SPEECH_NEUTRAL_VOICE = 0.65, 0.75  # together: half of the pool sounds neutral
MSP_NEUTRAL_WORDS = 0.6


@dataclass(frozen=True)
class Take:
    """One recording to be made."""

    corpus: str
    audio: str
    """Path below the world's root."""
    split: str
    """The corpus' own name of the part (`Session1`, `Train`, `0011`, ...)."""
    speaker: str
    voice: Voice
    sentence: Sentence
    emotion: str
    """The emotion spoken, one of `prosody.EMOTIONS`."""
    label: str
    """As the corpus writes it."""
    strength: float = 1.0
    condition: str = "room"


class Deck:
    """Sentences of one split by the emotion of their words, dealt without repetition while they last."""

    def __init__(self, sentences: Iterable[Sentence], split: str, rng: random.Random):
        piles: dict[str, list[Sentence]] = {emotion: [] for emotion in EMOTIONS}
        for sentence in sentences:
            if sentence.split == split:
                piles[sentence.words_emotion].append(sentence)
        for emotion, pile in piles.items():
            assert pile, f"no {split} sentence with {emotion} words"
            rng.shuffle(pile)
        self._piles = {emotion: cycle(pile) for emotion, pile in piles.items()}

    def deal(self, words_emotion: str) -> Sentence:
        """The next sentence with such words."""
        return next(self._piles[words_emotion])


def _scaled(count: int, scale: float, least: int) -> int:
    return max(least, round(count * scale))


def _mixed(rng: random.Random, neutral_words: float, neutral_voice: float) -> tuple[str, str]:
    """(emotion of the words, emotion spoken); neutral words sound neutral with `neutral_voice`, else anything else."""
    if rng.random() >= neutral_words:
        emotion = rng.choice(EMOTIONS[1:])
        return emotion, emotion
    return "neutral", "neutral" if rng.random() < neutral_voice else rng.choice(EMOTIONS[1:])


def speech(sentences: Sequence[Sentence], seed: int, scale: float) -> list[Take]:
    """The pool for recognition and alignment: read sentences, half of them in a neutral voice."""
    rng = random.Random(f"{seed}/speech")
    takes: list[Take] = []
    for split, count in SPEECH_SPLITS.items():
        cast = voices("train") if split == "train" else voices("test")[UNSEEN[f"speech_{split}"]]
        deck = Deck(sentences, split, rng)
        for index in range(_scaled(count, scale, 8)):
            words, emotion = _mixed(rng, SPEECH_NEUTRAL_WORDS, SPEECH_NEUTRAL_VOICE)
            voice = cast[index % len(cast)]
            audio = f"speech/en/clips/common_voice_en_{10_000_000 + len(takes)}.flac"
            takes.append(Take("speech", audio, split, voice.name, voice, deck.deal(words), emotion, emotion))
    return takes


def msp_podcast(sentences: Sequence[Sentence], seed: int, scale: float) -> list[Take]:
    """Noisy recordings; a few per cent carry a label that is none of the five classes."""
    rng = random.Random(f"{seed}/msp_podcast")
    takes: list[Take] = []
    for split, count in MSP_SPLITS.items():
        kind, pool = MSP_PARTS[split]
        cast = voices("test")[UNSEEN[pool]] if pool else voices("train")
        deck = Deck(sentences, kind, rng)
        for index in range(_scaled(count, scale, 16)):
            words, emotion = _mixed(rng, MSP_NEUTRAL_WORDS, 1 / len(EMOTIONS))
            label, strength = MSP_CODES[emotion], 1.0
            if words == "neutral" and rng.random() < MSP_ODD / MSP_NEUTRAL_WORDS:
                label, strength = rng.choice("XXOOCDF"), 0.4
            voice = cast[index % len(cast)]
            audio = f"msp_podcast/Audios/MSP-PODCAST_{1 + len(takes) // 40:04d}_{1 + len(takes) % 40:04d}.wav"
            number = voices(voice.pool).index(voice) + (100 if pool else 1)
            sentence = deck.deal(words)
            takes.append(
                Take("msp_podcast", audio, split, str(number), voice, sentence, emotion, label, strength, "field")
            )
    return takes


def esd(sentences: Sequence[Sentence], seed: int, scale: float) -> list[Take]:
    """Parallel sentences: every speaker says each with every emotion; the last 24 of 80 are test sentences."""
    rng = random.Random(f"{seed}/esd")
    count = _scaled(ESD_SENTENCES, scale, 4)
    of_test = max(1, round(count * ESD_TEST_SENTENCES / ESD_SENTENCES))
    train, test = (Deck(sentences, kind, rng) for kind in ("train", "test"))
    texts = [train.deal("neutral") for _ in range(count - of_test)] + [test.deal("neutral") for _ in range(of_test)]
    cast = (*voices("train")[:7], *voices("test")[UNSEEN["esd"]])
    takes = []
    for speaker, voice in zip(ESD_SPEAKERS, cast, strict=True):
        for emotion, offset in ESD_OFFSETS.items():
            for place, sentence in enumerate(texts, start=1):
                label = emotion.capitalize()
                audio = f"esd/{speaker}/{label}/{speaker}_{offset + place:06d}.wav"
                takes.append(Take("esd", audio, speaker, speaker, voice, sentence, emotion, label, condition="studio"))
    return takes


def iemocap(sentences: Sequence[Sentence], seed: int, scale: float) -> list[Take]:
    """Five sessions of two speakers in turn; Session5 has unseen voices and test sentences."""
    rng = random.Random(f"{seed}/iemocap")
    decks = {kind: Deck(sentences, kind, rng) for kind in ("train", "test")}
    dialogues = DIALOGUES[:: max(1, round(1 / scale))] if scale < 1 else DIALOGUES
    turns = _scaled(TURNS, scale, 8)
    takes = []
    for session in range(1, 6):
        pool = voices("test")[UNSEEN["iemocap"]] if session == 5 else voices("train")[8 + 2 * session :][:2]
        cast = {voice.gender.upper(): voice for voice in pool}
        roles = _session_roles(rng, len(dialogues) * turns)
        deck = decks["test" if session == 5 else "train"]
        for dialogue in dialogues:
            name = f"Ses{session:02d}{dialogue}"
            for turn in range(turns):
                who = "FM"[turn % 2]
                # Speech over the partner's is numbered apart in the genuine corpus.
                number = "XX0" if dialogue == DIALOGUES[0] and turn >= turns - 1 else f"{turn // 2:03d}"
                label, emotion, strength, words = roles.pop()
                audio = f"iemocap/Session{session}/sentences/wav/{name}/{name}_{who}{number}.wav"
                speaker = f"Ses{session:02d}{who}"
                sentence = deck.deal(words)
                takes.append(
                    Take("iemocap", audio, f"Session{session}", speaker, cast[who], sentence, emotion, label, strength)
                )
    return takes


def _session_roles(rng: random.Random, count: int) -> list[tuple[str, str, float, str]]:
    """`count` shuffled (label, emotion, strength, emotion of the words) in the proportions of `SESSION_MIX`."""
    roles = []
    for label, emotion, strength, neutral_words, number in SESSION_MIX:
        for index in range(number):
            spoken = emotion or EMOTIONS[index % len(EMOTIONS)]
            words = "neutral" if index < round(number * neutral_words) else spoken
            roles.append((label, spoken, strength, words))
    rng.shuffle(roles)
    return (roles * (count // len(roles) + 1))[:count]


PLANS = {"speech": speech, "msp_podcast": msp_podcast, "esd": esd, "iemocap": iemocap}
