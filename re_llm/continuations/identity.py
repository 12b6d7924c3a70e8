"""What a file of continuations was made with: `NAME.provenance.json` beside `NAME.jsonl`.

`settings` decide what is in the rows: a run that has others does not go on with the file, and shards that have others
are not merged. `runs` tell how it was made: versions, machine, device, batch size, one entry for each start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from re_llm.continuations.plan import Plan
from re_llm.core import provenance
from re_llm.core.assets import resolve_component
from re_llm.llm.prompts import Prompt

# What a setting is called where a file is refused that was begun with another one.
_OPTIONS = {
    "manifest": "with another manifest, or the manifest has changed",
    "wording": "when the prompt had other words",
    "weights": "with another LLM of this name: the files in its folder have changed",
    "prompt": "--prompt",
    "llm": "--llm/--model",
    "asked": "--server",
    "dtype": "--dtype",
    "tokens": "--tokens",
    "max_new_tokens": "--max-new-tokens",
    "splits": "--split",
    "chunk": "--chunk",
    "shard": "--shard",
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides the rows of a file, on the same kind of machine.

    Attributes:
        manifest: SHA-256 of the manifest.
        wording: the prompt itself, because an id may get other words in another version.
        weights: what tells the files of a local LLM's folder from others; None for a hub id.
        asked: `local`, or `server` for a model behind an address.
        dtype: of the local weights; None behind a server.
        tokens: `pieces` or `joined`, see `ChatLlm`.
    """

    manifest: str
    prompt: str
    wording: tuple[str, str, str]
    llm: str
    weights: str | None
    asked: str
    dtype: str | None
    tokens: str
    max_new_tokens: int
    splits: tuple[str, ...] | None
    chunk: int
    shard: str

    @classmethod
    def of(cls, plan: Plan, prompt: Prompt, llm: str, max_new_tokens: int, how: Mapping[str, Any]) -> Settings:
        return cls(
            manifest=provenance.file_hash(plan.manifest),
            prompt=prompt.id,
            wording=(prompt.system, prompt.before, prompt.after),
            llm=llm,
            weights=_weights(llm) if how["asked"] == "local" else None,
            asked=how["asked"],
            dtype=how["dtype"],
            tokens=how["tokens"],
            max_new_tokens=max_new_tokens,
            splits=None if plan.splits is None else tuple(sorted(plan.splits)),
            chunk=plan.chunk,
            shard=str(plan.shard),
        )

    def plain(self) -> dict[str, Any]:
        """As it is after a way through JSON."""
        return dict(json.loads(json.dumps(asdict(self))))


def _weights(llm: str) -> str | None:
    folder = Path(resolve_component(llm))
    return provenance.fingerprint(folder) if folder.is_dir() else None


def dropped_file(out: Path) -> Path:
    return out.with_suffix(".dropped.jsonl")


def check_same(out: Path, sidecar: Mapping[str, Any] | None, settings: Settings) -> None:
    """Whether rows made with these settings may be added to the rows that `out` holds.

    Raises:
        RellmError: they may not; names the first setting that differs.
    """
    provenance.check_same(out, sidecar, settings.plain(), _OPTIONS)
