"""Reading what corpora are made of: label files in unknown encodings, tables, JSON, and trees of recordings."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan

FIELD_BYTES = 1 << 20  # longest field of a table
TEXT_BYTES = 1 << 28  # longest transcript or label file that is read whole
ITEM_BYTES = 1 << 27  # longest item of a JSON array that is read item by item
BLOCK = 1 << 20

Json = dict[str, Any]  # a JSON object
HEAD_BYTES = 1 << 16  # of a table, from which its encoding is detected
_RUNS = re.compile(rb"[\x80-\xff]{4,}")
# C1 control characters that are really cp1252 punctuation, decoded as Latin-1 by whoever wrote the table (MELD).
_C1 = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}


def decode_text(data: bytes) -> str:
    """Text of a label or transcript file whose encoding is not known.

    In this order: byte order mark, NUL bytes (UTF-16 without a mark), UTF-8, GB 18030 if it decodes to Chinese
    characters, Latin-1 with the punctuation of cp1252.
    """
    if encoding := _marked(data[:4096]):
        return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("gb18030") if _is_chinese(data) else data.decode("latin-1").translate(_C1)


def _marked(head: bytes) -> str | None:
    """The Unicode encoding that a byte order mark or NUL bytes show; None without them."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            return encoding
    if head.count(0) > len(head) // 8:
        return "utf-16-le" if head[1::2].count(0) >= head[::2].count(0) else "utf-16-be"
    return None


def _is_chinese(data: bytes) -> bool:
    # Nearly every pair of bytes is valid GB 18030, also two accented Latin-1 letters. Chinese text has many bytes
    # above 0x7f, in runs.
    high = sum(byte > 0x7F for byte in data)
    if high <= len(data) // 10 or 2 * sum(map(len, _RUNS.findall(data))) < high:
        return False
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return True


def table_encoding(head: bytes) -> str:
    """Encoding of a table, from its first bytes; other than Unicode and Chinese, it is detected field by field.

    UTF-16 is what spreadsheets save as "Unicode text"; single fields of MELD and CMU-MOSEI are cp1252 in a UTF-8 file.
    """
    if encoding := _marked(head):
        return encoding
    whole = head[: head.rfind(b"\n") + 1] or head  # a character may be cut in two at the end
    try:
        whole.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "gb18030" if _is_chinese(whole) else "utf-8-sig"
    return "utf-8-sig"


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
    scan: Scan, path: Path, needed: Iterable[str], *, delimiter: str | None = ",", quoted: bool = True
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column name) of a table with a header line; rows of another width are problems.

    Streams: the memory does not grow with the file. Encodings: `table_encoding`.

    Args:
        delimiter: between the fields; None = a comma or a semicolon, whichever the header has more of.
        quoted: whether `"` quotes a field (in Common Voice it does not).

    Raises:
        RellmError: the file is missing or lacks a column.
    """
    try:
        with path.open("rb") as raw:
            encoding = table_encoding(raw.read(HEAD_BYTES))
        file = path.open(encoding=encoding, errors="surrogateescape", newline="")
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}", todo="Check --root") from error
    with file:
        csv.field_size_limit(FIELD_BYTES)
        if delimiter is None:
            header_line = file.readline(FIELD_BYTES)
            file.seek(0)
            delimiter = max(",;", key=header_line.count)
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
        except (csv.Error, UnicodeError) as error:
            raise RellmError(f"{path}:{rows.line_num}: {error}") from error


def _text(value: str) -> str:
    # A field that is not UTF-8 (Latin-1 typographic apostrophes in MELD and MOSEI) is read as cp1252.
    if value.isascii():
        return value.strip()
    if any("\udc80" <= c <= "\udcff" for c in value):
        value = value.encode("utf-8", "surrogateescape").decode("cp1252", errors="replace")
    return value.translate(_C1).strip()


def visible(paths: Iterable[Path]) -> Iterator[Path]:
    """Paths in order, without the `._name` twins that macOS archives add (the IEMOCAP release has them)."""
    return (path for path in sorted(paths) if not path.name.startswith("."))


def recordings(root: Path, *, deep: bool = True) -> Iterator[Path]:
    """Every recording below a folder, in order, without the files and folders that macOS adds to archives.

    Linked folders are followed; none is read twice, so that links in a circle end.

    Args:
        deep: whether the folders in it are read as well.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if deep and not name.startswith((".", "__MACOSX")))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix.lower() in waveform.SUFFIXES and not name.startswith("."):
                yield path


def any_format(path: Path) -> Path:
    """The recording `path`, or one of the same folder and stem in another format; `path` itself if there is none.

    Of a video, a converted recording beside it is preferred.
    """
    others = [path.with_suffix(suffix) for suffix in waveform.SUFFIXES]
    candidates = others if path.suffix.lower() in waveform.WITH_AV else [path, *others]
    # os.path: names that are too long, or hold a NUL, are names of no file.
    return next((found for found in candidates if os.path.isfile(found)), path)


