"""Tensors of a model folder, named and described before they are read: safetensors, or pickles of tensors alone.

Pickles are mapped into memory where their format allows it, so that whole tensors pass from file to file.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from re_llm.core.errors import RellmError

WEIGHTS, WEIGHTS_INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
_SAFE, _PICKLED = (WEIGHTS, WEIGHTS_INDEX), (PICKLED, PICKLED_INDEX)
_AGAIN = "Copy or download it again"


@dataclass(frozen=True)
class Stored:
    """One tensor of a folder: where it is and what it looks like. `read` loads it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    def meta(self) -> Tensor:
        """The same without values: shape and dtype."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Name -> tensor of a model folder: safetensors if there are any, else `pytorch_model*.bin`; one file or shards.

    Raises:
        RellmError: no weights, a missing or truncated shard, an index that names a tensor its shard has not, a pickle
            that holds anything but tensors.
    """
    for single, index in (_SAFE, _PICKLED):
        if (folder / single).is_file():
            return stored_file(folder / single)
        if (folder / index).is_file():
            return _open_shards(folder / index)
    raise RellmError(f"{folder} has no weights", allowed=f"{', '.join((*_SAFE, *_PICKLED))}")


def _open_shards(index: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for shard, names in read_shards(index).items():
        held = stored_file(index.parent / shard)
        missing = next((name for name in names if name not in held), None)
        if missing:
            raise RellmError(f"{index.parent / shard} lacks the tensor {missing}, which {index.name} places in it")
        found.update(held)
    return found


def stored_file(path: Path) -> dict[str, Stored]:
    """The same of one file.

    Raises:
        RellmError: it is missing, truncated, or a pickle that holds anything but tensors.
    """
    if not path.is_file():
        raise RellmError(f"{path} is missing", todo="Copy or download the whole folder again")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, Stored]:
    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            try:
                with safe_open(path, framework="pt") as file:
                    return file.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise RellmError(f"{path}: {name} can no longer be read: {error}", todo=_AGAIN) from error

        return read

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            kinds = {name: (tuple(each.get_shape()), _DTYPES[each.get_dtype()]) for name, each in slices.items()}
    except KeyError as error:
        raise RellmError(f"{path} holds a tensor of type {error}", allowed=", ".join(_DTYPES)) from error
    except (SafetensorError, OSError) as error:
        raise RellmError(f"{path} is not a whole safetensors file: {error}", todo=_AGAIN) from error
    return {name: Stored(path, shape, dtype, reader(name)) for name, (shape, dtype) in kinds.items()}


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _open_pickle(path: Path) -> dict[str, Stored]:
    loaded = _unpickle(path)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise RellmError(f"{path} holds something else than tensors by name", allowed="the state dict of a model")
    return {
        str(name): Stored(path, tuple(value.shape), value.dtype, lambda value=value: value)  # type: ignore[misc]
        for name, value in loaded.items()
    }


def _unpickle(path: Path) -> Any:
    """A pickle through torch's restricted unpickler, mapped into memory; the format before torch 1.6 is read whole."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"PK"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise RellmError(
            f"{path} is a broken pickle, or holds code besides tensors, and code is never run: {_first_line(error)}",
            todo="Take the file from its publisher again; ask for safetensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise RellmError(f"{path} is not a whole file of weights: {_first_line(error)}", todo=_AGAIN) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def read_shards(index: Path) -> dict[str, list[str]]:
    """Shard file -> names of its tensors, as an index file has it.

    Raises:
        RellmError: it is no such index, or names a file outside of its folder.
    """
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        placed = sorted((str(file), str(name)) for name, file in files.items())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RellmError(f"{index} is not an index of weights: {error!r}") from error
    outside = next((file for file, _ in placed if Path(file).name != file or file in ("", "..")), None)
    if outside is not None:
        raise RellmError(f"{index} names a file outside of its folder: {outside!r}")
    shards: dict[str, list[str]] = {}
    for file, name in placed:
        shards.setdefault(file, []).append(name)
    return shards
