"""What every corpus reader uses: the description of a corpus, the scan that collects problems, labels, texts, tables.

A reader is a module with a constant `INFO` and a generator `read(scan)` that yields utterances in a fixed order. It
tells the scan what it could not read (`scan.problem`) and what its protocol leaves out (`scan.drop`); it never passes
over anything silently.
"""

from __future__ import annotations

import csv
import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from re_llm.emotions import CANONICAL, SPELLINGS
from re_llm.errors import RellmError
from re_llm.manifest import Problem
from re_llm.records import Utterance

FIELD_BYTES = 1 << 20  # longest field of a table
TEXT_BYTES = 1 << 28  # longest transcript or label file that is read whole
UNSPACED = frozenset({"zh", "ja", "th", "yue"})  # languages written without blanks: length is counted in characters

T = TypeVar("T")


@dataclass(frozen=True)
class Filters:
    """What an utterance must be to be kept. Words are characters in languages written without blanks.

    Attributes:
        min_seconds, max_seconds: length of the recording in seconds, both included.
    """

    min_words: int = 0
    min_seconds: float = 0.0
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.min_words < 0 or not 0 <= self.min_seconds < self.max_seconds:
            raise RellmError(
                f"{self} keeps nothing",
                allowed="min_words >= 0, 0 <= min_seconds < max_seconds",
            )

    def refusal(self, utterance: Utterance) -> str | None:
        """Why the utterance is left out, or None."""
        if self.min_words and length_in_words(utterance.text or "", utterance.language) < self.min_words:
            return f"fewer than {self.min_words} words"
        if utterance.duration is not None and utterance.duration < self.min_seconds:
            return f"shorter than {self.min_seconds:g} s"
        if utterance.duration is not None and utterance.duration > self.max_seconds:
            return f"longer than {self.max_seconds:g} s"
        return None


@dataclass(frozen=True)
class CorpusInfo:
    """One row of `re-llm prepare --list`.

    Attributes:
        name: what the user types.
        languages: ISO 639 codes.
        utterances: number in the full release (0: unknown or open).
        emotions: canonical names that occur in it.
        licence: under what terms it is used; where there is a form to sign, that.
        get: where to get it.
        protocols: named selections and splits, with one sentence each.
        options: what `options` may hold, with one sentence each.
        root: what the given folder must contain.
        filters: what a protocol asks of every utterance; the options of `prepare` change it.
        dimensions: whether valence, arousal and dominance are annotated.
    """

    name: str
    title: str
    languages: tuple[str, ...]
    utterances: int
    emotions: tuple[str, ...]
    licence: str
    get: str
    citation: str
    root: str
    hours: float | None = None
    protocols: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Filters] = field(default_factory=dict)
    dimensions: bool = False


