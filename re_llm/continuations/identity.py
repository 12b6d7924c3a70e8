"""What decides the rows of a file of continuations, on the same kind of machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from re_llm.continuations.plan import Plan
from re_llm.core.assets import component_hash, resolve_component
from re_llm.core.files import existing, file_hash, hash_of
from re_llm.core.product import Product, edited, read_sidecar
from re_llm.llm.prompts import Prompt

STAGE = "continue 1"  # the number rises when the same rows begin to get other continuations
_NAMES = {
    "wording": "the wording of the prompt",
    "weights": "the LLM",
    "prompt": "--prompt",
    "llm": "--llm/--model",
    "backend": "--server",
    "dtype": "--dtype",
    "tokens": "--tokens",
    "max_new_tokens": "--max-new-tokens",
    "splits": "--split",
    "chunk": "--chunk",
    "shard": "--shard",
    "turns": "--dialogues",
    "answers": "--answers",
}


def continuations(
    out: Path, plan: Plan, prompt: Prompt, llm: str, max_new_tokens: int, how: Mapping[str, Any]
) -> Product:
    """The file of continuations, and everything that decides its rows.

    Args:
        llm: folder, hub id, or the name of a server's model. Of a folder the content decides, not its name.
        how: `backend` (`local`, or `server` for a model behind an address), `dtype` of local weights, and `tokens`
            (`pieces` or `joined`, see `ChatLlm`).
    """
    local = how["backend"] == "local"
    return Product(
        out,
        STAGE,
        inputs={
            "manifest": file_hash(plan.manifest),
            # An id may get other words in another version.
            "wording": hash_of((prompt.id, prompt.system or "", prompt.before, prompt.after)),
            "weights": component_hash(llm) if local else None,
        },
        settings={
            "prompt": prompt.id,
            "llm": None if local and Path(resolve_component(llm)).is_dir() else llm,
            "backend": how["backend"],
            "dtype": how["dtype"],
            "tokens": how["tokens"],
            "max_new_tokens": max_new_tokens,
            "splits": None if plan.splits is None else sorted(plan.splits),
            "chunk": plan.chunk,
            "shard": str(plan.shard),
            **({} if plan.dialogues is None else plan.dialogues.settings()),
        },
        names={**_NAMES, "manifest": str(plan.manifest)},
        beside=(dropped_file(out),),
        grows=True,
    )


def dropped_file(out: Path) -> Path:
    return out.with_suffix(".dropped.jsonl")


def doubts(path: Path, llm: str) -> list[str]:
    """What a training should say of its continuations: unfinished, edited, or another LLM's than the one it trains on.

    Raises:
        RellmError: there is no such file.
    """
    sidecar = read_sidecar(existing(path, todo="Write it with: re-llm continue MANIFEST --out FILE"))
    if sidecar is None:
        return []
    found = []
    if not sidecar.get("complete"):
        found.append(f"{path} is unfinished: its `re-llm continue` ended early; training on what is there")
    elif edited(path, dropped_file(path)):
        found.append(f"{path} was changed after it was written; training on what is there")
    weights = (sidecar.get("inputs") or {}).get("weights")
    if weights and weights != component_hash(llm):
        found.append(f"{path} was continued by other weights than those of {llm}, which learns from it")
    return found
