"""Responses of the API: OpenAI's chat completions, and two fields of ours, `emotion` and `emotions`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from re_llm.apps.serve.jobs import Done, Piece, Started
from re_llm.apps.serve.protocol import ApiError
from re_llm.inference.choice import TokenChoice
from re_llm.inference.conversation import ChatCompletion
from re_llm.inference.estimate import Estimate

Json = dict[str, Any]


@dataclass(frozen=True)
class Writer:
    """Response objects of one request: a whole completion, or its chunks.

    Attributes:
        text_of: the text of a token id.
    """

    id: str
    created: int
    model: str
    text_of: Callable[[int], str]

    def completion(self, answers: Sequence[Done], choices: Sequence[Sequence[TokenChoice]], about: Started) -> Json:
        """Args:
        answers: by index.
        choices: the tokens of each; empty when they were not asked for.
        """
        found = [
            {
                "index": done.index,
                "message": {"role": "assistant", "content": done.completion.text},
                "finish_reason": done.completion.finish_reason,
                "logprobs": self._logprobs(tokens),
            }
            for done, tokens in zip(answers, choices, strict=True)
        ]
        usage = _usage([done.completion for done in answers])
        return {**self._head(""), "choices": found, "usage": usage, **_first(about)}

    def opening(self, about: Started, n: int) -> str:
        """The first chunks: the role of each answer, and the emotions of the last turn."""
        delta = {"role": "assistant", "content": ""}
        first = _event({**self._chunk(0, delta), **_first(about)})
        return first + "".join(_event(self._chunk(i, delta)) for i in range(1, n))

    def piece(self, piece: Piece) -> str:
        return _event(self._chunk(piece.index, {"content": piece.text}, logprobs=self._logprobs(piece.choices)))

    def end(self, done: Done) -> str:
        """The last chunk of an answer."""
        finish = done.completion.finish_reason
        return _event(self._chunk(done.index, {}, finish, logprobs=self._logprobs(done.choices)))

    def closing(self, completions: Sequence[ChatCompletion], usage: bool) -> Iterator[str]:
        if usage:
            yield _event({**self._head(".chunk"), "choices": [], "usage": _usage(completions)})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": f"chat.completion{kind}", "created": self.created, "model": self.model}

    def _chunk(
        self, index: int, delta: dict[str, str], finish: str | None = None, logprobs: Json | None = None
    ) -> Json:
        choice = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return {**self._head(".chunk"), "choices": [choice]}

    def _logprobs(self, choices: Sequence[TokenChoice]) -> Json | None:
        if not choices:
            return None
        content = [
            {**self._token(each.token, each.logprob), "top_logprobs": [self._token(*pair) for pair in each.top]}
            for each in choices
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> Json:
        text = self.text_of(token)
        whole = "\N{REPLACEMENT CHARACTER}" not in text  # else a part of a character
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}


def failure(error: ApiError) -> str:
    """The event of an error after the stream has started."""
    return _event(error.body())


Heard = Mapping[int, Estimate]


def emotions(heard: Heard) -> Json:
    """`emotion` of the last recording of the turn, `emotions` of all with their places in its content."""
    found = [{"content_index": index, **_about(estimate)} for index, estimate in sorted(heard.items())]
    last = {name: value for name, value in found[-1].items() if name != "content_index"} if found else None
    return {"emotion": last, "emotions": found}


def _first(about: Started) -> Json:
    return emotions(about.estimates) | ({} if about.asked is None else {"asked": about.asked})


def _about(estimate: Estimate) -> Json:
    """What is predicted; of a long recording also its windows, and what the model was not trained for."""
    found = estimate.predictions()
    if estimate.trajectory:
        found["trajectory"] = [moment.predictions() for moment in estimate.trajectory]
    if estimate.unsure is not None:
        found["unsure"] = estimate.unsure
    if estimate.notice:
        found["notice"] = estimate.notice
    return found


def _event(value: Json) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _usage(completions: Sequence[ChatCompletion]) -> dict[str, int]:
    prompt, written = completions[0].prompt_tokens, sum(each.tokens for each in completions)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
