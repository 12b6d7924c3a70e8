"""Length control: which sentences stay, when a question is asked, and what the LLM may write then."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from re_llm.core.errors import RellmError
from re_llm.llm.completion import Completion
from re_llm.llm.length import FREE, QUESTION_TOKENS, Length, Question, count_words, is_question, keep, sentences, shaped

REPLY = "I'm sorry to hear that. What happened? That must be hard for you. Do you want to talk about it?"


def test_sentences_end_at_their_signs_and_nowhere_else() -> None:
    assert sentences("It is 3.5 miles. “Really?” Yes! ok") == ["It is 3.5 miles.", "“Really?”", "Yes!", "ok"]
    assert sentences("我很难过。你呢？") == ["我很难过。", "你呢？"]  # noqa: RUF001
    assert sentences("") == []
    assert is_question("“Really?”") and not is_question("Really.")
    assert count_words("我很难过 today") == 5


def test_whole_sentences_are_kept_and_nothing_is_cut_inside_one() -> None:
    assert keep(REPLY, Length(7)) == ("I'm sorry to hear that. What happened?", False)
    assert keep(REPLY, Length(6)) == ("I'm sorry to hear that.", False)
    assert keep("This first sentence is much longer than the limit. Short.", Length(3))[0].endswith("the limit.")
    assert keep("All of it. And an unfinished", Length(50)) == ("All of it.", False)
    assert keep("only an unfinished", Length(50)) == ("only an unfinished", False)


def test_the_replys_own_question_ends_it_and_others_go() -> None:
    assert keep(REPLY, Length(question=True)) == (
        "I'm sorry to hear that. That must be hard for you. What happened?", False,
    )  # fmt: skip
    assert keep(REPLY, Length(8, question=True)) == ("I'm sorry to hear that. What happened?", False)
    assert keep("A statement that is far too long to stay here. Why?", Length(5, question=True)) == ("Why?", False)
    assert keep("I see. Thank you.", Length(question=True)) == ("I see. Thank you.", True)


def test_only_rows_that_lack_a_question_are_asked_and_tokens_are_added() -> None:
    asked: list[tuple[list[int], list[str]]] = []

    def ask(which: Sequence[int], texts: Sequence[str]) -> list[Completion]:
        asked.append((list(which), list(texts)))
        return [Completion("How was it?", 4) for _ in which]

    answers = [Completion("Why?", 2), Completion("I see. And then", 5, "length")]
    found = shaped(answers, Length(question=True), ask)
    assert asked == [([1], ["I see."])]
    assert [each.text for each in found] == ["Why?", "I see. How was it?"]
    assert (found[1].tokens, found[1].finish_reason) == (9, "stop")
    assert shaped([Completion("cut", 1, "length")], Length(5), ask)[0].finish_reason == "length"


def test_a_limit_below_one_word_is_refused_and_no_limit_is_none() -> None:
    with pytest.raises(RellmError, match="max_words is 0"):
        Length(0)
    assert not FREE and Length(1) and Length(question=True)


PIECES = ["<s>", "</s>", "What", "ĠWhat", "Ġnow", "?", ".", "Ċ", "Ġhow?", "Hi!"]


class Tokens:
    """A tokenizer of ten pieces."""

    all_special_ids = (0, 1)

    def __len__(self) -> int:
        return len(PIECES)

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [{"What": 2, " What": 3, "?": 5}.get(text, 4)]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [PIECES[i] for i in ids]


def allowed(question: Question, *rows: list[int]) -> list[set[int]]:
    scores = question(torch.tensor(rows), torch.zeros(len(rows), len(PIECES)))
    return [set(torch.isfinite(row).nonzero().flatten().tolist()) for row in scores]


def test_the_llm_may_write_one_question_and_then_ends() -> None:
    question = Question(Tokens(), 1, [1], begun=False)  # type: ignore[arg-type]
    assert allowed(question, [0]) == [{2, 3, 4}]  # words that begin a question
    # No end, no other sentence: 1 ends the turn, 6, 7 and 9 break the sentence off. After a question mark the end.
    assert allowed(question, [0, 3], [0, 5], [0, 8]) == [{2, 3, 4, 5, 8}, {1}, {1}]
    assert allowed(question, [0, *[4] * (QUESTION_TOKENS - 1)]) == [{5}]  # a question mark at last


def test_a_question_that_has_begun_does_not_end_at_once() -> None:
    begun = Question(Tokens(), 2, [1], begun=True)  # type: ignore[arg-type]
    assert allowed(begun, [0, 3]) == [{2, 3, 4}]
    assert 5 in allowed(begun, [0, 3, 4])[0]


def test_the_mini_llm_ends_with_one_question() -> None:
    from re_llm.llm.local import ChatLlm
    from re_llm.llm.prompts import get_prompt

    llm = ChatLlm.load("mini:llm", device="cpu")
    rows = [(get_prompt("cascade").with_emotion(name), "I got the letter today.") for name in ("neutral", "sad")]
    plain = llm.answer(rows, max_new_tokens=40)
    for each, before in zip(llm.answer(rows, max_new_tokens=40, length=Length(18, True)), plain, strict=True):
        parts = sentences(each.text)
        assert [is_question(part) for part in parts].count(True) == 1 and is_question(parts[-1]), each
        assert all(part in before.text for part in parts[:-1]), (each, before)
