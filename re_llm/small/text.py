"""The sentences that the small model hears: cleaned, deduplicated, split, one a line with where it comes from."""

from __future__ import annotations

import csv
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from re_llm.core.errors import RellmError
from re_llm.core.records import Record, read_records, write_records
from re_llm.evaluate.word_errors import plain
from re_llm.small.dialogues import MARKS, Dialogue, asset_lines

WORDS = range(3, 21)
SPLITS = {"dev": 2, "test": 2}
"""Per cent of the sentences that are never trained on."""

_STRAIGHT = str.maketrans(
    dict(zip("\u2019\u2018\u201c\u201d\u2013\u2014\xa0", ("'", "'", '"', '"', "-", ",", " "), strict=True))
)
_CONTRACTIONS = {
    "im": "I'm", "ive": "I've", "i": "I", "i'm": "I'm", "i've": "I've", "i'll": "I'll", "i'd": "I'd", "dont": "don't",
    "cant": "can't", "wont": "won't", "didnt": "didn't", "doesnt": "doesn't", "isnt": "isn't", "wasnt": "wasn't",
    "arent": "aren't", "couldnt": "couldn't", "wouldnt": "wouldn't", "shouldnt": "shouldn't", "havent": "haven't",
    "hasnt": "hasn't", "thats": "that's", "whats": "what's", "theres": "there's", "youre": "you're",
    "theyre": "they're", "alot": "a lot", "wanna": "want to", "gonna": "going to", "gotta": "got to", "u": "you",
}  # fmt: skip
_CONTRACTED = re.compile(r"\b(?:" + "|".join(_CONTRACTIONS) + r")(?=[,.!?]|$)", re.IGNORECASE)
_SPEAKABLE = re.compile(r"[A-Za-z0-9 ,.!?'$%:-]+")
_NOT_SPOKEN = re.compile(
    r"https?:|www\.|\b(idk|tbh|lol|btw|tl|dr|smh|wtf|imo|tw|ftm|mtf|bpd|sh|kms|lmao|edit|nsfw|reddit|subreddit|smollm"
    r"|ai language model)\b|(?<!')\b[b-hj-z]\b(?!')|(\b\w+\b)( \2){2}",
    re.IGNORECASE,
)
_QUOTED = re.compile(r'"([^"]+)"')


class Sentence(Record):
    """One thing to say. `key` is made of the words, so it stays when other sentences come and go."""

    text: str
    source: str
    split: str


def clean(text: str) -> str | None:
    """The sentence as a transcript would write it, or None: not 3 to 20 words, or something nobody says."""
    text = " ".join(text.translate(_STRAIGHT).replace("\u2026", "...").replace('"', " ").split()).strip(" -*#>,:'")
    text = re.sub(r"^(\d{1,2}[.)]|[A-Z]:|[A-Z]\w* \d+:|\([^)]*\))\s+", "", text)
    text = re.sub(r"([!?])[!?.]+", r"\1", re.sub(r"\.{2,}(?=.)", ",", text).rstrip("., ") or "")
    text = re.sub(r"\s*,+\s*(?=\D)|\s*,+\s+", ", ", text).strip(" ,")
    if text and text[-1] not in "!?":
        text += "."
    text = " ".join(_CONTRACTIONS.get(word.lower(), word) for word in text.split(" "))
    text = _CONTRACTED.sub(lambda match: _CONTRACTIONS[match[0].lower()], text)
    words = text.split()
    shouted = sum(len(word) > 4 and word.isupper() for word in words)
    if (
        len(words) not in WORDS or not _SPEAKABLE.fullmatch(text) or _NOT_SPOKEN.search(text) or shouted
        or max(map(len, words)) > 18 or len({word.lower() for word in words}) < 3 or re.search(r"\d{5}", text)
    ):  # fmt: skip
        return None
    return text[0].upper() + text[1:]


def cut(text: str) -> Iterator[str]:
    """The sentences of a longer text."""
    yield from re.split(r"(?<=[.!?])[\"'\u201d\u2019)]*\s+|\n+", text)


# ── sources ──


