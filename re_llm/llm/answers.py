"""Answers of a server that are kept as they come, so that a question is paid once however often a run is started."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from re_llm.core.appending import RecordAppender
from re_llm.core.records import Record, read_records
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Content, Prompt
from re_llm.llm.server import ChatServer


class KeptAnswer(Record):
    """One answer; `key` is the hash of the model and the question."""

    model: str
    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = "stop"
    served_model: str | None = None

    def completion(self) -> Completion:
        return Completion(
            self.text, self.tokens, self.finish_reason, model=self.served_model, prompt_tokens=self.prompt_tokens
        )


@dataclass(frozen=True)
class Question:
    """A prompt about some content.

    Attributes:
        content: gives it when it is sent: recordings are not kept in memory as files.
        about: hash of it.
    """

    prompt: Prompt
    content: Callable[[], Content]
    about: str

    def key(self, model: str, max_new_tokens: int) -> str:
        """Hash of model and question; the address of the server is no part of it."""
        prompt = self.prompt
        turns = [[role, hash_of_content(said)] for role, said in prompt.history]
        wording = [prompt.system, prompt.before, prompt.after, turns, self.about, max_new_tokens]
        return hashlib.sha256(json.dumps([model, *wording]).encode()).hexdigest()[:32]


def hash_of_content(content: Content) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


@dataclass
class AnswerStore:
    """The file of answers of one server.

    Attributes:
        asked: questions sent since it was opened. kept: those that had an answer.
    """

    path: Path
    server: ChatServer
    asked: int = 0
    kept: int = 0
    _answers: dict[str, Completion] = field(default_factory=dict)

    def ask(self, questions: Sequence[Question], max_new_tokens: int) -> Iterator[tuple[int, Completion]]:
        """(index, answer) to every question in any order; one that comes from the server is written before it is given.

        Raises:
            RellmError: the server gives no answers any more, or the disk is full; what has come is in the file.
        """
        keys = [question.key(self.server.name, max_new_tokens) for question in questions]
        with RecordAppender(self.path) as file:
            if len(self._answers) < len(file.keys):
                self._answers = {row.key: row.completion() for row in read_records(self.path, KeptAnswer)}
            missing: Mapping[str, int] = {key: i for i, key in enumerate(keys) if key not in self._answers}
            self.kept += len(set(keys)) - len(missing)
            self.asked += len(missing)
            yield from ((i, self._answers[key]) for i, key in enumerate(keys) if key in self._answers)
            order = list(missing.values())
            same = {key: [i for i, other in enumerate(keys) if other == key] for key in missing}

            def keep(number: int, got: Completion) -> None:
                if got.refused is None:
                    self._keep(file, keys[order[number]], got)

            rows = ((questions[i].prompt, questions[i].content()) for i in order)
            answers = self.server.stream(rows, max_new_tokens=max_new_tokens, on_answer=keep)
            for i, got in zip(order, answers, strict=True):
                yield from ((each, got) for each in same[keys[i]])

    def _keep(self, file: RecordAppender, key: str, got: Completion) -> None:
        self._answers[key] = got
        row = KeptAnswer(
            key=key, model=self.server.name, text=got.text, tokens=got.tokens, prompt_tokens=got.prompt_tokens,
            finish_reason=got.finish_reason, served_model=got.model,
        )  # fmt: skip
        file.append([row])
