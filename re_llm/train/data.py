"""Continuation files to the examples of a training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from re_llm.core.dialogues import DIALOGUES, turns, words
from re_llm.core.emotions import canonical
from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, read_records
from re_llm.llm.prompts import asked
from re_llm.model.losses import IGNORE_INDEX
from re_llm.recipe.stages import StageOptions
from re_llm.train.rows import EarlierTurn, Example, RowMaker, Target


@dataclass
class Loaded:
    """Examples, and what was left out: reason -> count, with the keys.

    Attributes:
        shortened: answers whose oldest earlier turns were left out, so that the others fit.
    """

    examples: list[Example] = field(default_factory=list)
    shortened: int = 0
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
    folder, name = os.path.split(row.audio)
    return Example(
        key=_key(row, file),
        audio=os.path.join(_resolved(file.parent, folder), name),
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


@lru_cache(maxsize=2**16)
def _resolved(folder: Path, below: str) -> str:
    """Recordings lie in few folders: each is resolved once."""
    return str((folder / below).resolve())


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
            targets[prompt] = Target(row.output, row.early_stop, _history(row, file, where))
    for key, reason in too_long.values():
        loaded.drop(key, reason)
    for example, targets in found.values():
        missing = [prompt for prompt in wanted if prompt not in targets]
        if missing:
            loaded.drop(example.key, f"no answer to the prompt {missing[0]}")
        else:
            loaded.examples.append(replace(example, targets=targets))
    _shorten(loaded, options, maker)
    if not loaded.examples:
        raise RellmError(
            f"no row of {', '.join(map(str, files))} can be trained on; dropped: {dict(loaded.dropped) or 'none'}"
        )
    return loaded


def _history(row: Continuation, file: Path, where: str) -> tuple[EarlierTurn, ...]:
    """The earlier turns of a row, the keys of their utterances named as those of examples.

    Raises:
        RellmError: they are not the user's and the assistant's in turn.
    """
    before = turns(row.history or [])
    if len(before) % 2 or (before and before[0][0] != "user"):
        raise RellmError(f"{where}: the history does not begin with the user and end with the assistant")
    found = []
    for (_, user), (_, assistant) in zip(before[::2], before[1::2], strict=True):
        key = user[0].key if len(user) == 1 else None  # several recordings are read as text
        named = None if key is None else _named(key, row, file).replace(f"{DIALOGUES}/", "/", 1)
        found.append(EarlierTurn(words(user), words(assistant), " ".join(map(asked, user)), named))
    return tuple(found)


def _shorten(loaded: Loaded, options: StageOptions, maker: RowMaker) -> None:
    """Leaves out the oldest turns of histories that are too long for a task that reads them."""
    limits: dict[str, int] = {}
    for task in options.tasks:
        if task.history != "none":
            prompt = task.continuation or options.continuation
            limits[prompt] = min(task.history_tokens, limits.get(prompt, task.history_tokens))
    seconds = {example.key: example.duration for example in loaded.examples}
    for place, example in enumerate(loaded.examples):
        targets = dict(example.targets)
        for prompt, limit in limits.items():
            history, tokens = targets[prompt].history, 0
            kept = len(history)
            while kept and (tokens := tokens + maker.turn_length(history[kept - 1], seconds)) <= limit:
                kept -= 1
            if kept:
                loaded.shortened += 1
                targets[prompt] = replace(targets[prompt], history=history[kept:])
        if targets != example.targets:
            loaded.examples[place] = replace(example, targets=targets)
