"""Training rows: `prefix | speech | suffix | response`; the teacher reads the transcript in place of speech."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from re_llm.core.emotions import PROMPT_EMOTIONS, canonical
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, read_records
from re_llm.llm.prompts import get_prompt, split_chat, turn_end
from re_llm.model.losses import IGNORE_INDEX
from re_llm.recipe.stages import StageOptions, TaskOptions


@dataclass(frozen=True)
class Target:
    """What the LLM answered to a transcript. `early_stop`: it was cut, so no end is trained."""

    output: str
    early_stop: bool


@dataclass(frozen=True)
class Example:
    """One utterance with everything that does not depend on the task.

    Attributes:
        audio: absolute path (or zip member) of the recording.
        targets: the LLM's answers by the id of the prompt that they answer.
        emotion: index into the recipe's emotions, or IGNORE_INDEX.
        dimensions: (valence, arousal, dominance) on 0..1, or None.
        role: `row`; `exchanged`, a row that takes the emotion of a donor; `donor`, which is no row.
        speaker: with the name of the corpus, or None.
    """

    key: str
    audio: str
    start: float
    duration: float | None
    text: str
    targets: Mapping[str, Target]
    emotion_name: str | None
    emotion: int
    dimensions: tuple[float, float, float] | None
    role: Literal["row", "exchanged", "donor"] = "row"
    speaker: str | None = None
    split: str | None = None


@dataclass
class Loaded:
    """Examples, and what was left out: reason -> count, with the keys."""

    examples: list[Example] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_keys: list[tuple[str, str]] = field(default_factory=list)

    def drop(self, key: str, reason: str) -> None:
        self.dropped[reason] += 1
        self.dropped_keys.append((key, reason))


def _too_long(row: Continuation, options: StageOptions, maker: RowMaker) -> str | None:
    """Why the offline filter leaves a row out (released code: audio 1..30 s, text <= 256 tokens); None = keep."""
    if row.duration is not None and row.duration < options.min_seconds:
        return f"shorter than {options.min_seconds:g} s"
    if row.duration is not None and row.duration > options.max_seconds:
        return f"longer than {options.max_seconds:g} s"
    most = options.max_text_tokens
    if options.text_filter == "row":
        if maker.text_row_length(row) > most:
            return f"a text row of more than {most} tokens"
    # A token is at least one character: most rows are short enough without being tokenised.
    elif len(row.text) > most and len(maker.ids(row.text)) > most:
        return f"more than {most} text tokens"
    return None


def _check_labels(row: Continuation, losses: set[str], exchange: bool, where: str) -> None:
    if exchange and row.emotion is None:
        raise RellmError(f"{where}: no emotion, by which a stage with `exchange` finds donors", todo="Give it a label")
    if row.emotion is None and "input_er" in losses:
        raise RellmError(f"{where}: no emotion, which the loss input_er needs", todo="Remove the row or the loss")
    if row.dimensions() is None and "input_er_avd" in losses:
        raise RellmError(
            f"{where}: no valence, arousal and dominance, which the loss input_er_avd needs",
            todo="Prepare the corpus with --pseudo-vad, or drop the loss",
        )


def _example(row: Continuation, file: Path, emotions: Sequence[str], options: StageOptions, where: str) -> Example:
    exchanged = file.name.partition(".")[0] in options.exchange
    return Example(
        key=_key(row, file),
        audio=str((file.parent / row.audio).resolve()),
        start=row.start,
        duration=row.duration,
        text=row.text,
        targets={},
        emotion_name=row.emotion,
        emotion=emotions.index(canonical(row.emotion, emotions, where=where)) if row.emotion else IGNORE_INDEX,
        dimensions=row.dimensions(),
        role="exchanged" if exchanged else "donor" if _is_donor(file, options) else "row",
        speaker=_named(str(row.speaker), row, file) if row.speaker else None,
        split=row.split,
    )


def _is_donor(file: Path, options: StageOptions) -> bool:
    return file.name.partition(".")[0] in options.donors


def _key(row: Continuation, file: Path) -> str:
    """One name for an utterance in all files of its corpus (`esd.continue-emotion.jsonl`, `esd.cascade.jsonl`)."""
    return _named(row.key, row, file)


def _named(name: str, row: Continuation, file: Path) -> str:
    return f"{row.corpus or file.name.partition('.')[0]}/{name}"


def load_examples(files: Sequence[Path], options: StageOptions, emotions: Sequence[str], tokenizer: Any) -> Loaded:
    """Reads continuation files; filters as the papers do, and counts what it filters.

    Rows of one utterance are joined: a stage may train several prompts' answers. Imported rows that do not say what
    they answer count as answers to `options.continuation`.

    Raises:
        RellmError: a broken line, an emotion outside the recipe's `emotions`, a missing V/A/D or emotion that a loss
            of the stage needs, an answer that no task asks for or that comes twice, or nothing left; names file and
            line.
    """
    loaded = Loaded()
    losses = set(options.losses) | set(options.warm_losses or {})
    wanted, maker = options.continuations(), RowMaker(tokenizer, options)
    found: dict[str, tuple[Example, dict[str, Target]]] = {}
    too_long: dict[str, tuple[str, str]] = {}  # an utterance stands in several files and is dropped once
    for file in files:
        for number, row in enumerate(read_records(file, Continuation), start=1):
            where = f"{file}:{number}"
            prompt = row.prompt or options.continuation
            if prompt not in wanted:
                raise RellmError(
                    f"{where}: an answer to the prompt {prompt!r}, which no task of the stage trains",
                    allowed=", ".join(wanted),
                    todo="Give other files, or set the stage's `continuation`",
                )
            key = _key(row, file)
            reason = _too_long(row, options, maker)
            if reason:
                too_long.setdefault(key, (row.key, reason))
                continue
            if _is_donor(file, options) and row.emotion not in emotions:
                loaded.drop(key, f"a donor's emotion is {row.emotion}")
                continue
            _check_labels(row, losses, bool(options.exchange), where)
            if key not in found:
                found[key] = (_example(row, file, emotions, options, where), {})
            example, targets = found[key]
            if prompt in targets:
                raise RellmError(f"{where}: a second answer of {key!r} to the prompt {prompt!r}", todo="Remove one")
            targets[prompt] = Target(row.output, row.early_stop)
    for key, reason in too_long.values():
        loaded.drop(key, reason)
    for example, targets in found.values():
        missing = [prompt for prompt in wanted if prompt not in targets]
        if missing:
            loaded.drop(example.key, f"no answer to the prompt {missing[0]}")
        else:
            loaded.examples.append(replace(example, targets=targets))
    if not loaded.examples:
        raise RellmError(
            f"no row of {', '.join(map(str, files))} can be trained on; dropped: {dict(loaded.dropped) or 'none'}"
        )
    return loaded


@dataclass(frozen=True)
class Row:
    """Token ids of one training row; the speech placeholders go between prefix and suffix.

    Attributes:
        response: target ids, with the end marks `<|im_end|>\\n<|endoftext|>` unless the continuation was cut.
        teacher_prefix, teacher_suffix: what stands around the transcript in the teacher's text pass, if it has one.
        donor: index of the example whose emotion this row has; None = its own.
    """

    index: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    response: tuple[int, ...]
    transcript: tuple[int, ...]
    teacher_prefix: tuple[int, ...]
    teacher_suffix: tuple[int, ...]
    has_teacher: bool
    donor: int | None = None


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
    """Turns (example, task) into token ids; prompts are tokenised once."""

    def __init__(self, tokenizer: Any, options: StageOptions):
        self.tokenizer, self.tasks, self.continuation = tokenizer, options.tasks, options.continuation
        self.has_teacher = bool({"response_kl", "input_kl"} & {*options.losses, *(options.warm_losses or {})})
        self.end = tuple(end_ids(tokenizer))
        self._around: dict[tuple[str, str | None], tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prompt(self, name: str, emotion: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt = get_prompt(name)
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

    def make(self, index: int, example: Example, task: TaskOptions) -> Row:
        """The row of one task."""
        prefix, suffix = self._prompt(task.prompt, example.emotion_name)
        has_teacher = self.has_teacher and task.target != "emotion"
        teacher = self._prompt(self.teacher_prompt(task), example.emotion_name) if has_teacher else ((), ())
        if task.target != "output":
            answer = example.emotion_name if task.target == "emotion" else example.text
            response = self.ids(answer or "") + self.end
        else:
            target = example.targets[task.continuation or self.continuation]
            response = self.ids(target.output) + (() if target.early_stop else self.end)
        return Row(
            index=index,
            prefix=prefix,
            suffix=suffix,
            response=response,
            transcript=self.ids(example.text),
            teacher_prefix=teacher[0],
            teacher_suffix=teacher[1],
            has_teacher=has_teacher,
        )


class TrainingRows:
    """Map-style data set of (epoch, place) -> Row. Every epoch draws each example's task anew from the shares.

    The draw, and that of an exchanged row's donor, depends on (seed, epoch, index) alone, so a resumed run sees the
    rows an uninterrupted one would.

    Attributes:
        places: indices of the examples that are rows.

    Raises:
        RellmError: a task needs the emotion, in the answer or in the student's or teacher's prompt, and an example has
            none; or an exchanged row finds no donor.
    """

    def __init__(self, examples: Sequence[Example], maker: RowMaker, *, seed: int):
        self.examples, self.maker, self.seed = examples, maker, seed
        self.places = [index for index, example in enumerate(examples) if example.role != "donor"]
        needing = next((need for task in maker.tasks if (need := maker.needs_emotion(task))), None)
        without = next((e for e in examples if e.emotion_name is None), None) if needing else None
        if without:
            raise RellmError(f"task {needing}, but {without.key} has no emotion")
        self.donors: dict[int, list[int]] = defaultdict(list)
        for index, example in enumerate(examples):
            if example.role != "exchanged":
                self.donors[example.emotion].append(index)
        lonely = next((e for e in examples if e.role == "exchanged" and e.emotion not in self.donors), None)
        if lonely:
            raise RellmError(f"{lonely.key}: no recording of another corpus is {lonely.emotion_name}, to exchange with")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: tuple[int, int]) -> Row:
        epoch, index = place[0], self.places[place[1]]
        tasks, example = self.maker.tasks, self.examples[index]
        draw = random.Random(f"{self.seed}/{epoch}/{index}")
        task = tasks[0]
        if len(tasks) > 1:
            task = draw.choices(tasks, weights=[t.fraction for t in tasks])[0]
        row = self.maker.make(index, example, task)
        return replace(row, donor=draw.choice(self.donors[example.emotion])) if example.role == "exchanged" else row
