"""Prompts: the rows of the released code, and where they differ from the papers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import EMPATHETIC, SYSTEM, get_prompt, split_chat
from re_llm.model.processing import load_tokenizer


@pytest.mark.parametrize(
    ("released", "paper", "system"),
    [
        ("continue-emotion-released", "continue-emotion", EMPATHETIC),
        ("continue-speech-released", "continue-speech", EMPATHETIC),
        ("recognize-released", "recognize", SYSTEM),
        ("chat-released", "chat-empathetic", EMPATHETIC),
    ],
)
def test_the_released_code_has_its_own_system_prompt(released: str, paper: str, system: str) -> None:
    prompt = get_prompt(released)
    assert (prompt.id, prompt.system) == (released, system)
    assert prompt.needs_emotion is get_prompt(paper).needs_emotion
    if paper.startswith("continue"):
        assert get_prompt(paper).system == SYSTEM


def test_the_released_code_writes_no_newline_behind_the_role_when_it_generates(assets: Path) -> None:
    tokenizer = load_tokenizer(assets / "llm")
    for name, like in (("chat-released", "chat-empathetic"), ("recognize-released", "recognize-speech")):
        (prefix, suffix), (same, whole) = (split_chat(tokenizer, get_prompt(each)) for each in (name, like))
        assert prefix == same and suffix + "\n" == whole and suffix.endswith("<|im_start|>assistant")
    for name in ("continue-emotion-released", "continue-speech-released"):  # rows of training
        assert split_chat(tokenizer, get_prompt(name).with_emotion("sad"))[1].endswith("<|im_start|>assistant\n")


def test_a_repetition_penalty_reaches_the_text_llm(assets: Path) -> None:
    llm = ChatLlm.load("mini:llm", device="cpu")
    rows = [(get_prompt("chat"), "I missed the bus.")]
    free, held = (llm.answer(rows, max_new_tokens=16, repetition_penalty=value)[0].text for value in (None, 50.0))
    assert free != held
