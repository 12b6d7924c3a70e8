"""Whether a reply looks English: every EPITOME scorer learned from English posts alone."""

from __future__ import annotations

import re

MIN_WORDS = 4
# Of a reply's words so many are among the commonest in English. Fewer have 20 of EPITOME's 2,448 responses with
# MIN_WORDS words, and none of the miniature's replies.
MIN_COMMON = 0.2
_COMMON = """
i you the that and to it have are what how my your this with for be can would about not but at they she him her
when there been just know feel like sorry did does more think want really very good glad hope must tell from if
or up out all their them who why could should here had has were because then than too any some i'm you're it's
that's don't i've let's thank thanks hear great is a of in was we me so on no do will as he an am by well sounds
see understand doesn't didn't isn't can't you've we're they're there's what's
"""
_COMMON_WORDS = frozenset(_COMMON.split())
_WORDS = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def looks_english(text: str) -> bool:
    """By Latin letters and common English words; true for fewer than `MIN_WORDS` words in Latin letters."""
    letters = [letter for letter in text if letter.isalpha()]
    if sum(letter < "\u0250" for letter in letters) < len(letters) / 2:
        return False
    words = _WORDS.findall(text.lower().replace("\u2019", "'"))
    return len(words) < MIN_WORDS or sum(word in _COMMON_WORDS for word in words) >= MIN_COMMON * len(words)
