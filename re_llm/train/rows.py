"""Training rows: `prefix | speech | suffix | response`; the teacher reads the transcript in place of speech.

Of a conversation, the earlier turns stand in front: the user's as speech or as text, the answers as text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation
from re_llm.llm.prompts import Prompt, around_turns, get_prompt, split_chat, turn_end
from re_llm.recipe.stages import StageOptions, TaskOptions
from re_llm.train.examples import ROLES, EarlierTurn, Example, Examples
from re_llm.train.spelling import Speller

SPEECH_TOKENS_PER_SECOND = 6.25  # 50 frames a second, eight of which become one token
TURNS_KEPT = 2**14  # lengths that are remembered: a turn stands in all later rows of its dialogue


@dataclass(frozen=True)
class Row:
    """Token ids of one training row; the speech placeholders go between prefix and suffix.

    Attributes:
        earlier: recordings of earlier turns, each with the ids in front of it; `prefix` follows the last of them.
        transcript, spelled: what is said as it is written, and as adapter_ctc spells it; None = the same.
        earlier_spelled: of the earlier recordings.
        units: what is said in each of its recordings as intermediate_ctc spells it; empty where nothing reads it.
        response: target ids, with the end marks `<|im_end|>\\n<|endoftext|>` unless the continuation was cut.
        teacher_prefix, teacher_suffix: what stands around the transcript in the teacher's text pass, if it has one.
        weight: of each token of the response in response_ce.
        donor: index of the example whose emotion this row has; None = its own.
        copy: which copy of its recordings is heard (re_llm.train.copies); 0 = they themselves.
        hidden: seed of the stretches of its recordings that are not heard; None = all is.
    """

    index: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    response: tuple[int, ...]
    transcript: tuple[int, ...]
    teacher_prefix: tuple[int, ...]
    teacher_suffix: tuple[int, ...]
    has_teacher: bool
    weight: float = 1.0
    donor: int | None = None
    copy: int = 0
    hidden: int | None = None
    earlier: tuple[tuple[tuple[int, ...], int], ...] = ()
    spelled: tuple[int, ...] | None = None
    earlier_spelled: tuple[tuple[int, ...], ...] = ()
    units: tuple[tuple[int, ...], ...] = ()

    def heard(self) -> list[tuple[int, ...]]:
        """What is said in each of its recordings, as a loss on the speech tokens spells it."""
        return [*self.earlier_spelled, self.transcript if self.spelled is None else self.spelled]

    def recordings(self) -> list[int]:
        """Indices of the examples that it has as speech, in their order."""
        return [*(index for _, index in self.earlier), self.index]

    def felt(self) -> list[int]:
        """Indices of the examples whose emotion these have."""
        return [*self.recordings()[:-1], self.index if self.donor is None else self.donor]


def end_ids(tokenizer: Any) -> list[int]:
    """Ids that close the assistant's turn in the tokenizer's own chat template.

    ChatML models get `<|im_end|>\\n<|endoftext|>` (paper: the row's layout); see `turn_end` for the others.
    """
    end = turn_end(tokenizer)
    vocabulary = tokenizer.get_vocab()
    if "<|endoftext|>" in vocabulary and end == [vocabulary.get("<|im_end|>")]:
        return tokenizer("<|im_end|>\n<|endoftext|>", add_special_tokens=False)["input_ids"]
    return end


class RowMaker:
    """Turns (example, task) into token ids; prompts are tokenised once.

    Args:
        units: of the adapter, where a loss of the stage spells with them (`re_llm.train.spelling`); 0 = none.
    """

    def __init__(self, tokenizer: Any, options: StageOptions, units: int = 0):
        self.tokenizer, self.tasks, self.continuation = tokenizer, options.tasks, options.continuation
        self.without_answers = options.tasks_without_answers()
        self.has_teacher = bool({"response_kl", "input_kl"} & {*options.losses, *(options.warm_losses or {})})
        self.end = tuple(end_ids(tokenizer))
        self.speller = Speller(tokenizer) if options.ctc_text == "running" else None
        self.unit_speller = Speller(tokenizer, as_written=self.speller is None, units=units) if units else None
        self._lengths: dict[EarlierTurn, tuple[int, int]] = {}
        self._around: dict[tuple[str, str | None], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def said(self, text: str) -> tuple[int, ...]:
        """Ids of what somebody said, in which special tokens are plain text."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _prompt(
        self, name: str, emotion: str | None, history: Sequence[EarlierTurn] = ()
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt = get_prompt(name)
        if history:
            turns = [turn for each in history for turn in (("user", each.asked), ("assistant", each.answer))]
            messages = [{"role": role, "content": said} for role, said in turns]
            before, after = split_chat(self.tokenizer, prompt.with_emotion(emotion), messages)
            return self.ids(before), self.ids(after)
        key = (name, emotion if prompt.needs_emotion else None)
        if key not in self._around:
            prefix, suffix = split_chat(self.tokenizer, prompt.with_emotion(emotion))
            self._around[key] = (self.ids(prefix), self.ids(suffix))
        return self._around[key]

    def teacher_prompt(self, task: TaskOptions) -> str:
        """Id of the prompt that the LLM answers in the text pass of a task."""
        given = task.prompt if task.target == "transcript" else task.continuation or self.continuation
        return task.teacher_prompt or given

    def needs_emotion(self, task: TaskOptions) -> str | None:
        """What of a task needs the emotion of every row, in words; None when nothing does."""
        if task.target == "emotion":
            return f"{task.prompt!r} answers with the emotion"
        prompts = (task.prompt, *([self.teacher_prompt(task)] if self.has_teacher else []))
        named = next((name for name in prompts if get_prompt(name).needs_emotion), None)
        return f"{task.prompt!r} has the emotion in the prompt {named!r}" if named else None

    def text_row_length(self, row: Continuation) -> int:
        """Tokens of the text pass in which the LLM gave this answer."""
        around = self._prompt(row.prompt or self.continuation, row.emotion or PROMPT_EMOTIONS[0])
        end = () if row.early_stop else self.end
        return sum(map(len, (*around, self.ids(row.text), self.ids(row.output), end)))

    def make(self, index: int, example: Example, task: TaskOptions, heard: Sequence[int | None] = ()) -> Row:
        """The row of one task.

        Args:
            heard: of a task with history: the example of each earlier turn that is speech, None for one of text.
        """
        prefix, suffix = self._prompt(task.prompt, example.emotion_name)
        has_teacher = self.has_teacher and task.target != "emotion"
        history = self.history(example, task)
        earlier: tuple[tuple[tuple[int, ...], int], ...] = ()
        if history:
            earlier, prefix, suffix = self._after(history, heard, get_prompt(task.prompt), example.emotion_name)
        teacher: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if has_teacher:
            teacher = self._prompt(self.teacher_prompt(task), example.emotion_name, history)
        if task.target != "output":
            answer = example.emotion_name if task.target == "emotion" else example.text
            response = self.ids(answer or "") + self.end
        else:
            target = example.targets[task.continuation or self.continuation]
            response = self.ids(target.output) + (() if target.early_stop else self.end)
        said = [turn.text for turn, heard_as in zip(history, heard, strict=False) if heard_as is not None]
        return Row(
            index=index,
            prefix=prefix,
            suffix=suffix,
            response=response,
            transcript=self.ids(example.text),
            teacher_prefix=teacher[0],
            teacher_suffix=teacher[1],
            has_teacher=has_teacher,
            weight=task.weight,
            earlier=earlier,
            spelled=None if self.speller is None else self.speller.ids(example.text),
            earlier_spelled=tuple(self.ids(text) if self.speller is None else self.speller.ids(text) for text in said),
            units=tuple(map(self.unit_speller.ids, (*said, example.text))) if self.unit_speller else (),
        )

    def history(self, example: Example, task: TaskOptions) -> tuple[EarlierTurn, ...]:
        """The earlier turns of a row of this task."""
        return () if task.history == "none" else example.targets[task.continuation or self.continuation].history

    def turn_length(self, turn: EarlierTurn, seconds: float | None = None) -> int:
        """Tokens of an earlier turn: at least those of its text and answer, and those of speech of this duration."""
        if turn not in self._lengths:
            if len(self._lengths) == TURNS_KEPT:
                self._lengths.clear()
            around = around_turns(self.tokenizer, [Prompt("a"), Prompt("b")])[1:3]
            rest = len(self.said(turn.answer)) + sum(len(self.ids(each)) for each in around)
            self._lengths[turn] = (len(self.said(turn.text)), rest)
        text, rest = self._lengths[turn]
        return rest + max(text, math.ceil(SPEECH_TOKENS_PER_SECOND * (seconds or 0.0)))

    def _after(
        self, history: Sequence[EarlierTurn], heard: Sequence[int | None], prompt: Prompt, emotion: str | None
    ) -> tuple[tuple[tuple[tuple[int, ...], int], ...], tuple[int, ...], tuple[int, ...]]:
        """Recordings of earlier turns with the ids in front of each; the ids around the last turn."""
        plain = Prompt("earlier turn")
        around = around_turns(self.tokenizer, [*(plain for _ in history), prompt.with_emotion(emotion)])
        earlier: list[tuple[tuple[int, ...], int]] = []
        ids: list[int] = []
        for turn, index, before, after in zip(history, heard, around[::2], around[1::2], strict=False):
            ids += self.ids(before)
            if index is None:
                ids += self.said(turn.text)
            else:
                earlier.append((tuple(ids), index))
                ids = []
            ids += (*self.ids(after), *self.said(turn.answer))
        return tuple(earlier), (*ids, *self.ids(around[-2])), self.ids(around[-1])


class TrainingRows:
    """Map-style data set of (epoch, place) -> Row. Every epoch draws each example's task anew from the shares.

    The draw, and that of an exchanged row's donor, depends on (seed, epoch, index) alone, so a resumed run sees the
    rows an uninterrupted one would.

    Attributes:
        places: indices of the examples that are rows.
        copies: of each recording, beside itself; each row hears one of all.
        hides: whether stretches of the recordings are not heard.

    Raises:
        RellmError: a task needs the emotion, in the answer or in the student's or teacher's prompt, and an example has
            none; or an exchanged row finds no donor.
    """

    def __init__(
        self, examples: Sequence[Example], maker: RowMaker, *, seed: int, copies: int = 0, hides: bool = False
    ):
        self.examples, self.maker, self.seed, self.copies = Examples.of(examples), maker, seed, copies
        self.hides = hides
        roles, emotions = self.examples.roles, self.examples.emotions
        self.places = np.flatnonzero(roles != ROLES.index("donor"))
        needing = next((need for task in maker.tasks if (need := maker.needs_emotion(task))), None)
        without = np.flatnonzero(self.examples.unnamed)
        if needing and len(without):
            raise RellmError(f"task {needing}, but {self.examples.key(without[0])} has no emotion")
        exchanged = roles == ROLES.index("exchanged")
        # By emotion, who may lend it.
        self.donors = {int(e): np.flatnonzero(~exchanged & (emotions == e)) for e in np.unique(emotions[~exchanged])}
        lonely = np.flatnonzero(exchanged & ~np.isin(emotions, list(self.donors)))
        if len(lonely):
            alone = self.examples[int(lonely[0])]
            raise RellmError(f"{alone.key}: no recording of another corpus is {alone.emotion_name}, to exchange with")
        if any(task.history != "none" for task in maker.tasks):
            self.examples.make_index()
        self._earlier: dict[str, np.ndarray] = {}  # tokens of earlier turns, by prompt

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: tuple[int, int]) -> Row:
        epoch, index = place[0], int(self.places[place[1]])
        example, (task, draw) = self.examples[index], self._drawn(epoch, index)
        row = self.maker.make(index, example, task, self._heard(example, task, draw))
        if example.role == "exchanged":
            row = replace(row, donor=int(draw.choice(self.donors[example.emotion])))
        row = replace(row, copy=draw.randint(0, self.copies)) if self.copies else row
        return replace(row, hidden=draw.getrandbits(32)) if self.hides else row

    def _drawn(self, epoch: int, index: int) -> tuple[TaskOptions, random.Random]:
        """The task of an example in an epoch, and what further draws of it come from."""
        tasks = self.maker.tasks if self.examples.answered[index] else self.maker.without_answers
        draw = random.Random(f"{self.seed}/{epoch}/{index}")
        return tasks[0] if len(tasks) == 1 else draw.choices(tasks, weights=[t.fraction for t in tasks])[0], draw

    def _heard(self, example: Example, task: TaskOptions, draw: random.Random) -> list[int | None]:
        """The examples of the earlier turns that a row has as speech; None for one that is text."""
        found = [self.examples.find(turn.key) for turn in self.maker.history(example, task)]
        indices = [None if index is None or self.examples.roles[index] else index for index in found]
        spoken = {"none": 0.0, "text": 0.0, "mixed": 0.5, "speech": 1.0}[task.history]
        return [index if draw.random() < spoken else None for index in indices]

    def earlier_tokens(self, epoch: int) -> list[int]:
        """Tokens of the earlier turns of each row, counted as text."""
        found = np.zeros(len(self.places), dtype=np.int64)
        for place in np.flatnonzero(self.examples.talks[self.places]).tolist():
            index = int(self.places[place])
            found[place] = self._history_tokens(index, self._drawn(epoch, index)[0])
        return found.tolist()

    def _history_tokens(self, index: int, task: TaskOptions) -> int:
        """Tokens of the earlier turns of one example; its lines are read the first time."""
        if task.history == "none":
            return 0
        prompt = task.continuation or self.maker.continuation
        known = self._earlier.setdefault(prompt, np.full(len(self.examples), -1, dtype=np.int32))
        if known[index] < 0:
            known[index] = sum(map(self.maker.turn_length, self.maker.history(self.examples[index], task)))
        return int(known[index])
