"""Replies against the reference that a benchmark gives: the letter of the right choice, or a reply in words.

CHOICE is 1 where the reply decides for the right letter, and 0 where it decides for another, for several or for none:
nothing is guessed (VoiceBench draws a letter for the last). ROUGE_L is the F-measure of the longest common subsequence
of words (Lin, ROUGE, 2004), without stemming; Chinese and Japanese characters are words of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from re_llm.core.records import ReplyRecord, Score
from re_llm.evaluate.empathy.scores import Group, make_score
from re_llm.evaluate.word_errors import rate_interval

_LETTER = re.compile(r"\W*([A-J])\W*")
_CHARACTERS = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CHARACTERS}]|[^\W_{_CHARACTERS}]+")
# "A" before a word in small letters is an article, unless that word goes on with the reason.
_CAPITAL = r"([B-J](?![\w'\u2019])|A(?![\w'\u2019])(?! +(?!because|since|as |and |which|for )[a-z]))"
_SMALL = r"([a-j])(?=\W*(?:$|[.,;:)\]\"*\n]))"
_FILLER = r"(?:\s|\b(?:is|was|would be|should be|option|choice|letter|with|the)\b|[:*\"'(\[\u201c])*"
_DECIDES = [
    # What is named as the answer, what the reply begins with, and what is set like a choice anywhere.
    re.compile(
        rf"(?i:\banswer|\boption|\bchoice|\bchoose|\bselect|\bpick|\bgo with|\b答案|选项|选){_FILLER}"
        rf"(?:是|为|应该是|就是|选项|选)*\s*(?:{_CAPITAL}|{_SMALL})"
    ),
    re.compile(r"\A\W*([A-J])(?=\s*(?:[).:,;*\]]|\Z))"),
    re.compile(r"(?<![\w'])\(?([A-J])\)|\*\*([A-J])\b|(?<![\w'])([A-J])[.:](?=\s|\Z)"),
]


def right_letter(reference: str | None) -> str | None:
    """The letter that a reference is; None for one in words, and for none."""
    found = _LETTER.fullmatch(reference) if reference else None
    return found[1] if found else None


def chosen_letter(response: str) -> str | None:
    """The one letter, A to J, that a reply decides for; None when it names none, or several."""
    whole = response.strip(" \t\n.:()[]*\"'")
    if len(whole) == 1 and whole.upper() in "ABCDEFGHIJ":
        return whole.upper()
    for pattern in _DECIDES:
        found = {next(filter(None, match.groups())).upper() for match in pattern.finditer(response)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def words_of(text: str) -> list[str]:
    """Words in small letters; characters of languages that are written without blanks."""
    return _WORD.findall(text.lower())


def rouge_l(reference: str, response: str) -> float:
    """F-measure of the longest common subsequence of words, 0 to 1; 0 where either has no word."""
    expected, found = words_of(reference), words_of(response)
    row = [0] * (len(found) + 1)
    for word in expected:
        diagonal = 0
        for j, other in enumerate(found, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(expected) + len(found)) if row[-1] else 0.0


def _fields(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [each["value"] for each in details]
    interval = list(rate_interval(values, [1] * len(values)))
    return {"value": fmean(values), "count": len(values), "interval": interval}


def choice_fields(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields of the `CHOICE` row of a group; `undecided`: replies that decide for no letter, which are wrong."""
    return {**_fields(details), "undecided": sum(each.get("chosen") is None for each in details)}


GROUPS: dict[str, Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]] = {
    "CHOICE": choice_fields,
    "ROUGE_L": _fields,
}


def _details(metric: str, reply: ReplyRecord) -> dict[str, Any] | None:
    """Fields of one reply's score; None where its reference is of the other kind."""
    right = right_letter(reply.reference)
    if metric == "CHOICE":
        chosen = chosen_letter(reply.response)
        return {"value": float(chosen == right), "right": right, "chosen": chosen} if right else None
    return None if right or not reply.reference else {"value": rouge_l(reply.reference, reply.response)}


def reference_scores(group: Group, replies: Sequence[ReplyRecord], metric: str) -> Iterator[Score]:
    """Rows of scores.jsonl: `CHOICE` or `ROUGE_L` of each reply that has such a reference, and of the group."""
    known = {reply.key: found for reply in replies if (found := _details(metric, reply))}
    for key, fields in known.items():
        yield make_score(group, metric, key, fields)
    yield make_score(group, metric, "*", GROUPS[metric](list(known.values())))
