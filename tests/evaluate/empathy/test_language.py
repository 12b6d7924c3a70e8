"""Replies in other languages are noticed, English ones of any manner are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from re_llm.core.records import ReplyRecord, write_records
from re_llm.evaluate import score_file
from re_llm.evaluate.audits import audit
from re_llm.evaluate.empathy.language import looks_english
from re_llm.mini.grammar import reply, world

FOREIGN = (
    "Das tut mir sehr leid. Was ist passiert?",
    "In welchem Hotel warst du? Das war sicher toll.",
    "Je suis vraiment désolé d'apprendre cela. Que s'est-il passé ?",
    "Lo siento mucho, eso debe ser muy difícil para ti.",
    "Mi dispiace tanto, deve essere stato difficile. Cosa è successo?",
    "Wat erg voor je! Hoe is het nu met je? Dat is toch niet eerlijk.",
    "Przykro mi to słyszeć. Jak się teraz czujesz?",
    "それは大変でしたね。",
    "我很抱歉听到这个消息。",
    "정말 힘드셨겠어요.",
    "Мне очень жаль.",
)
ENGLISH = ("I’m so sorry. What’s happened?", "Congratulations!", "", "...", "Oh no, poor you.", "Is that so? 😊")  # noqa: RUF001


@pytest.mark.parametrize("text", FOREIGN)
def test_another_language(text: str) -> None:
    assert not looks_english(text)


def test_english_and_what_is_too_short_to_tell() -> None:
    assert all(map(looks_english, ENGLISH))
    assert all(looks_english(reply(s, e, True)) for s in world(0, 200) for e in ("neutral", "sad", "angry", "happy"))


def test_it_is_told_when_replies_are_scored_and_audited(tmp_path: Path) -> None:
    rows = [ReplyRecord(key=str(n), system="s", text="I fell.", response=text) for n, text in enumerate(FOREIGN)]
    write_records(tmp_path / "r.jsonl", [*rows, ReplyRecord(key="e", system="s", text="I fell.", response=ENGLISH[0])])
    report = score_file(tmp_path / "r.jsonl", tmp_path / "s.jsonl", progress=False)
    assert report.not_english == 11 and "11 replies do not look English" in report.summary()
    assert audit([*FOREIGN, *ENGLISH]).not_english == 11
