"""How figures are read: every voice is given words, so that all of them say the same."""

from __future__ import annotations

import re

from re_llm.core.errors import MissingExtra

_NUMBER = r"\d{1,3}(?:,\d{3})+|\d+"
_PATTERN = re.compile(
    rf"(?P<time>\b\d{{1,2}}:\d\d\b)|(?P<money>\$(?:{_NUMBER})(?:\.\d\d)?)|(?P<phone>\b\d{{3}} \d{{3}} \d{{4}}\b)"
    rf"|(?P<ordinal>\b\d+(?:st|nd|rd|th)\b)|(?P<year>\b(?:1[1-9]|20)\d\d\b(?!,\d))|(?P<decimal>\d+\.\d+)"
    rf"|(?P<whole>{_NUMBER})|(?P<percent>%)"
)


def spoken(text: str) -> str:
    """The sentence with figures as words: "at 7:30" becomes "at seven thirty", "$5" "five dollars".

    Raises:
        MissingExtra: num2words is not installed.
    """
    if not re.search(r"\d", text):
        return text
    return " ".join(_PATTERN.sub(_read, text).replace("a.m.", "AM").replace("p.m.", "PM").split())


def _read(match: re.Match[str]) -> str:
    with MissingExtra.unless("num2words", "small-build", "Reading figures aloud"):
        from num2words import num2words
    kind, found = str(match.lastgroup), match[0]
    if kind == "percent":
        return " percent"
    if kind == "time":
        hour, minute = found.split(":")
        past = "o'clock" if minute == "00" else f"oh {num2words(int(minute))}" if minute[0] == "0" else None
        return f"{num2words(int(hour))} {past or num2words(int(minute))}"
    if kind == "phone":
        return ", ".join(" ".join(num2words(int(digit)) for digit in group) for group in found.split())
    if kind == "ordinal":
        return str(num2words(int(found[:-2]), to="ordinal"))
    if kind == "year":
        return str(num2words(int(found), to="year"))
    if kind == "money":
        dollars, _, cents = found[1:].replace(",", "").partition(".")
        said = f"{num2words(int(dollars))} dollar{'s' * (dollars != '1')}"
        return f"{said} {num2words(int(cents))}" if cents and int(cents) else said
    return str(num2words(float(found) if kind == "decimal" else int(found.replace(",", ""))))
