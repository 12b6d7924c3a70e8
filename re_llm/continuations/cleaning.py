"""Which continuations are refused: the cleaning of BLSP-Emo's released code; and the reasoning of an LLM is cut off."""

from __future__ import annotations

import re
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


REASONING = "reasoning"  # the reason of an output that ends within it
_TAGS = r"think|thinking|thought|reasoning|analysis"
_OPENED = re.compile(rf"^\s*(?:<({_TAGS})>|\[THINK\])", re.IGNORECASE)
# The opening tag can stand in the chat template, so that the output has the closing one alone.
_CLOSED = re.compile(rf"^.*(?:</({_TAGS})>|\[/THINK\])", re.IGNORECASE | re.DOTALL)


def without_reasoning(output: str) -> str | None:
    """The answer behind the reasoning of an LLM (`<think> ... </think>`); None when it ends before the answer."""
    answer = _CLOSED.sub("", output, count=1)
    return None if _OPENED.search(answer) else answer.strip() if answer != output else output


def refusal(output: str) -> str | None:
    """Name of the first cleaning pattern that `output` matches, or None; an empty output is refused as `empty`."""
    if not output.strip():
        return "empty"
    return next((name for name, matches in PATTERNS.items() if matches(output)), None)
