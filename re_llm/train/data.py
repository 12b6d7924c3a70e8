"""Continuation files to the examples of a training."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import model_validator

from re_llm.core.dialogues import DIALOGUES, turns, words
from re_llm.core.emotions import canonical, find_label
from re_llm.core.errors import RellmError
from re_llm.core.records import TRAIN, Continuation, Line, Record, read_placed
from re_llm.llm.prompts import asked
from re_llm.model.losses import IGNORE_INDEX
from re_llm.recipe.stages import StageOptions
from re_llm.train.answers import Answers
from re_llm.train.examples import Columns, EarlierTurn, Example, Examples, Role, Target, key_digest
from re_llm.train.rows import RowMaker

MANIFEST = "manifest.jsonl"


class ManifestRow(Continuation):
    """A row of a manifest, where nothing reads an answer: its own words stand in that place."""

    @model_validator(mode="before")
    @classmethod
    def _repeated(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row  # no record: refused with its line
        text = row.get("text") or ""
        return {**row, "text": text, "instruction": "", "output": text, "early_stop": False, "llm": ""}


@dataclass
class Loaded:
    """Examples, and what was left out: reason -> count, with the keys.

    Attributes:
        shortened: answers whose oldest earlier turns were left out, so that the others fit.
    """

    examples: Examples = field(default_factory=lambda: Examples.of([]))
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


class _Maker:
    """Examples of the rows of continuation files; what many rows share is found once."""

    def __init__(self, files: Sequence[Path], options: StageOptions, emotions: Sequence[str], reads_emotions: bool):
        self.reads_emotions = reads_emotions
        self.emotions, self.folders = tuple(emotions), [str(file.parent) for file in files]
        self.corpora = [file.parent.name if file.name == MANIFEST else file.name.partition(".")[0] for file in files]
        self.roles = [_role(corpus, options) for corpus in self.corpora]
        if options.exchange and "exchanged" not in self.roles:
            raise RellmError(
                f"exchange names {', '.join(options.exchange)}, and the given files are of {', '.join(self.corpora)}",
                todo=f"Call the file {options.exchange[0]}.jsonl, or its folder {options.exchange[0]}/{MANIFEST}",
            )
        answered = options.reads_answers()
        own = [answered and role != "donor" for role in self.roles]  # whether its rows are trained on an answer
        free = [corpus in options.unanswered for corpus in self.corpora]
        self.kinds = [_kind(file, needs and not without) for file, needs, without in zip(files, own, free, strict=True)]
        self.unanswered = [
            needs and without and kind is ManifestRow
            for needs, without, kind in zip(own, free, self.kinds, strict=True)
        ]
        for corpus in options.unanswered:
            if not any(c == corpus and u for c, u in zip(self.corpora, self.unanswered, strict=True)):
                raise RellmError(
                    f"unanswered names {corpus}, and no given file is its manifest",
                    todo=f"Give {corpus}.jsonl or {corpus}/{MANIFEST}, or drop it from unanswered",
                )
        self._emotions: dict[str | None, int] = {None: IGNORE_INDEX, "": IGNORE_INDEX}

    def named(self, name: str, row: Continuation, file: int) -> str:
        """One name for an utterance in all files of its corpus (`esd.continue-emotion.jsonl`, `esd.cascade.jsonl`)."""
        return f"{row.corpus or self.corpora[file]}/{name}"

    def audio(self, row: Continuation, file: int) -> str:
        """The recording of a row; its folder, which many share, is resolved once."""
        folder, slash, name = row.audio.rpartition("/")
        return _resolved(self.folders[file], folder + slash) + name

    def example(self, row: Continuation, file: int, key: str, audio: str, where: str = "") -> Example:
        """Without targets. `where`: named where the emotion is unknown."""
        emotion = self._emotions.get(row.emotion)
        if emotion is None:
            emotion = self._emotions[row.emotion] = self._class(str(row.emotion), where)
        return Example(
            key=key,
            audio=audio,
            start=row.start,
            duration=row.duration,
            text=row.text,
            targets={},
            emotion_name=row.emotion,
            emotion=emotion,
            dimensions=row.dimensions(),
            role=self.roles[file],
            speaker=self.named(row.speaker, row, file) if row.speaker else None,
            split=row.split,
            answered=not self.unanswered[file],
        )

    def _class(self, label: str, where: str) -> int:
        if find_label(label, self.emotions) is None and not self.reads_emotions and find_label(label) is not None:
            return IGNORE_INDEX  # an emotion that the recipe does not name, in a stage that asks for none
        return self.emotions.index(canonical(label, self.emotions, where=where))

    def history(self, row: Continuation, file: int, where: str = "") -> tuple[EarlierTurn, ...]:
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
            named = None if key is None else self.named(key, row, file).replace(f"{DIALOGUES}/", "/", 1)
            found.append(EarlierTurn(words(user), words(assistant), " ".join(map(asked, user)), named))
        return tuple(found)


@lru_cache(maxsize=2**16)
def _resolved(folder: str, below: str) -> str:
    return os.path.join(Path(folder, below).resolve(), "")


def _kind(file: Path, answered: bool) -> type[Continuation]:
    """What the lines of a file are, by its first one.

    Raises:
        RellmError: it is a manifest, and the stage reads answers.
    """
    try:
        _, first = next(read_placed(file, Record))
    except (RellmError, StopIteration):
        return Continuation  # whose reader says what is wrong
    fields = first.model_extra or {}
    if not {"instruction", "output"}.isdisjoint(fields) or "split" not in fields:
        return Continuation
    if answered:
        raise RellmError(
            f"{file} is a manifest, and the stage trains what the LLM answers",
            todo=f"Run: re-llm continue {file} --out FILE; or name its corpus in the stage's `unanswered`",
        )
    return ManifestRow


def _role(corpus: str, options: StageOptions) -> Role:
    return "exchanged" if corpus in options.exchange else "donor" if corpus in options.donors else "row"


class _Store:
    """Examples as they are read from files, and how they are read again."""

    def __init__(self, make: _Maker, answers: Answers):
        self.make, self.answers, self.columns = make, answers, Columns()
        self.left_out: dict[str, array[int]] = {}  # by prompt: oldest turns that are not trained, of each example
        self._known: dict[str, int] = {}

    def add(self, row: Continuation, key: str, prompt: str, file: int, line: Line, where: str) -> None:
        """One more answer, and its example where there is none yet."""
        index = self._known.get(key)
        if index is None:
            self.columns.add(self.make.example(row, file, key, self.make.audio(row, file), where))
            index = self._known[key] = len(self._known)
        if not self.answers.add(index, prompt, file, line):
            raise RellmError(f"{where}: a second answer of {key!r} to the prompt {prompt!r}", todo="Remove one")
        if row.history and self.make.history(row, file, where):
            self.columns.talks[index] = True

    def knows(self, key: str) -> bool:
        """Whether there is an example of this key."""
        return key in self._known

    def close(self, loaded: Loaded) -> Examples:
        """Those that have all answers; the others are counted."""
        self._known.clear()
        missing, prompts = self.answers.missing(), self.answers.prompts
        for index in np.flatnonzero(missing >= 0).tolist():
            loaded.drop(self.columns.source(index).key, f"no answer to the prompt {prompts[missing[index]]}")
        return Examples(self.columns, self.example, np.flatnonzero(missing < 0))

    def example(self, index: int) -> Example:
        """One of them, from its lines."""
        rows = self.answers.read(index)
        file, first = next(iter(rows.values()))
        source = self.columns.source(index)
        example = self.make.example(first, file, source.key, source.audio)
        if not example.answered:
            return example
        return replace(
            example,
            targets={prompt: self._target(index, prompt, row, file) for prompt, (file, row) in rows.items()},
        )

    def _target(self, index: int, prompt: str, row: Continuation, file: int) -> Target:
        history = self.make.history(row, file) if row.history else ()
        if prompt in self.left_out:
            history = history[self.left_out[prompt][index] :]
        return Target(row.output, row.early_stop, history)


def load_examples(files: Sequence[Path], options: StageOptions, emotions: Sequence[str], tokenizer: Any) -> Loaded:
    """Reads continuation files; filters as the papers do, and counts what it filters.

    Where no loss reads an answer, of donors and of `unanswered` corpora, manifests may be given, whose training rows
    are taken. Rows of one utterance are joined: a stage may train several prompts' answers. Imported rows that do not
    say what they answer count as answers to `options.continuation`.

    Raises:
        RellmError: a broken line, an emotion outside the recipe's `emotions` (where the stage reads none: one that no
            recipe may have), a missing V/A/D or emotion that a loss of the stage needs, an answer that no task asks for
            or that comes twice, no file of a corpus in `exchange`, no manifest of one in `unanswered`, or nothing left;
            names file and line.
    """
    loaded = Loaded()
    losses = set(options.losses) | set(options.warm_losses or {})
    wanted, maker = options.continuations(), RowMaker(tokenizer, options)
    exchanges = bool(options.exchange)
    make = _Maker(
        files, options, emotions, exchanges or "input_er" in losses or any(map(maker.needs_emotion, options.tasks))
    )
    store = _Store(make, Answers(files, wanted, make.kinds))
    used = {None, TRAIN, options.validation.split if options.validation else None}
    too_long: dict[str, tuple[str, str]] = {}  # an utterance stands in several files and is dropped once
    taken: dict[str, int | None] = {}  # the largest hash of a key that is taken of an unanswered corpus; None = all
    for number in sorted(range(len(files)), key=lambda n: make.unanswered[n]):  # answers first: they have precedence
        file, kind = files[number], make.kinds[number]
        corpus = make.corpora[number]
        if make.unanswered[number] and corpus not in taken:
            taken[corpus] = _largest_hash(store, [n for n, c in enumerate(make.corpora) if c == corpus], options, used)
        for line, row in read_placed(file, kind):
            if kind is ManifestRow and row.split not in used:
                continue
            key = make.named(row.key, row, number)
            if make.unanswered[number]:
                most = taken[corpus]
                if store.knows(key) or (most is not None and _hash(key) > most):
                    continue
            where = f"{file}:{line.number}"
            prompt = row.prompt or options.continuation
            if prompt not in wanted:
                raise RellmError(
                    f"{where}: an answer to the prompt {prompt!r}, which no task of the stage trains",
                    allowed=", ".join(wanted),
                    todo="Give other files, or set the stage's `continuation`",
                )
            reason = _too_long(row, options, maker)
            if reason:
                too_long.setdefault(key, (row.key, reason))
                continue
            if make.roles[number] != "row" and row.emotion is not None and row.emotion not in emotions:
                whose = "a donor's" if make.roles[number] == "donor" else "a drawn"
                loaded.drop(key, f"{whose} emotion is {row.emotion}")
                continue
            if kind is ManifestRow and not row.text and make.roles[number] != "donor":
                loaded.drop(key, "no transcript")
                continue
            _check_labels(row, losses, exchanges, where)
            for each in wanted if kind is ManifestRow else (prompt,):
                store.add(row, key, each, number, line, where)
    for key, reason in too_long.values():
        loaded.drop(key, reason)
    loaded.examples = store.close(loaded)
    loaded.shortened = _shorten(loaded.examples, store, options, maker)
    if not loaded.examples:
        raise RellmError(
            f"no row of {', '.join(map(str, files))} can be trained on; dropped: {dict(loaded.dropped) or 'none'}"
        )
    return loaded


def _largest_hash(store: _Store, numbers: Sequence[int], options: StageOptions, used: set[str | None]) -> int | None:
    """Of the keys in some unanswered manifests of one corpus, so that as many are taken as wanted; None = all."""
    make = store.make
    hashes = array("Q")
    for number in (n for n in numbers if make.unanswered[n]):
        for _, row in read_placed(store.answers.files[number], ManifestRow):
            name = make.named(row.key, row, number)
            if row.split in used and not store.knows(name):
                hashes.append(_hash(name))
    most = options.unanswered[make.corpora[numbers[0]]]
    return None if len(hashes) <= most else int(np.partition(np.frombuffer(hashes, dtype="u8"), most - 1)[most - 1])


def _hash(key: str) -> int:
    return int.from_bytes(key_digest(key)[:8], "little")


def _shorten(examples: Examples, store: _Store, options: StageOptions, maker: RowMaker) -> int:
    """Leaves out the oldest turns of histories that are too long for a task that reads them; returns how many."""
    limits: dict[str, int] = {}
    for task in options.tasks:
        if task.history != "none":
            prompt = task.continuation or options.continuation
            limits[prompt] = min(task.history_tokens, limits.get(prompt, task.history_tokens))
    store.left_out = {prompt: array("I", bytes(4 * len(store.columns))) for prompt in limits}
    shortened = 0
    for index in np.flatnonzero(examples.talks).tolist() if limits else ():
        example = examples[index]
        for prompt, limit in limits.items():
            history, tokens = example.targets[prompt].history, 0
            kept = len(history)
            while kept and (tokens := tokens + _tokens(history[kept - 1], examples, maker)) <= limit:
                kept -= 1
            shortened += kept > 0
            store.left_out[prompt][int(examples.places[index])] = kept
    return shortened


def _tokens(turn: EarlierTurn, examples: Examples, maker: RowMaker) -> int:
    return maker.turn_length(turn, examples.seconds(turn.key))
