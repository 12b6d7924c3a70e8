"""A system that has answered already: its file of replies, joined with the rows of a manifest.

A line may lack `key` and `system`, as in the results of VoiceBench (`prompt`, `response`, ...): the row is then the
first one without a reply that has its words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from re_llm.audio.source import moved
from re_llm.core.errors import RellmError
from re_llm.core.files import existing, file_hash, hash_of
from re_llm.core.product import Overwrite, Product, State
from re_llm.core.records import ReplyRecord, Utterance, read_numbered, write_records
from re_llm.inference.reply import Reply, ReplyOptions
from re_llm.inference.reply_records import to_record
from re_llm.inference.respond import RespondReport

STAGE = "replies of a file 1"
SHOWN = 5
# What a system says; everything else about an utterance is the manifest's.
ITS_OWN = ("response", "answer", "named_emotion", "predicted_emotion", "probabilities", "valence", "arousal",
           "dominance", "transcript", "unsure", "tokens", "finish_reason", "prompt")  # fmt: skip


class _Given(ReplyRecord):
    """A line of the file."""

    key: str = ""
    system: str = ""


def take_replies(file: Path, rows: Sequence[Utterance], root: Path, out: Path, options: ReplyOptions) -> RespondReport:
    """Writes the replies of a file to the rows of a manifest, found by key or words, under the name of the system.

    References (text, emotion, speaker, ...) are the manifest's. Replies to other rows are left out.

    Args:
        root: folder that the rows' audio paths are relative to.

    Raises:
        RellmError: the file is missing or broken, a row has no reply or two, no row has the words of a line without a
            key, or `out` was changed by hand.
    """
    found = _by_key(existing(file), rows)
    missing = [row.key for row in rows if row.key not in found]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        named = ", ".join(missing[:SHOWN]) + more
        raise RellmError(
            f"{file} has no reply to {len(missing)} of {len(rows)} utterances: {named}",
            todo="Answer the whole test set; the keys are those of the manifest",
        )
    product = Product(
        out,
        STAGE,
        inputs={"replies": file_hash(file), "rows": hash_of(row.to_line() for row in rows)},
        settings={"system": options.system, "seed": options.seed},
        names={"replies": str(file)},
    )
    with product.making(Overwrite.OUTDATED) as before:
        if before.state is State.SAME:
            return product.stored(RespondReport)
        report = RespondReport(out=out, rows=len(rows), remade=before.why)
        here = [row.model_copy(update={"audio": moved(row.audio, root, out.parent)}) for row in rows]
        write_records(out, (_joined(row, found[row.key], options) for row in here))
        product.finish(report)
    return report


def _by_key(file: Path, rows: Sequence[Utterance]) -> dict[str, ReplyRecord]:
    found: dict[str, ReplyRecord] = {}
    wanted = {row.key for row in rows}
    unanswered: dict[str, list[str]] = {}
    for row in reversed(rows):
        unanswered.setdefault(row.text or "", []).append(row.key)
    for number, reply in read_numbered(file, _Given):
        if not reply.key:
            words = reply.text or reply.prompt
            if not words or not unanswered.get(words):
                raise RellmError(
                    f"{file}:{number}: no key, and no utterance without a reply has the words {(words or '')[:80]!r}",
                    allowed="`key`; or the words of the manifest's row in `text` or `prompt`",
                )
            reply = reply.model_copy(update={"key": unanswered[words].pop(), "prompt": None})
        if reply.key in wanted:
            if reply.key in found:
                raise RellmError(f"{file} holds two replies to {reply.key!r}", todo="Give the replies of one system")
            found[reply.key] = reply
    return found


def _joined(row: Utterance, given: ReplyRecord, options: ReplyOptions) -> ReplyRecord:
    own = {name: getattr(given, name) for name in ITS_OWN}
    return to_record(row, Reply(), options).model_copy(update=own)
