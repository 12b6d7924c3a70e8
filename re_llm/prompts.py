"""Every prompt of RE-LLM and BLSP-Emo, by id, and the one rule that cuts a chat row into pieces.

A row is always `prefix | content | suffix | response`. The content is the transcript (text pass) or the speech
tokens (speech pass). The pieces are tokenised separately in every stage: a token that spanned the border between
prompt and content in one pass but not in the other would make the teacher answer a different question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from re_llm.errors import RellmError

SYSTEM = "You are a helpful assistant."
# Released code of RE-LLM and BLSP-Emo; the wording of the BLSP-Emo paper differs slightly.
EMPATHETIC = SYSTEM + " Your response should fulfill requests with empathy toward user's emotion tone."
EMPATHETIC_PAPER = SYSTEM + " Your response should fulfill requests with empathy toward the user's emotional tone."
_OPTIONS = "Select from the following options: neutral, sad, angry, happy, or surprise."


@dataclass(frozen=True)
class Prompt:
    """One prompt. `before` and `after` stand around the content inside the user's turn."""

    id: str
    system: str = SYSTEM
    before: str = ""
    after: str = ""

    @property
    def needs_emotion(self) -> bool:
        return "{emotion}" in self.before + self.after

    def with_emotion(self, emotion: str | None) -> Prompt:
        """The prompt with its `{emotion}` filled in; itself when it has none.

        Raises:
            RellmError: the prompt needs an emotion and none is given.
        """
        if not self.needs_emotion:
            return self
        if emotion is None:
            raise RellmError(f"prompt {self.id!r} names the emotion, but this utterance has no emotion label")
        return replace(
            self, before=self.before.replace("{emotion}", emotion), after=self.after.replace("{emotion}", emotion)
        )


# Sources: P = RE-LLM paper, B = BLSP-Emo paper, C = released code.
_ALL = (
    Prompt("chat"),
    Prompt("chat-empathetic", system=EMPATHETIC),  # C: the evaluation and chat prompt
    Prompt("chat-empathetic-paper", system=EMPATHETIC_PAPER),  # B
    Prompt("continue", before="Continue the following sentence in a coherent style: "),
    Prompt(  # P section II-B, B
        "continue-emotion",
        before="Continue the following sentence that reflects a {emotion} emotion tone in a coherent style: ",
    ),
    Prompt(  # C
        "continue-emotion-code",
        before="Continue the following sentence that reflects a '{emotion}' emotion tone in a coherent style: ",
    ),
    Prompt(  # P section II-B
        "continue-speech", before="Continue the following sentence that reflects a tone in a coherent style: "
    ),
    Prompt(  # B
        "continue-speech-blsp",
        before="Continue the following sentence based on the conveyed emotion tone in a coherent style: ",
    ),
    Prompt(  # P section II-C, B
        "recognize",
        before=f"Please identify the emotion tone of the sentence provided below. {_OPTIONS}\n\nSentence: ",
    ),
    Prompt(  # README of RE-LLM, C
        "recognize-speech",
        before=f"Please identify the emotion tone of the speech provided below. {_OPTIONS}\n\nSpeech: ",
    ),
    Prompt(  # B: the cascade baseline, and text + label
        "cascade",
        before="The user's speech instruction, transcribed as \"",
        after='", conveys a {emotion} emotion tone. Please provide a response.',
    ),
    Prompt(
        "cascade-dialogue",
        before="The user's speech input, transcribed as \"",
        after='", conveys a {emotion} emotion tone. Please provide a response.',
    ),
)
PROMPTS: dict[str, Prompt] = {p.id: p for p in _ALL}


def get_prompt(name: str) -> Prompt:
    """The prompt with this id.

    Raises:
        RellmError: there is none.
    """
    if name not in PROMPTS:
        raise RellmError(f"unknown prompt {name!r}", allowed=", ".join(PROMPTS))
    return PROMPTS[name]


_CONTENT = "\N{OBJECT REPLACEMENT CHARACTER}content\N{OBJECT REPLACEMENT CHARACTER}"


def split_chat(tokenizer: Any, prompt: Prompt, history: list[dict[str, str]] | None = None) -> tuple[str, str]:
    """Text in front of the content and text behind it, as the tokenizer's chat template lays them out.

    The suffix ends where the assistant begins to speak. `history` holds earlier turns in chat-message form.
    Templates without a system role (Gemma) get the system text at the head of the first user turn.

    Raises:
        RellmError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RellmError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} has no chat template",
            todo="Use a chat LLM, or set `tokenizer.chat_template`",
        )
    user = {"role": "user", "content": prompt.before + _CONTENT + prompt.after}
    messages = [{"role": "system", "content": prompt.system}, *(history or []), user]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2 raises its own types; the template decides
        if "system" not in str(error).lower():
            raise
        turns = [dict(m) for m in messages[1:]]
        turns[0]["content"] = f"{prompt.system}\n\n{turns[0]['content']}"
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    prefix, found, suffix = text.partition(_CONTENT)
    assert found, f"the chat template dropped the content of prompt {prompt.id}: {text!r}"
    return prefix, suffix


def tokenize_row(
    tokenizer: Any, prompt: Prompt, content: str, history: list[dict[str, str]] | None = None
) -> list[int]:
    """Token ids of `prefix | content | suffix` for a text pass, each piece tokenised on its own."""
    prefix, suffix = split_chat(tokenizer, prompt, history)
    return [i for piece in (prefix, content, suffix) for i in tokenizer(piece, add_special_tokens=False)["input_ids"]]
