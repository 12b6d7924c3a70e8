"""Sections of a report that say where its numbers come from, and what the paper printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from re_llm.core.files import file_hash
from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, quote
from re_llm.core.product import edited, flattened, read_sidecar
from re_llm.report.reply_sections import Replies
from re_llm.report.tables import CORPORA, METRIC_TITLES, PAPER, SYSTEMS, TABLE_I


def paper_blocks() -> list[Block]:
    rows: list[Cells] = []
    for system, blocks in PAPER.items():
        cells = [f"{value:.3f}" if block else NONE for block in blocks for value in (block or (0.0,) * 3)]
        rows.append([SYSTEMS[system], *cells])
    header = ["system", *(f"{METRIC_TITLES[m]} {name}" for m in TABLE_I for name in CORPORA.values())]
    return [
        Heading(2, "The paper's Table I, for orientation"),
        Paragraph(
            "**Not measured here.** As printed in the RE-LLM paper, with its LLM, its data and its scorer; where one "
            "of them differs above, the numbers are not comparable. The paper's text mixes the baselines of its gains "
            "(Ex on IEMOCAP against BLSP-Emo without fine-tuning, elsewhere against the fine-tuned one).",
            aside=True,
        ),
        Table(header, rows),
    ]


def prompts_of(spoken: Replies) -> dict[str, str]:
    """Which prompt every system answered, where its replies name it: ER and Ex depend on it."""
    found: dict[str, set[str]] = {}
    for (system, _), replies in spoken.items():
        found.setdefault(system, set()).update(reply.prompt for reply in replies if reply.prompt)
    return {system: ", ".join(sorted(prompts)) for system, prompts in found.items() if prompts}


def short_name(path: Path) -> str:
    """Folders tell files of one name apart (replies/CORPUS/SYSTEM.SEED.jsonl)."""
    return "/".join(Path(path).parts[-3:])


def doubts(scores: Sequence[Path], replies: Sequence[Path]) -> list[str]:
    """What is not as the stages made it: scores that were edited, or are of other replies than those that are given."""
    given = {file_hash(path) for path in replies}
    found = []
    for path in scores:
        if edited(path):
            found.append(f"{short_name(path)} was changed after it was written")
        scored = ((read_sidecar(path) or {}).get("inputs") or {}).get("replies")
        if given and scored and scored not in given:
            found.append(f"{short_name(path)} is of other replies than those given, or they have changed since")
    return found


def provenance_blocks(given: dict[str, Any], files: Sequence[Path], doubts: Sequence[str] = ()) -> list[Block]:
    hashes = {short_name(path): file_hash(Path(path)) for path in files}
    known = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else str(value)
        for name, value in flattened(given)
        if value not in (None, {})
    }
    rows: list[Cells] = [["**doubtful**", quote(text)] for text in doubts]
    rows += [[quote(name), quote(text)] for name, text in known.items()]
    rows += [[quote(f"sha256 of {name}"), f"`{each}`"] for name, each in hashes.items() if each not in known.values()]
    return [Heading(2, "How this was made"), Table(["what", "value"], rows, (0, 1))]
