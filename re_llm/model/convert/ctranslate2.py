"""Whisper as CTranslate2 and faster-whisper store it, as an ordinary Whisper of transformers.

`model.bin`, version 6, little endian: version, name and revision of the specification, number of variables; for each
name, rank, sizes, type, bytes, data; then aliases. Layers that read the same input are one matrix there: query, key
and value below each other in `linear_0` of self-attention, key and value in `linear_1` of cross-attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from re_llm.core.errors import RellmError
from re_llm.model.convert.binary import AGAIN, Walk
from re_llm.model.convert.plan import ConversionPlan, ConvertReport, Target
from re_llm.model.convert.whisper_files import WhisperFiles
from re_llm.model.weights import Stored

VERSION, SPECIFICATION, MODEL = 6, "WhisperSpec", "model.bin"
# Numbers of the types in the file.
_TYPES = {
    0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16,
}  # fmt: skip
_QUANTISED = (torch.int8, torch.int16)
_EMBEDDINGS, _PROJECTION = "decoder/embeddings/weight", "decoder/projection/weight"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "begin_suppress_tokens")
# Module of transformers -> module there, which part of its rows, of how many.
_MODULES = {
    "conv1": ("conv1", 0, 1),
    "conv2": ("conv2", 0, 1),
    "embed_positions": ("position_encodings", 0, 1),
    "embed_tokens": ("embeddings", 0, 1),
    "layer_norm": ("layer_norm", 0, 1),
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "self_attn_layer_norm": ("self_attention/layer_norm", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "encoder_attn_layer_norm": ("attention/layer_norm", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
    "final_layer_norm": ("ffn/layer_norm", 0, 1),
}


def stored_variables(path: Path) -> dict[str, Stored]:
    """Name -> variable of a `model.bin`, other names of the same included; only the header is read.

    Raises:
        RellmError: another version or specification, a truncated file, sizes that contradict each other.
    """
    with path.open("rb") as file:
        walk = Walk(file, path, f"Whisper of CTranslate2, version {VERSION}")
        version = walk.number("I")
        if version != VERSION:
            raise walk.wrong(f"its version is {version}")
        specification = _name(walk)
        if specification != SPECIFICATION:
            raise walk.wrong(f"it holds a {specification}")
        walk.number("I")  # the specification's revision: what it changes shows in the names
        found: dict[str, Stored] = {}
        for _ in range(walk.number("I")):
            name = _name(walk)
            if name in found:
                raise walk.wrong(f"{name} is there twice")
            found[name] = _variable(walk, name)
        for _ in range(walk.number("I")):
            alias, target = _name(walk), _name(walk)
            if target not in found or alias in found:
                raise walk.wrong(f"{alias} cannot be another name of {target}")
            found[alias] = found[target]
        if walk.at != walk.size:
            raise walk.wrong(f"{walk.size - walk.at} bytes follow its end")
    return found


def _name(walk: Walk) -> str:
    """A text is its length with a final zero byte, the bytes, the zero byte."""
    name = walk.name(walk.number("H") - 1)
    if walk.take(1) != b"\0":
        raise walk.wrong(f"the name {name} has no end")
    return name


def _variable(walk: Walk, name: str) -> Stored:
    shape = tuple(walk.number("I") for _ in range(walk.number("B")))
    kind = walk.number("B")
    if kind not in _TYPES:
        raise walk.wrong(f"{name} is of the unknown type {kind}")
    dtype, size = _TYPES[kind], walk.number("I")
    if prod(shape) * dtype.itemsize != size or not size:
        raise walk.wrong(f"{name} has the shape {list(shape)} and {size} bytes")
    begin, path = walk.skip(size), walk.path

    def read() -> Tensor:
        with path.open("rb") as file:
            file.seek(begin)
            data = bytearray(file.read(size))
        if len(data) != size:
            raise RellmError(f"{path}: {name} can no longer be read", todo=AGAIN)
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    return Stored(path, shape, dtype, read)


def plan(source: Path, given: Mapping[str, Any], tokenizer: Path | None) -> ConversionPlan:
    """What the conversion of a folder with a `model.bin` will do.

    Weights keep the type that the file has for what it does not quantise: float16 or float32, exactly. Quantised ones
    become what they stand for, the whole number divided by its row's scale.

    Args:
        given: the folder's config.json.
        tokenizer: folder with a `tokenizer.json`, when the source has none.

    Raises:
        RellmError: a broken file, a Whisper that transformers cannot express, no tokenizer.
    """
    path = source / MODEL
    stored = stored_variables(path)
    config = _config(stored, path)
    files = WhisperFiles(source, given, tokenizer, config)
    with torch.device("meta"):
        expected = WhisperForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        del expected["proj_out.weight"]
    config.dtype = dtype = _dtype(stored)
    model = {name: _recipe(name, value, stored, dtype, path) for name, value in expected.items()}
    used = {source for recipe in model.values() for source in recipe.sources}
    left_out = {
        name: "a setting of CTranslate2" if not value.shape else "no part of transformers' Whisper"
        for name, value in stored.items()
        if name not in used and value is not stored.get(_EMBEDDINGS)
    }
    report = ConvertReport("ctranslate2", "whisper", left_out=left_out)
    return ConversionPlan(report, stored, model, files.write)


def _dtype(stored: Mapping[str, Stored]) -> torch.dtype:
    """The one type of what is not quantised; float32 when there are several."""
    kinds = {
        held.dtype for name, held in stored.items() if not name.endswith("_scale") and held.dtype.is_floating_point
    }
    return kinds.pop() if len(kinds) == 1 else torch.float32


def _config(stored: Mapping[str, Stored], path: Path) -> WhisperConfig:
    """Whisper's sizes, all of them read off the variables."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        held = stored.get(name)
        if held is None or len(held.shape) != rank:
            raise RellmError(f"{path} lacks {name}, or has it in another rank than {rank}", todo=AGAIN)
        return held.shape

    def heads(half: str) -> int:
        shape(f"{half}/num_heads", 0)
        count = int(stored[f"{half}/num_heads"].read())
        if count < 1 or width % count:
            raise RellmError(f"{path}: {half}/num_heads is {count}", allowed=f"a divisor of the width, {width}")
        return count

    vocabulary, width = shape(_EMBEDDINGS, 2)
    own = stored.get(_PROJECTION)
    return WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=shape("encoder/conv1/weight", 3)[1],
        encoder_layers=_layers(stored, "encoder"),
        decoder_layers=_layers(stored, "decoder"),
        encoder_attention_heads=heads("encoder"),
        decoder_attention_heads=heads("decoder"),
        encoder_ffn_dim=shape("encoder/layer_0/ffn/linear_0/weight", 2)[0],
        decoder_ffn_dim=shape("decoder/layer_0/ffn/linear_0/weight", 2)[0],
        max_source_positions=shape("encoder/position_encodings/encodings", 2)[0],
        max_target_positions=shape("decoder/position_encodings/encodings", 2)[0],
        tie_word_embeddings=own is None or own is stored[_EMBEDDINGS],
        decoder_start_token_id=0,  # this and the other ids follow from the tokenizer
        **dict.fromkeys(_TOKENS),
        architectures=["WhisperForConditionalGeneration"],
    )


