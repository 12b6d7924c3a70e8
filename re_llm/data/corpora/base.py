"""What every corpus reader uses: the description of a corpus, the scan that collects problems, labels, ratings.

A reader is a module with a constant `INFO` and a generator `read(scan)` that yields utterances in a fixed order. It
reports to the scan what it could not read (`scan.problem`) and what its protocol leaves out (`scan.drop`); nothing is
skipped silently.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from re_llm.core.emotions import CANONICAL, PROMPT_EMOTIONS, find_label, parse_label_set
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.manifest import Problem

UNSPACED = frozenset({"zh", "ja", "th", "yue"})  # languages written without blanks: length is counted in characters

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".7z", ".rar")

T = TypeVar("T")


@dataclass(frozen=True)
class Filters:
    """Conditions that an utterance must meet to be kept. Words are characters in languages written without blanks.

    Attributes:
        emotions: canonical names that are kept; None keeps everything, also what has no label.
        min_words_in: the splits that `min_words` holds for; None is all.
        min_seconds, max_seconds: length of the recording in seconds, both included.
    """

    emotions: tuple[str, ...] | None = None
    min_words: int = 0
    min_words_in: tuple[str, ...] | None = None
    min_seconds: float = 0.0
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.min_words < 0 or not 0 <= self.min_seconds < self.max_seconds:
            raise RellmError(
                f"{self} keeps nothing",
                allowed="min_words >= 0, 0 <= min_seconds < max_seconds",
            )

    def refuses_row(self, utterance: Utterance) -> str | None:
        """The reason to leave the utterance out that its row shows; None when it is kept."""
        if self.emotions is not None and utterance.emotion not in self.emotions:
            return f"emotion {utterance.emotion or utterance.emotion_raw or 'none'}"
        counted = self.min_words and (self.min_words_in is None or utterance.split in self.min_words_in)
        if counted and length_in_words(utterance.text or "", utterance.language) < self.min_words:
            return f"fewer than {self.min_words} words"
        return None

    def refuses_length(self, utterance: Utterance) -> str | None:
        """The reason to leave the utterance out that the length of its recording is; None when it is kept."""
        assert utterance.duration is not None, utterance.key
        if utterance.duration < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if utterance.duration > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        return None


# BLSP-Emo appendix B: five classes, transcripts of 5 words or more.
BLSP_EMO = Filters(emotions=PROMPT_EMOTIONS, min_words=5)


@dataclass(frozen=True)
class CorpusInfo:
    """One row of `re-llm prepare --list`.

    Attributes:
        name: name of the corpus on the command line.
        licence: terms of use, and whether a form has to be signed.
        get: where to get it.
        root: what the given folder must contain.
        languages: ISO 639 codes.
        utterances: number in the full release (0: unknown or open).
        emotions: canonical names that occur in it.
        protocols: named selections and splits, with one sentence each.
        options: settings of the reader, with one sentence each.
        filters: filters of a protocol; the options of `prepare` change them.
        published: sizes that the papers give for a protocol, by split; `all` is the sum of the splits.
        dimensions: whether valence, arousal and dominance are annotated.
        text_only: there are no recordings; see `re_llm.data.corpora.text_dialogues`.
    """

    name: str
    title: str
    licence: str
    get: str
    root: str
    languages: tuple[str, ...] = ()
    utterances: int = 0
    emotions: tuple[str, ...] = ()
    citation: str = ""
    hours: float | None = None
    protocols: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Filters] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dimensions: bool = False
    text_only: bool = False

    def utterance(self, audio: Path | str, **fields: object) -> Utterance:
        """An utterance of this corpus; by default its key is the name of the recording, its split `all`."""
        language = self.languages[0] if len(self.languages) == 1 else None
        given = {"corpus": self.name, "split": "all", "audio": str(audio), "language": language, **fields}
        given["key"] = f"{self.name}-{fields.get('key') or Path(audio).stem}"
        return Utterance.model_validate(given)


class Scan:
    """One pass over a corpus: root, protocol and options, and the problems and counts collected on the way.

    Attributes:
        root: folder of the corpus.
        protocol: name of a selection and split, or None for everything that the corpus holds.
        label_set, labels: name and labels of the option `label_set`; None and the canonical names without it.
        problems: what could not be read, in order.
        dropped: how many utterances the protocol left out, by reason.
        notes: what else the user should know, such as columns that are not read.
    """

    def __init__(
        self,
        root: Path,
        *,
        protocol: str | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
        strict: bool = False,
    ):
        self.root, self.protocol, self.seed, self.strict = root, protocol, seed, strict
        self.options = dict(options or {})
        self.problems: list[Problem] = []
        self.dropped: Counter[str] = Counter()
        self.notes: list[str] = []
        self._reported: set[tuple[str, str]] = set()
        canonical: tuple[str | None, tuple[str, ...]] = (None, CANONICAL)
        self.label_set, self.labels = self.option("label_set", canonical, parse_label_set)

    def problem(self, file: Path | str, what: str, line: int | None = None) -> None:
        """Records a problem; with `strict`, raises it as a RellmError."""
        place = Path(file)
        folder = self.root.parent if self.root.is_file() else self.root
        name = str(place.relative_to(folder)) if place.is_relative_to(folder) else str(file)
        found = Problem(name, line, what)
        if self.strict:
            raise RellmError(str(found), todo="Correct the file, or run without strict to have it listed and left out")
        self.problems.append(found)

    def once(self, file: Path | str, what: str, line: int | None = None) -> None:
        """Records a problem that every row of a file has, with the first of them."""
        if (str(file), what) not in self._reported:
            self._reported.add((str(file), what))
            self.problem(file, what, line)

    def drop(self, why: str, count: int = 1) -> None:
        """Counts utterances that the protocol leaves out."""
        self.dropped[why] += count

    def option(self, name: str, default: T, kind: Callable[[Any], T], allowed: Iterable[T] | None = None) -> T:
        """Value of an option of the reader; text from a command line is converted.

        Raises:
            RellmError: the value cannot be converted, or is none of `allowed`.
        """
        value = self.options.get(name)
        if value is None:
            return default
        choices = None if allowed is None else list(allowed)
        try:
            found = kind(value)
            if choices is None or found in choices:
                return found
        except (TypeError, ValueError):
            pass
        what = ", ".join(map(str, choices)) if choices else f"a value such as {default!r}"
        raise RellmError(f"option {name}={value!r} is not valid", allowed=what)

    def names(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Value of an option that is a comma-separated list."""
        value = self.options.get(name)
        return default if value is None else tuple(part for each in str(value).split(",") if (part := each.strip()))

    def is_folder(self) -> None:
        """Raises a RellmError when the root is no folder: missing, an archive, or another file."""
        if self.root.is_dir():
            return
        if not self.root.exists():
            raise RellmError(f"no such folder: {self.root}", todo="Check --root")
        if self.root.name.lower().endswith(ARCHIVES):
            raise RellmError(f"{self.root} is an archive", todo="Unpack it, and give the folder as --root")
        raise RellmError(f"{self.root} is a file, not the folder of a corpus", todo="Check --root")

    def path_root(self, contains: Callable[[Path], bool], expected: str) -> Path:
        """The root, when it is the folder that a reader expects.

        Raises:
            RellmError: it is not; names the right folder one or two levels above or below it.
        """
        if contains(self.root):
            return self.root
        self.is_folder()
        for pattern, levels in (("*/", "one level"), ("*/*/", "two levels")):
            inside = next((p for p in sorted(self.root.glob(pattern)) if contains(p)), None)
            if inside is not None:
                raise RellmError(f"{self.root} is {levels} too high: {expected}", todo=f"Give --root {inside}")
        above = next((p for p in list(self.root.resolve().parents)[:3] if contains(p)), None)
        if above is not None:
            raise RellmError(f"{self.root} is too deep: {expected}", todo=f"Give --root {above}")
        raise RellmError(f"{self.root} does not look like this corpus: {expected}", todo="Check --root and the corpus")

    def emotion(self, raw: str, file: Path | str, line: int | None = None, extra: Mapping[str, str] = {}) -> str | None:
        """The label of the option `label_set`, or canonical name, that `raw` means; an unknown one is a problem.

        Args:
            extra: labels of this corpus that no other uses, in lower case.
        """
        label = raw.strip().lower()
        name = find_label(label if label in self.labels else extra.get(label, label), self.labels)
        if name is None:
            self.problem(file, f"unknown emotion label {raw!r}", line)
        return name