def epitome(folder: Path, post: Literal["seeker", "response"] = "seeker") -> Iterator[str]:
    """Sentences of the posts of EPITOME (Sharma et al. 2020), as its owners ship it; long ones by clauses.

    Args:
        post: those that ask for help, or the answers to them.

    Raises:
        RellmError: the folder holds no table of it.
    """
    tables = sorted(folder.glob("*.csv"))
    if not tables:
        raise RellmError(f"{folder} holds no csv table", allowed="emotional-reactions-reddit.csv and its like")
    seen: set[str] = set()
    for table in tables:
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                number = row["sp_id" if post == "seeker" else "rp_id"]
                if number not in seen:
                    seen.add(number)
                    for sentence in cut(row[f"{post}_post"]):
                        yield from _clauses(sentence)


def _clauses(sentence: str) -> Iterator[str]:
    """The sentence, or where it is too long its clauses of at least five words."""
    if len(sentence.split()) < WORDS.stop:
        yield sentence
    else:
        clauses = re.split(r"[,;:]\s+|\s+(?=(?:but|and|because|so|or|when|if|while)\s)", sentence)
        yield from (clause for clause in clauses if len(clause.split()) >= 5)


def dialogues(file: Path) -> Iterator[str]:
    """Sentences of the LLM's dialogues; the last one of each was broken off and is left out."""
    for dialogue in read_records(file, Dialogue):
        turns = re.split(r"(?:<\|im_start\|>|<\|im_end\|>)+(?:\s*(?:user|assistant|system)\n)?", dialogue.text)
        for number, turn in enumerate(turns):
            sentences = list(cut(turn.strip()))
            yield from sentences[:-1] if number == len(turns) - 1 and MARKS[1] not in dialogue.text[-12:] else sentences


def miniature(count: int, seed: int) -> Iterator[str]:
    """Sentences of the miniature's grammar."""
    from re_llm.mini.grammar import world

    yield from (sentence.text for sentence in world(seed, count))


def wordnet(folder: Path) -> Iterator[str]:
    """The example sentences of WordNet 3.x (Princeton University), which say 30,000 different words.

    Args:
        folder: holds `data.noun`, `data.verb`, `data.adj`, `data.adv`: Princeton's `dict`, Debian's /usr/share/wordnet.

    Raises:
        RellmError: one of the four is missing.
    """
    for part in ("noun", "verb", "adj", "adv"):
        file = folder / f"data.{part}"
        if not file.is_file():
            raise RellmError(
                f"{folder} holds no file data.{part} of WordNet",
                todo="Name the folder dict of WordNet 3.x (Debian: install wordnet-base, /usr/share/wordnet)",
            )
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                yield from _QUOTED.findall(line.partition("|")[2])


# ── all of them ──


@cache
def reserved() -> frozenset[str]:
    """Keys of what the acted corpora say, which is only ever tested on."""
    from re_llm.data.corpora import crema_d, emodb, ravdess

    texts = (*ravdess.STATEMENTS, *emodb.SENTENCES.values(), *crema_d.SENTENCES.values())
    return frozenset((*map(key_of, texts), *asset_lines("nemo_sentences.txt")))


def key_of(text: str) -> str:
    """Sixteen hexadecimal digits that stand for the words of the sentence."""
    return hashlib.blake2b(plain(text).encode(), digest_size=8).hexdigest()


def split_of(key: str) -> str:
    """`train`, `dev` or `test`, the same for a sentence in every build."""
    number = zlib.crc32(key.encode()) % 100
    for split, per_cent in SPLITS.items():
        if number < per_cent:
            return split
        number -= per_cent
    return "train"


def write_sentences(
    out: Path, sources: Mapping[str, Iterable[str]], trained: Collection[str] = ()
) -> dict[str, dict[str, int]]:
    """Writes all sentences, sources in turn by their key; the first source to say something keeps it.

    Args:
        trained: sources of which nothing is held out.

    Returns:
        For each source how many sentences were kept, and left out as `unsuitable`, `repeated` or `reserved`.
    """
    counts: dict[str, Counter[str]] = {}
    found: dict[str, Sentence] = {}
    for source, texts in sources.items():
        count = counts[source] = Counter(kept=0, unsuitable=0, repeated=0, reserved=0)
        for raw in filter(str.strip, texts):
            text = clean(raw)
            if text is None:
                count["unsuitable"] += 1
            elif (key := key_of(text)) in reserved():
                count["reserved"] += 1
            elif key in found:
                count["repeated"] += 1
            else:
                count["kept"] += 1
                split = "train" if source in trained else split_of(key)
                found[key] = Sentence(key=key, text=text, source=source, split=split)
    write_records(out, (found[key] for key in sorted(found)))
    return {source: dict(count) for source, count in counts.items()}
