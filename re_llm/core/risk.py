"""Sentences about harming oneself, and what is answered then, whatever a model would say. English, by rule."""

from __future__ import annotations

import re
import zlib

_WORDS = (
    r"suicid|overdos|self.?harm|slit my wrist|end it\b|kill me now|jump(ing)? (off|in front of)",
    r"(kill|cut|hurt|hang|harm|shoot|shot|drown)(|ed|t?ing|n?ing|s) (my ?self|themselves|himself|herself)",
    r"(end|ending|take|taking|took|ended) (my|his|her|their) (own )?(life|lives)|(end|ending) it all",
    r"(want|wanted|wanting|like|going|ready|trying|need|wanna|deserve) (to )?die",
    r"(don't|do not|not) (want )?to (live|be alive|exist)|(don't|do not) want to (wake up|be here)",
    r"wish (i|that i) (was|were) (dead|never born)|better off (dead|without me)",
    r"(not|n't|never|nothing) worth (living|(the \w+ |it )?to live)|(nothing|nobody|no one) to live for",
    r"tired of (living(?! (in|with|on|at|out|off|from|next|under|here|there))|life|being alive)",
    r"(no|lost (the|my)|losing (the|my)) will to live",
    r"no (reason|point) (to|in) (live|living|life)|get(ting)? hit by a (car|train|bus|truck)",
)
RISK = re.compile("|".join(_WORDS), re.IGNORECASE)
REPLIES = (
    "I'm so sorry that you are in so much pain. You matter, and you are not alone. "
    "Please call someone you trust or a crisis line right now.",
    "Thank you for telling me, that took courage. I am worried about you. "
    "Is there someone near you, or a crisis line that you can call now?",
    "I'm really sorry it hurts this much. Please do not stay alone with it. "
    "A crisis line or your local emergency number can help right now.",
    "That sounds unbearable, and I am glad that you say it. Are you safe at the moment? "
    "Please reach out to someone you trust, or to a crisis line.",
)


def at_risk(text: str) -> bool:
    """Whether somebody may be about to harm themselves. Indirect words are missed, and so is what was misheard."""
    return RISK.search(text.replace("\u2019", "'")) is not None


def careful_reply(text: str) -> str:
    """The reply to such a sentence: the same to the same words."""
    return REPLIES[zlib.crc32(text.encode()) % len(REPLIES)]
