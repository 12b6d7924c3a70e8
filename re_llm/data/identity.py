"""What tells whether two rows share a recording, a speaker or a sentence, whoever wrote the rows."""

from __future__ import annotations

import functools
import re

MIN_WORDS = 4  # shorter sentences ("yes", "I don't know") are common to all corpora
# Corpora that are called otherwise elsewhere (EmoBox, file names), by letters and digits alone.
CORPORA = {"cremad": "crema_d", "jlcorpus": "jl", "mer2023": "merbench", "msppodcast": "msp_podcast"}
_KNOWN = (
    "aesdd", "ased", "cafe", "casia", "cmumosei", "commonvoice", "cremad", "emns", "emodb", "emovdb", "emovo", "esd",
    "gigaspeech", "iemocap", "jl", "jlcorpus", "librispeech", "m3ed", "mead", "meld", "mer2023", "merbench", "mosei",
    "msppodcast", "nemo", "ravdess", "resd", "savee", "shemo", "speechalpaca", "subesco", "tess", "wenetspeech",
)  # fmt: skip
_OF_A_PART = frozenset({"train", "training", "dev", "val", "valid", "validation", "test", "eval", "all", "full"})
_PERSON = re.compile(r"^(?:actor|speaker|spkr|spk)[\s_-]*(?=\d)")
_SIGNS = re.compile(r"[^\w\s]|_")


@functools.lru_cache(maxsize=1024)
def corpus_identity(name: str) -> str:
    """The corpus behind a name: `crema_d` of `CREMA-D`, `cremad` and `crema_d_test`."""
    parts = [part for part in re.split(r"[^a-z0-9]+", name.lower()) if part]
    for first in range(len(parts)):
        for last in range(len(parts), first, -1):
            joined = "".join(parts[first:last])
            if joined in _KNOWN:
                return CORPORA.get(joined, joined)
    return "".join(part for part in parts if part not in _OF_A_PART) or "".join(parts)


@functools.lru_cache(maxsize=1 << 16)
def speaker_identity(corpus: str, speaker: str) -> str:
    """A speaker of a corpus, whichever reader wrote the row: `ravdess:3` of `03`, `3` and `Actor_03`."""
    name = _PERSON.sub("", speaker.strip().lower())
    return f"{corpus_identity(corpus)}:{int(name) if name.isdecimal() else name}"


def sentence(text: str | None) -> str | None:
    """The words of a transcript without case and punctuation; None when there are too few to show a leak.

    Chinese, Japanese and Thai have no blanks: there the number of letters counts.
    """
    if not text:
        return None
    words = _SIGNS.sub("", text.casefold()).split()
    plain = " ".join(words)
    if len(words) >= MIN_WORDS:
        return plain
    unspaced = sum(c > "\u0e00" for c in plain) > len(plain) // 2
    return plain if unspaced and len(plain) >= MIN_WORDS else None
