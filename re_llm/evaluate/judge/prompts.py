"""The judge prompts of the BLSP-Emo paper (Listings 1 to 3), word for word, and what a judge's answer says.

The paper prints the blocks of Listing 2 apart from its sentences; they are joined here as in Listing 1. Its Listing 3
has the history of a dialogue of three turns; here it is that of the reply's `history`, or the user's one turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

QUALITY = """\
Given the original instruction provided by the user, the user's emotion tone when delivering the instruction, \
and the model's response to the instruction. You are a helpful and precise assistant for checking the quality \
of the response .
<instruction>
{instruction}
</instruction>
<emotion>
{emotion}
</emotion>
<response>
{response}
</response>
Please evaluate the response with your justification having less than three sentences, and provided a score \
ranging from 0 to 10 after your justification. When evaluate the response, you should consider the \
helpfulness, harmlessness, honesty of the response. The score should be wrapped by <score> and </score>."""

EMPATHY = """\
Given the original instruction provided by the user, the user's emotional tone when delivering the \
instruction, and the model's response to the instruction. You are a helpful and precise assistant for checking \
the empathy of the response.
<instruction>
{instruction}
</instruction>
<emotion>
{emotion}
</emotion>
<response>
{response}
</response>
Please evaluate the response with your justification having less than three sentences, and provided a score \
ranging from 0 to 10 after your justification. When evaluate the response, you should consider whether it show \
empathy towards the user's emotional state. The score should be wrapped by <score> and </score>."""

PAIRWISE = """\
Based on the dialogue history and the emotional tone expressed by the user in their last statement, you are \
tasked to precisely evaluate two possible responses (responses A and B) from Assistants A and B, respectively. \
You should act as a thorough and accurate evaluator to determine which assistant's response better aligns with \
the preceding context and the emotional tone expressed.
<history>
{history}
</history>
<emotion>
{emotion}
</emotion>
<response_A>
Assistant: {response_a}
</response_A>
<response_B>
Assistant: {response_b}
</response_B>
Provide a concise justification for your choice in no more than three sentences and conclude with a definitive \
selection between Response A and Response B. Your evaluation should reflect how well each assistant's response \
adheres to the previous elements of the conversation, including the most recent emotional tone presented by \
the user. The choice should be wrapped by <choice> and </choice>."""

SCORED = {"QUALITY": QUALITY, "EMPATHY": EMPATHY}
HIGHEST = 10.0
_FIELD = re.compile(r"\{(\w+)\}")
_SCORE = re.compile(
    r"<score>\s*(?:score\s*:?\s*)?(-?\d+(?:\.\d+)?)\s*(?:/\s*10|out of 10|points?)?\s*(?:</?score>|$)", re.IGNORECASE
)
_CHOICE = re.compile(r"<choice>(.*?)(?:</?choice>|$)", re.IGNORECASE | re.DOTALL)
# A capital letter alone, or any behind its noun: "a" is an article as well.
_SIDE = re.compile(r"(?i:response|assistant|option)[\s_]*([ABab])\b|(?<!\w)([AB])(?!\w)")
_EQUAL = re.compile(r"\b(?:tie|tied|equal|equally|both|neither|either|draw)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry,? but i|unable|not able)|i (?:can(?:'|no)?t|cannot|won't|will not|must decline)|"
    r"as an ai(?: language)? model)\b",
    re.IGNORECASE,
)


def fill(template: str, fields: Mapping[str, str]) -> str:
    """A prompt with its fields; braces in a reply stay what they are."""
    return _FIELD.sub(lambda match: fields[match[1]], template)


def read_score(answer: str) -> float | None:
    """The score in a judge's answer, 0..10; None when it gives none, several different ones, or one out of range."""
    found = {float(number) for number in _SCORE.findall(answer)}
    score = found.pop() if len(found) == 1 else -1.0
    return score if 0 <= score <= HIGHEST else None


def read_choice(answer: str) -> str | None:
    """`A`, `B` or `tie`; None when a judge's answer makes no choice, or more than one."""
    found = set()
    for text in _CHOICE.findall(answer):
        sides = {(named or alone).upper() for named, alone in _SIDE.findall(text)}
        found.add("tie" if _EQUAL.search(text) else sides.pop() if len(sides) == 1 else None)
    return found.pop() if len(found) == 1 else None


def is_refusal(answer: str) -> bool:
    """Whether an answer without a score or choice declines to judge."""
    return bool(_REFUSAL.search(answer.replace("’", "'")))  # noqa: RUF001 (that is what is replaced)