class Scan:
    """One reading of a corpus: where, by which protocol, and what was met on the way.

    Attributes:
        root: folder of the corpus.
        protocol: name of a selection and split, or None for everything that the corpus holds.
        problems: what could not be read, in order.
        dropped: how many utterances the protocol left out, by reason.
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

    def problem(self, file: Path | str, what: str, line: int | None = None) -> None:
        """Notes a problem; with `strict`, raises it as a RellmError."""
        place = Path(file)
        name = str(place.relative_to(self.root)) if place.is_relative_to(self.root) else str(file)
        found = Problem(name, line, what)
        if self.strict:
            raise RellmError(str(found), todo="Correct the file, or run without strict to have it listed and left out")
        self.problems.append(found)

    def drop(self, why: str, count: int = 1) -> None:
        """Counts utterances that the protocol leaves out."""
        self.dropped[why] += count

    def option(self, name: str, default: T, kind: Callable[[Any], T]) -> T:
        """Value of an option of the reader; text from a command line is converted.

        Raises:
            RellmError: the value cannot be converted.
        """
        value = self.options.get(name)
        if value is None:
            return default
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise RellmError(f"option {name}={value!r} is not valid", allowed=f"a value such as {default!r}") from None

    def path_root(self, contains: Callable[[Path], bool], expected: str) -> Path:
        """The root, when it is the folder that a reader expects.

        Raises:
            RellmError: it is not; says whether it lies one level too high or too low.
        """
        if contains(self.root):
            return self.root
        if not self.root.is_dir():
            raise RellmError(f"no such folder: {self.root}", todo="Check --root")
        inside = next((p for p in sorted(self.root.iterdir()) if p.is_dir() and contains(p)), None)
        if inside is not None:
            raise RellmError(f"{self.root} is one level too high: {expected}", todo=f"Give --root {inside}")
        above = next((p for p in list(self.root.resolve().parents)[:3] if contains(p)), None)
        if above is not None:
            raise RellmError(f"{self.root} is too deep: {expected}", todo=f"Give --root {above}")
        raise RellmError(f"{self.root} does not look like this corpus: {expected}", todo="Check --root and the corpus")

    def emotion(self, raw: str, file: Path | str, line: int | None = None, extra: Mapping[str, str] = {}) -> str | None:
        """Canonical name of a label; an unknown one is a problem and gives None.

        Args:
            extra: labels of this corpus that no other uses, in lower case.
        """
        label = raw.strip().lower()
        name = extra.get(label) or SPELLINGS.get(label, label)
        if name in CANONICAL:
            return name
        self.problem(file, f"unknown emotion label {raw!r}", line)
        return None


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

    A rating outside of the scale is a problem, and the utterance is left without dimensions: clipping would invent one.
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

    def rank(name: T) -> bytes:
        return hashlib.sha256(f"{what}:{seed}:{name}".encode()).digest()

    return sorted(names, key=rank)


def decode_text(data: bytes) -> str:
    """Text of a label or transcript file whose encoding is not known.

    Byte order marks decide first, then NUL bytes (UTF-16 without a mark), then UTF-8; what is left is GB 18030 when
    it decodes to Chinese characters, and Latin-1 otherwise.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    head = data[:4096]
    if head.count(0) > len(head) // 8:
        return data.decode("utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _decode_legacy(data)


def _decode_legacy(data: bytes) -> str:
    # Nearly every pair of bytes is valid GB 18030, also an accented Latin-1 letter before another: what tells them
    # apart is that Chinese text has long runs of bytes above 0x7f.
    high = sum(byte > 0x7F for byte in data)
    if high > len(data) // 10:
        try:
            return data.decode("gb18030")
        except UnicodeDecodeError:
            pass
    return data.decode("latin-1")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line without its end) of a text file in any of the encodings of `decode_text`.

    Raises:
        RellmError: the file is missing, or too large to be a list of transcripts.
    """
    try:
        size = path.stat().st_size
        if size > TEXT_BYTES:
            raise RellmError(f"{path} has {size} bytes", allowed=f"at most {TEXT_BYTES}")
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}", todo="Check --root") from error
    for number, line in enumerate(text.splitlines(), start=1):
        yield number, line.strip()


def read_table(
    scan: Scan, path: Path, needed: Iterable[str], *, delimiter: str = ",", quoted: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column name) of a table with a header line; rows of another width are problems.

    Streams: the memory does not grow with the file.

    Args:
        quoted: whether `"` quotes a field (in Common Voice it does not).

    Raises:
        RellmError: the file is missing or lacks a column.
    """
    try:
        file = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}", todo="Check --root") from error
    with file:
        csv.field_size_limit(FIELD_BYTES)
        rows = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        try:
            header = [name.strip() for name in next(rows, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                raise RellmError(f"{path}:1: no column {', '.join(missing)}", allowed=f"found: {', '.join(header)}")
            while True:
                row = next(rows, None)
                if row is None:
                    return
                if row and len(row) != len(header):
                    scan.problem(path, f"{len(row)} columns instead of {len(header)}", rows.line_num)
                elif row:
                    yield rows.line_num, dict(zip(header, (_text(v) for v in row), strict=True))
        except csv.Error as error:
            raise RellmError(f"{path}:{rows.line_num}: {error}") from error


def _text(value: str) -> str:
    # A field that is not UTF-8 (Latin-1 typographic apostrophes in MELD and MOSEI) is read as cp1252.
    if value.isascii() or not any("\udc80" <= c <= "\udcff" for c in value):
        return value.strip()
    return value.encode("utf-8", "surrogateescape").decode("cp1252", errors="replace").strip()


def visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Paths in order, without the `._name` twins that macOS archives add (the IEMOCAP release has them)."""
    return (path for path in sorted(paths) if not path.name.startswith("."))


Reader = Callable[[Scan], Iterator[Utterance]]
