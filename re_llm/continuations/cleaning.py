"""Which continuations are refused: the cleaning of BLSP-Emo's released code."""

from __future__ import annotations

from collections.abc import Callable

# An output that one of them matches is a refusal or a misunderstanding. Name and test, special ones first: a row is
# counted under the first name that matches.
PATTERNS: dict[str, Callable[[str], bool]] = {
    "sorry-cannot": lambda t: t.startswith("I'm sorry, but I cannot"),
    "sorry-not-sure": lambda t: t.startswith("I'm sorry, but I'm not sure"),
    "as-an-ai": lambda t: "as an ai language model" in t.lower(),
    "sorry-but-i": lambda t: "i'm sorry, but i" in t.lower(),
    "not-sure-what-you": lambda t: "I'm not sure what you" in t,
}


def refusal(output: str) -> str | None:
    """Name of the first cleaning pattern that `output` matches, or None; an empty output is refused as `empty`."""
    if not output.strip():
        return "empty"
    return next((name for name, matches in PATTERNS.items() if matches(output)), None)
