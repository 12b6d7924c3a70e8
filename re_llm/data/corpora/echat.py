"""EChat-200K and EChat-eval in the raw form that OSUM-EChat's loader reads (Geng et al. 2025).

JSON lines (`data.list`): `key`, `wav`, `txt` (the reply, behind a label of its own such as `<HAPPY>` in some), `task`,
and `extra`, an object or its JSON text, with `question` (what is said in the recording), `age` (`<ADULT>`), `gender`
(`<FEMALE>`), `think_str`, `speech_token`; `start` and `end` where a recording holds more. Rows whose task is no chat
are left out. Which emotion a voice has is told in the prose of `think_str` alone, and is not read. Paths start from
the folder that the loader was run in: `audio_root`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from re_llm.core.records import Utterance
from re_llm.data.corpora.base import CorpusInfo, Scan
from re_llm.data.corpora.columns import OPTIONS, Table, from_rows
from re_llm.data.corpora.files import Json, read_json_lines

INFO = CorpusInfo(
    name="echat",
    title="EChat-200K, EChat-eval (raw form)",
    languages=("zh",),
    licence="Apache-2.0",
    get="https://huggingface.co/datasets/ASLP-lab/EChat-200K",
    citation="Geng et al., OSUM-EChat: Enhancing End-to-End Empathetic Spoken Chatbot, 2025",
    root="the jsonl (data.list)",
    options={name: OPTIONS[name] for name in ("audio_root", "default_split", "default_language")},
)

CHAT = "<S2TCHAT>"
_TAG = re.compile(r"<([^<>]+)>")


def read(scan: Scan) -> Iterator[Utterance]:
    """Spoken questions, in the order of the file."""
    table = Table(
        scan.root, INFO.name, scan.option("audio_root", scan.root.parent, Path),
        split=scan.option("default_split", "all", str),
        language=scan.option("default_language", INFO.languages[0], str),
    )  # fmt: skip
    rows = ((line, fields, None) for line, row in read_json_lines(scan, scan.root) if (fields := _row(scan, line, row)))
    yield from from_rows(scan, table, rows)


def _row(scan: Scan, line: int, row: Json) -> Json | None:
    """Fields by the names of `columns.ALIASES`; None for a row that cannot be used."""
    if CHAT not in str(row.get("task") or ""):
        scan.drop(f"task {row.get('task') or 'none'}")
        return None
    try:
        extra = row.get("extra") or {}
        extra = json.loads(extra) if isinstance(extra, str) else extra
        fields = {"key": f"{INFO.name}-{row['key']}", "audio": row["wav"], "text": extra["question"]}
    except (KeyError, ValueError, TypeError) as error:
        scan.problem(scan.root, f"{type(error).__name__} {error}", line)
        return None
    times: Json = {name: row[name] for name in ("start", "end") if name in row}
    return {**fields, **times, "gender": _label(extra.get("gender")), "reference": _reply(str(row.get("txt") or ""))}


def _label(tag: object) -> str | None:
    found = _TAG.fullmatch(str(tag or "").strip())
    return found[1].lower() if found else None


def _reply(text: str) -> str | None:
    """The reply without the label in front of it."""
    return _TAG.sub("", text, count=1).strip() or None if text.startswith("<") else text.strip() or None