def unit(value: float, low: float, high: float) -> float:
    """A rating on low..high, scaled to 0..1.

    Raises:
        ValueError: it lies outside.
    """
    if not low <= value <= high:
        raise ValueError(f"{value:g} is outside of {low:g}..{high:g}")
    return (value - low) / (high - low)


def dimensions(
    scan: Scan, ratings: Mapping[str, float], scale: tuple[float, float], file: Path, line: int | None = None
) -> dict[str, Any]:
    """Fields of an utterance for annotated ratings of valence, arousal and dominance by name.

    A rating outside of the scale is a problem, and the utterance gets no dimensions: clipping would invent a rating.
    """
    try:
        scaled = {name: unit(value, *scale) for name, value in ratings.items()}
    except ValueError as error:
        scan.problem(file, f"rating {error}; the utterance is kept without valence, arousal, dominance", line)
        return {}
    return {**scaled, "vad_source": "annotated", "vad_range": list(scale)}


def length_in_words(text: str, language: str | None) -> int:
    """Number of words; of characters in languages written without blanks (BLSP-Emo appendix B)."""
    if language in UNSPACED:
        return sum(unicodedata.category(c)[0] in "LN" for c in text)
    return sum(any(c.isalnum() for c in word) for word in text.split())


def pseudo_random_order(names: Iterable[T], seed: int, what: str) -> list[T]:
    """Names in an order fixed by `seed`: the same with every version of Python, and for any subset of the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{what}:{seed}:{name}".encode()).digest())


def speaker_folds(scan: Scan, speakers: Sequence[str]) -> dict[str, str]:
    """Split of each speaker in the fold of the option `fold`: one is the test set, the next one `dev`.

    Raises:
        RellmError: there is no such fold.
    """
    fold = scan.option("fold", 1, int, range(1, len(speakers) + 1))
    splits = dict.fromkeys(speakers, "train")
    splits[speakers[fold % len(speakers)]] = "dev"
    splits[speakers[fold - 1]] = "test"
    return splits


Reader = Callable[[Scan], Iterator[Utterance]]
