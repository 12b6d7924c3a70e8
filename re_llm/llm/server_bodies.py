"""Bodies of requests to an OpenAI-compatible server: messages of text and of recordings."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TypeAlias

from re_llm.llm.prompts import TEMPLATE_OPTIONS, Content, Prompt

Part: TypeAlias = dict[str, str | dict[str, str]]
Message: TypeAlias = dict[str, str | list[Part]]


def request_body(
    model: str, prompt: Prompt, content: Content, max_new_tokens: int, *, without: Iterable[str] = ()
) -> dict[str, object]:
    """Body of a request for a greedy answer, with the messages of `prompts.split_chat`.

    Args:
        content: the transcript, or the recording as a WAV file, which is sent as `input_audio`.
        without: what the server does not know, of `system` and `template options`.
    """
    turns: list[tuple[str, str, Content, str]] = [(role, "", said, "") for role, said in prompt.history]
    turns.append(("user", prompt.before, content, prompt.after))
    system: list[Message] = [{"role": "system", "content": prompt.system}]
    if "system" in without:
        role, before, said, after = turns[0]
        system, turns[0] = [], (role, f"{prompt.system}\n\n{before}", said, after)
    body: dict[str, object] = {
        "model": model,
        "messages": [
            *system,
            *({"role": role, "content": _said(before, said, after)} for role, before, said, after in turns),
        ],
        "temperature": 0,
        "max_tokens": max_new_tokens,
    }
    if "template options" not in without:
        body["chat_template_kwargs"] = dict(TEMPLATE_OPTIONS)
    return body


def _said(before: str, content: Content, after: str) -> str | list[Part]:
    """What a turn says: text, or the parts of a message with a recording."""
    if isinstance(content, str):
        return before + content + after
    data = base64.b64encode(content).decode()
    speech: Part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    first, last = (Part(type="text", text=text) for text in (before, after))
    return [part for part in (first, speech, last) if part.get("text") != ""]
