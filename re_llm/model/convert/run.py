"""Released checkpoints of BLSP-Emo and RE-LLM as checkpoints of this package, and back; other formats as folders of
transformers: Qwen version 1, Whisper of CTranslate2, chat LLMs in GGUF files.

Tensors pass through one at a time. Names and shapes are checked against the model that the config describes before
anything is written, and the new folder takes its name when it is complete.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from re_llm.core.errors import RellmError
from re_llm.core.files import new_folder
from re_llm.model.convert import ctranslate2, gguf
from re_llm.model.convert.checkpoint import plan, plan_qwen
from re_llm.model.convert.config import kind_of
from re_llm.model.convert.plan import ConversionPlan, ConvertReport, write
from re_llm.model.convert.released import plan as plan_back
from re_llm.model.convert.tokenizer import TIKTOKEN
from re_llm.model.hub import locate, read_json

TARGETS = ("re-llm", "blsp-emo")
Name = str | os.PathLike[str]


def convert(
    src: Name,
    dst: Name,
    *,
    to: str | None = None,
    emotion_encoder: Name | None = None,
    tokenizer: Name | None = None,
    progress: bool = True,
) -> ConvertReport:
    """Converts a model folder; which format it is in is read from it.

    A released checkpoint of BLSP-Emo or RE-LLM becomes a checkpoint of this package that stands alone; a Qwen version
    1 becomes a Qwen2; CTranslate2's Whisper and a GGUF file become folders of transformers; with `to="blsp-emo"` a
    checkpoint of this package becomes a released one (in the names of RE-LLM if it has an emotion encoder). Weights
    may be safetensors or, read with torch's restricted unpickler, `pytorch_model*.bin`.

    Args:
        src: folder or hub id of the model, or a GGUF file.
        dst: folder to write; it must not exist, or be empty.
        to: `re-llm` or `blsp-emo`; by default what the source is not.
        emotion_encoder: folder or hub id of RE-LLM's emotion encoder: its config, and its weights if the checkpoint
            does not embed them. Not needed for audeering's own sizes.
        tokenizer: folder with `qwen.tiktoken` or a `tokenizer.json`, when the source has neither.
        progress: show a bar on a terminal.

    Raises:
        RellmError: an unknown format, a file or tensor that is missing, broken or of another shape, a target folder
            that is not empty. Nothing is left behind then.
    """
    target = Path(dst).expanduser()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise RellmError(f"{target} is there already and not empty", todo="Name a new folder, or remove this one")
    return _carry_out(_plan(src, to, emotion_encoder, tokenizer), target, progress)


def _plan(src: Name, to: str | None, emotion_encoder: Name | None, tokenizer: Name | None) -> ConversionPlan:
    file = gguf.find_gguf(Path(src).expanduser())
    if file is not None:
        _check_direction("gguf", to)
        return gguf.plan(file)
    source = _source(src)
    given = read_json(source / "config.json")
    kind = kind_of(given, source / "config.json")
    _check_direction(kind, to)
    names = {"emotion_encoder": emotion_encoder, "tokenizer": tokenizer}
    folders = {name: None if value is None else _source(value) for name, value in names.items()}
    if kind == "re-llm":
        return plan_back(source)
    if kind == "qwen":
        return plan_qwen(source, given, folders["tokenizer"])
    if kind == "ctranslate2":
        return ctranslate2.plan(source, given, folders["tokenizer"])
    return plan(source, given, folders["emotion_encoder"], folders["tokenizer"])


def _source(name: Name) -> Path:
    """A folder as it is; of a repository of the hub the vocabulary too, and its pickles when it has nothing else."""
    folder = locate(name, also=(TIKTOKEN,))
    if Path(name).expanduser().is_dir() or any(folder.glob("*.safetensors")):
        return folder
    return locate(name, also=(TIKTOKEN, "pytorch_model*.bin", ctranslate2.MODEL))


def _check_direction(kind: str, to: str | None) -> None:
    if to not in (None, *TARGETS):
        raise RellmError(f"to is {to!r}", allowed=", ".join(TARGETS))
    if kind == "re-llm" and to != "blsp-emo":
        raise RellmError("this is a checkpoint of re-llm already", allowed="--to blsp-emo")
    if kind != "re-llm" and to == "blsp-emo":
        raise RellmError(f"a {kind} model cannot become blsp-emo", allowed="a checkpoint of re-llm")


def _carry_out(plan: ConversionPlan, target: Path, progress: bool) -> ConvertReport:
    try:
        with new_folder(target) as new:
            free = shutil.disk_usage(new).free
            if plan.nbytes > free:
                raise RellmError(f"{plan.nbytes / 1e9:.3g} GB to write, and {free / 1e9:.3g} GB free for {target}")
            write(plan, new, progress)
            plan.finish(new)
    except (OSError, SafetensorError) as error:
        raise RellmError(
            f"{target} cannot be written: {error}", todo="Make room, or name a folder that can be written"
        ) from error
    added = {name: "zeros" for name, each in plan.model.items() if not each.sources}
    tensors, gigabytes = len(plan.model), plan.nbytes / 1e9
    return replace(plan.report, folder=target, tensors=tensors, lora=len(plan.lora), gigabytes=gigabytes, added=added)