def _layers(stored: Mapping[str, Stored], half: str) -> int:
    return len({found[0] for name in stored if (found := re.match(rf"{half}/layer_\d+/", name))})


def _theirs(name: str) -> tuple[str, int, int]:
    """Variable of a tensor of transformers, and which part of its rows it is, of how many."""
    if name == "proj_out.weight":
        return _PROJECTION, 0, 1
    _, half, rest = name.split(".", 2)
    layer, below = re.fullmatch(r"(?:layers\.(\d+)\.)?(.*)", rest).groups()  # type: ignore[union-attr]
    module, _, kind = below.rpartition(".")
    place, part, parts = _MODULES[module]
    if module == "embed_positions":
        kind = "encodings"
    elif module.endswith("layer_norm"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    inner = f"{half}/" if layer is None else f"{half}/layer_{layer}/"
    return f"{inner}{place}/{kind}", part, parts


def _recipe(name: str, value: Tensor, stored: Mapping[str, Stored], dtype: torch.dtype, path: Path) -> Target:
    """How a tensor of transformers is cut out of a variable.

    A key's bias in the fused layer is dropped: it adds the same to all of a query's scores, and Whisper has none.
    """
    source, part, parts = _theirs(name)
    held = stored.get(source)
    if held is None:
        raise RellmError(f"{path} lacks {source}", todo=AGAIN)
    shape = (value.shape[0] * parts, *value.shape[1:])
    if held.shape != shape:
        raise RellmError(f"{path}: {source} has the shape {list(held.shape)}, its sizes need {list(shape)}")
    sources: tuple[str, ...] = (source,)
    if held.dtype in _QUANTISED:
        scale = stored.get(f"{source}_scale")
        if scale is None or scale.shape not in ((), (1,), shape[:1]) or not scale.dtype.is_floating_point:
            raise RellmError(f"{path}: {source} is quantised and has no scales for its {shape[0]} rows")
        sources = (source, f"{source}_scale")
    elif not held.dtype.is_floating_point:
        raise RellmError(f"{path}: {source} is {held.dtype}", allowed="floating point, int8 or int16")

    def make(weight: Tensor, scale: Tensor | None = None) -> Tensor:
        if scale is not None:
            weight = weight.float() / scale.float().reshape(-1, *[1] * (weight.dim() - 1))
            if not weight.isfinite().all():
                raise RellmError(f"{path}: {source} has a scale of 0")
        return weight.chunk(parts)[part].to(dtype)

    return Target(sources, make, value.numel() * dtype.itemsize)
