"""From utterances to continuations: one batch of rows, no files. Whatever runs the rows, it calls this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from re_llm.audio import source as audio_source
from re_llm.continuations.cleaning import REASONING, refusal, without_reasoning
from re_llm.core.emotions import is_label
from re_llm.core.records import Continuation, Utterance
from re_llm.llm.completion import Completion, TextLlm
from re_llm.llm.prompts import Prompt, get_prompt

# What training needs of the utterance.
_CARRIED = (*Continuation.model_fields, "vad_source", "speaker")


@dataclass(frozen=True)
class Outcome:
    """What became of one utterance.

    Attributes:
        record: the continuation; the utterance itself when it could not be asked (`no-text`, `no-emotion`,
            `unknown-emotion`).
        dropped: why the row is left out, or None.
        detail: what a server wrote about that.
    """

    record: Continuation | Utterance
    dropped: str | None = None
    detail: str | None = None

    @property
    def key(self) -> str:
        return self.record.key

    def filed(self) -> Continuation | Utterance:
        """The record as it is written: a dropped one says why, in the field `dropped`."""
        if self.dropped is None:
            return self.record
        return self.record.model_copy(update={"dropped": self.dropped, "dropped_detail": self.detail})


def moved(row: Utterance, old: Path, new: Path) -> Utterance:
    """The row with its audio paths, which are relative to the folder `old`, relative to the folder `new`."""
    update: dict[str, object] = {"audio": audio_source.moved(row.audio, old, new)}
    if row.history:
        paths = [each.audio and audio_source.moved(each.audio, old, new) for each in row.history]
        update["history"] = [
            each.model_copy(update={"audio": path}) for each, path in zip(row.history, paths, strict=True)
        ]
    return row.model_copy(update=update)


def unusable(row: Utterance, prompt: Prompt) -> str | None:
    """Why the prompt cannot ask about this utterance, or None."""
    if not (row.text and row.text.strip()):
        return "no-text"
    if prompt.needs_emotion and row.emotion is None:
        return "no-emotion"
    if prompt.needs_emotion and not is_label(row.emotion, row.label_set):
        return "unknown-emotion"  # a name that no recipe knows would stand in the prompt
    return None


def question(row: Utterance, prompt: Prompt) -> tuple[Prompt, str]:
    """What the LLM is asked about a usable utterance, after the turns of its history."""
    return prompt.with_history(row.history).with_emotion(row.emotion), row.text or ""


def outcome(row: Utterance, prompt: Prompt, llm: str, answer: Completion | None) -> Outcome:
    """What becomes of an utterance with this answer; None for an unusable one."""
    if answer is None:
        return Outcome(row, unusable(row, prompt))
    text = without_reasoning(answer.text)
    known = row.model_dump(exclude_none=True)
    fields = {name: known[name] for name in _CARRIED if name in known}
    fields |= {"instruction": prompt.with_emotion(row.emotion).before, "prompt": prompt.id, "llm": llm}
    fields |= {"output": answer.text if text is None else text, "early_stop": answer.finish_reason == "length"}
    fields["served_model"] = answer.model if answer.model != llm else None
    dropped = answer.refused or (REASONING if text is None else refusal(text))
    return Outcome(Continuation.model_validate(fields), dropped, answer.detail)


def continue_rows(
    rows: Sequence[Utterance],
    llm: TextLlm,
    prompt: str | Prompt = "continue-emotion",
    *,
    max_new_tokens: int = 48,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """What becomes of each utterance, in their order: a continuation, kept or dropped.

    The same rows in the same order give the same outcomes; other company in a batch may change the last bit of a
    logit, so a run that must be repeatable keeps its calls the same. `audio` of the records is that of the rows.

    Args:
        prompt: id of a prompt, or a custom one.
        on_batch: called with the number of further rows that were answered.

    Raises:
        RellmError: there is no such prompt, or the LLM (a server) gives no answers.
    """
    asked = get_prompt(prompt) if isinstance(prompt, str) else prompt
    usable = [row for row in rows if unusable(row, asked) is None]
    answers: Iterator[Completion] = iter(())
    if usable:
        questions = [question(row, asked) for row in usable]
        answers = iter(llm.answer(questions, max_new_tokens=max_new_tokens, batch_size=batch_size, on_batch=on_batch))
    return [outcome(row, asked, llm.name, None if unusable(row, asked) else next(answers)) for row in rows]
