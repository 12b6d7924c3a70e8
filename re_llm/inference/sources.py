"""The rows that are answered, and hashes of all that a reply to one depends on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from re_llm.audio.content import segment_hash
from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError
from re_llm.core.files import hash_of
from re_llm.core.records import Utterance, read_records


def manifest_rows(manifest: Path, splits: Iterable[str] | None) -> tuple[list[Utterance], set[str]]:
    """Rows of the splits, and the keys of all rows.

    Raises:
        RellmError: there are none, or two share a key.
    """
    found = list(read_records(manifest, Utterance))
    if not found:
        raise RellmError(f"{manifest} holds no utterance", todo="Prepare the corpus again")
    wanted = set(splits) if splits else {row.split for row in found}
    rows = [row for row in found if row.split in wanted]
    if not rows:
        names = ", ".join(sorted({row.split for row in found}))
        raise RellmError(f"{manifest} holds no utterance of the split {', '.join(sorted(wanted))}", allowed=names)
    keys: set[str] = set()
    for row in rows:
        if row.key in keys:
            raise RellmError(
                f"{manifest} holds the key {row.key!r} twice",
                todo="Give every utterance its own key; `re-llm prepare check` lists them",
            )
        keys.add(row.key)
    return rows, {row.key for row in found}


def row_sources(rows: Iterable[Utterance], root: Path, *, audio: bool) -> dict[str, str]:
    """By key, a hash of all that a reply and its record depend on: the row's labels, and its recording if `audio`."""
    found = {}
    for row in rows:
        try:
            recording = segment_hash(row.audio, row.start, row.duration, root) if audio else ""
        except RellmError as error:  # it will be listed with this reason, and tried again when it is there
            recording = error.what
        labels = [row.text, row.emotion, row.label_set, row.corpus, row.speaker, row.language, row.dimensions()]
        others = {"reference": row.reference, "words_emotion": row.words_emotion}
        labels += [f"{name} {value}" for name, value in others.items() if value]
        before = [line for each in row.history or () for line in _earlier_source(each, root, audio=audio)]
        found[row.key] = hash_of([recording, *map(str, labels), *before])[:32]
    return found


def _earlier_source(each: Earlier, root: Path, *, audio: bool) -> tuple[str, str]:
    """What a reply depends on in an utterance before it: words and label, and the recording."""
    try:
        heard = segment_hash(each.audio, each.start, each.duration, root) if audio and each.audio else ""
    except RellmError as error:
        heard = error.what
    return heard, f"{each.role} {each.text} {each.emotion}"