def tree_root(scan: Scan, pattern: re.Pattern[str], expected: str) -> Path:
    """The root of a corpus that may lie at any depth: one of its recordings must be named by the pattern.

    Raises:
        RellmError: there is no such folder, or no such recording in it.
    """
    scan.is_folder()
    if not any(pattern.fullmatch(path.stem) for path in recordings(scan.root)):
        raise RellmError(f"{scan.root} does not look like this corpus: expected {expected}", todo="Check --root")
    return scan.root


def coded_names(scan: Scan, root: Path, pattern: re.Pattern[str], form: str) -> Iterator[tuple[Path, re.Match[str]]]:
    """(path, parts of the name) of recordings whose name carries their labels; another name is a problem.

    Args:
        pattern: matched against the whole name without its suffix.
        form: what the name should be, for the message.
    """
    for path in recordings(root):
        match = pattern.fullmatch(path.stem)
        if match is None:
            scan.problem(path, f"the name is not {form}")
        else:
            yield path, match


def without_row(
    scan: Scan, folders: Iterable[Path], named: Iterable[str], table: Path | str, *, deep: bool = True
) -> None:
    """Counts the recordings of some folders that no row of a table names, by path without suffix; reports the first."""
    stems = {os.path.splitext(name)[0] for name in named}
    for folder in folders:
        loose = [path for path in recordings(folder, deep=deep) if os.path.splitext(path)[0] not in stems]
        if loose:
            first = loose[0].relative_to(folder).as_posix()
            scan.drop(
                f"recording in {folder.resolve().name} without a row in {Path(table).name}, such as {first}", len(loose)
            )


def read_json_lines(scan: Scan, path: Path) -> Iterator[tuple[int, Json]]:
    """(line number, object) of a JSON-lines file, plain or `.gz`; a line that is none is a problem. Streams.

    Raises:
        RellmError: the file is missing.
    """
    if not path.is_file():
        raise RellmError(f"no such file: {path}", todo="Check --root")
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        number = 0
        while line := _line(file, path):
            number += 1
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise RellmError(f"{path} is in UTF-16", allowed="JSON lines in UTF-8", todo="Convert it with iconv")
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # RecursionError: brackets a thousand deep
                scan.problem(path, f"not JSON: {error}", number)
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                scan.problem(path, "not a JSON object", number)


def _line(file: IO[bytes], path: Path) -> bytes:
    try:
        return file.readline(FIELD_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RellmError(f"cannot read {path}: {error}", todo="Copy the file again") from error


def json_list(path: Path, info: CorpusInfo) -> list[Json]:
    """A JSON file that holds a list.

    Raises:
        RellmError: it is missing, is not JSON, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RellmError(f"{path} cannot be read as JSON: {error}", allowed=info.root) from None
    if not isinstance(found, list):
        raise RellmError(f"{path} holds no list", allowed=info.root)
    return found


def read_json_array(path: Path, key: str) -> Iterator[Json]:
    """Items of the array `key` of a JSON file, one at a time: the file can be larger than the memory.

    Raises:
        RellmError: the file is missing, is not JSON, or has no such array.
    """
    decoder = json.JSONDecoder()
    start = re.compile(rf'"{re.escape(key)}"\s*:\s*\[')
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}", todo="Check --root") from error
    with file:
        buffer = file.read(BLOCK)
        match = start.search(buffer)
        if match is None:
            raise RellmError(f"{path} has no array {key!r} near its beginning", todo="Check the file")
        buffer = buffer[match.end() :]
        while True:
            buffer = buffer.lstrip(" \t\r\n,")
            if buffer.startswith("]"):
                return
            try:
                item, end = decoder.raw_decode(buffer)
            except RecursionError as error:
                raise RellmError(f"{path} is nested too deeply: {error}", todo="Check the file") from None
            except ValueError as error:
                more = file.read(max(BLOCK, len(buffer)))
                if not more or len(buffer) > ITEM_BYTES:
                    raise RellmError(f"{path} is not JSON: {error.args[0]}", todo="Copy the file again") from None
                buffer += more
                continue
            yield item
            buffer = buffer[end:]


def read_segments(
    scan: Scan, info: CorpusInfo, name: str, subset: str, fields: Callable[[Json, Json], Json | None], why: str
) -> Iterator[Utterance]:
    """Utterances of a subset of a corpus of long recordings in the format of GigaSpeech and WenetSpeech.

    Args:
        name: the JSON file in the root that describes recordings and segments.
        fields: fields of an utterance from a recording and one of its segments; None drops it as `why`.
    """
    root = scan.path_root(lambda p: (p / name).is_file(), f"expected {info.root} in it")
    for item in read_json_array(root / name, "audios"):
        for segment in item.get("segments", ()):
            if subset not in segment.get("subsets", ()):
                continue
            try:
                found = fields(item, segment)
                if found is None:
                    scan.drop(why)
                    continue
                start = segment["begin_time"]
                utterance = info.utterance(
                    root / item["path"], key=segment["sid"], start=start, dialogue=item.get("aid"),
                    duration=round(segment["end_time"] - start, 3), **found,
                )  # fmt: skip
            except (KeyError, TypeError, ValueError) as error:
                scan.problem(root / name, f"segment {segment.get('sid')}: {error!r}")
            else:
                yield utterance
