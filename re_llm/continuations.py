"""`re-llm continue`: the LLM continues every transcript; its answers are what the speech model learns to say.

RE-LLM section II-B step 1, BLSP-Emo section 3. Greedy, 48 new tokens; `early_stop` is true when the end was not
reached, and then no end token is trained.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from re_llm.errors import RellmError
from re_llm.progress import progress_bar
from re_llm.prompts import Prompt, get_prompt
from re_llm.records import Continuation, RecordAppender, Utterance, read_records

if TYPE_CHECKING:
    from re_llm.chat_llm import ChatLlm

# Outputs that a refusal or a misunderstanding starts; released code of BLSP-Emo. Each is (name, test).
_REFUSALS = {
    "sorry-cannot": lambda t: t.startswith("I'm sorry, but I cannot"),
    "sorry-not-sure": lambda t: t.startswith("I'm sorry, but I'm not sure"),
    "as-an-ai": lambda t: "as an ai language model" in t.lower(),
    "sorry-but-i": lambda t: "i'm sorry, but i" in t.lower(),
    "not-sure-what-you": lambda t: "I'm not sure what you" in t,
}
CHUNK = 512  # rows decoded between two writes: what a kill can cost


def refusal(output: str) -> str | None:
    """Name of the first cleaning pattern that `output` matches, or None; an empty output is refused as `empty`."""
    if not output.strip():
        return "empty"
    return next((name for name, matches in _REFUSALS.items() if matches(output)), None)


@dataclass
class ContinueReport:
    """What `continue_manifest` did. `dropped` counts rows by reason; they are listed in `dropped_file`."""

    rows: int = 0
    resumed: int = 0
    early_stops: int = 0
    seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_file: Path | None = None

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


def _audio_for(row: Utterance, manifest: Path, out: Path) -> str:
    """Audio path relative to the new file, as it is relative to the manifest in the old one."""
    name, *member = row.audio.split(":", 1)
    return ":".join([os.path.relpath(manifest.parent / name, out.parent), *member])


def _wanted(
    rows: Iterable[Utterance], prompt: Prompt, splits: set[str] | None
) -> Iterable[tuple[Utterance, str | None]]:
    """Rows of the splits with the reason why one cannot be continued, or None."""
    for row in rows:
        if splits and row.split not in splits:
            continue
        if not (row.text and row.text.strip()):
            yield row, "no-text"
        elif prompt.needs_emotion and row.emotion is None:
            yield row, "no-emotion"
        else:
            yield row, None


def _continuation(row: Utterance, audio: str, prompt: Prompt, llm: str, answer: Any) -> Continuation:
    known = row.model_dump(exclude_none=True)
    kept = (
        "valence",
        "arousal",
        "dominance",
        "vad_source",
        "corpus",
        "split",
        "start",
        "duration",
        "speaker",
        "emotion",
    )
    return Continuation(
        key=row.key,
        audio=audio,
        text=row.text or "",
        instruction=prompt.with_emotion(row.emotion).before,
        output=answer.text,
        early_stop=answer.finish_reason == "length",
        llm=llm,
        prompt=prompt.id,
        **{name: known[name] for name in kept if name in known},
    )


def continue_manifest(
    manifest: str | Path,
    out: str | Path,
    *,
    llm: str | ChatLlm,
    prompt: str = "continue-emotion",
    splits: Iterable[str] | None = ("train",),
    batch_size: int = 32,
    max_new_tokens: int = 48,
    device: str = "auto",
    dtype: str = "auto",
    progress: bool = True,
) -> ContinueReport:
    """Writes the LLM's continuation of every transcript; skips the keys that `out` already holds.

    Refusals and rows without what the prompt needs go to `<out stem>.dropped.jsonl`, counted by reason.

    Raises:
        RellmError: the manifest or the LLM cannot be read, or two rows share a key.
    """
    manifest, out = Path(manifest), Path(out)
    asked = get_prompt(prompt)
    dropped_file = out.with_suffix(".dropped.jsonl")
    report = ContinueReport(dropped_file=dropped_file)
    begun = time.monotonic()
    rows = list(_wanted(read_records(manifest, Utterance), asked, set(splits) if splits else None))
    _unique([row.key for row, _ in rows], manifest)
    with RecordAppender(out) as kept, RecordAppender(dropped_file) as dropped:
        todo = [(row, why) for row, why in rows if row.key not in kept.keys and row.key not in dropped.keys]
        report.resumed = len(kept.keys)
        for row, why in todo:
            if why:
                dropped.append([row.model_copy(update={"dropped": why})])
        todo = [(row, None) for row, why in todo if why is None]
        if todo and isinstance(llm, str):
            from re_llm.chat_llm import ChatLlm

            llm = ChatLlm.load(llm, device=device, dtype=dtype)
        with progress_bar("continue", len(rows), done=len(rows) - len(todo), show=progress) as advance:
            for first in range(0, len(todo), CHUNK):
                chunk = [row for row, _ in todo[first : first + CHUNK]]
                asked_rows = [(asked.with_emotion(row.emotion), row.text or "") for row in chunk]
                answers = llm.answer(  # type: ignore[union-attr]
                    asked_rows, max_new_tokens=max_new_tokens, batch_size=batch_size, on_batch=advance
                )
                good: list[Continuation] = []
                bad: list[Continuation] = []
                for row, answer in zip(chunk, answers, strict=True):
                    record = _continuation(row, _audio_for(row, manifest, out), asked, llm.name, answer)  # type: ignore[union-attr]
                    reason = refusal(answer.text)
                    (bad if reason else good).append(record.model_copy(update={"dropped": reason} if reason else {}))
                kept.append(good)
                dropped.append(bad)
        report.rows = len(kept.keys)
    _count(out, report)
    report.seconds = time.monotonic() - begun
    return report


def _count(out: Path, report: ContinueReport) -> None:
    with out.open(encoding="utf-8") as lines:
        report.early_stops = sum(json.loads(line)["early_stop"] for line in lines)
    assert report.dropped_file is not None
    with report.dropped_file.open(encoding="utf-8") as lines:
        report.dropped = Counter(json.loads(line)["dropped"] for line in lines)
    if not report.dropped:
        report.dropped_file.unlink()
        report.dropped_file = None


def _unique(keys: list[str], where: Path) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise RellmError(
            f"{where}: {len(repeated)} keys occur more than once, the first is {repeated[0]!r}",
            todo="Give every utterance its own key; `re-llm prepare check` lists them",
        )
