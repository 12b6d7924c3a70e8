"""Tensors of a model folder, named and described before they are read: safetensors, or pickles of tensors alone.

Pickles are mapped into memory where their format allows it, so that whole tensors pass from file to file.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging

from re_llm.core.errors import RellmError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
LORA_WEIGHTS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_FOLDER = "lora"  # on the hub; see `push`
STEPS = ".steps"  # `NAME.steps` beside an int8 tensor NAME: the step of each of its rows
LARGE = 1 << 16  # numbers of a tensor that is worth storing in int8
_AGAIN = "Copy or download it again"
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' bar, and its table of missing tensors: they are checked here, it would only repeat that."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


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


def stored_tensors(folder: Path, *, allow_pickle: bool = True) -> dict[str, Stored]:
    """Name -> tensor of a model folder: safetensors if there are any, else `pytorch_model*.bin`; one file or shards.

    Raises:
        RellmError: no weights, a missing or truncated shard, an index that names a tensor its shard has not, a pickle
            that holds anything but tensors.
    """
    kinds = [(WEIGHTS, WEIGHTS_INDEX), (PICKLED, PICKLED_INDEX)][: 1 + allow_pickle]
    for single, index in kinds:
        if (folder / single).is_file():
            return stored_file(folder / single)
        if (folder / index).is_file():
            return _open_shards(folder / index)
    if allow_pickle:
        raise RellmError(f"{folder} has no weights", allowed=", ".join(name for names in kinds for name in names))
    pickled = any((folder / name).is_file() for name in (PICKLED, PICKLED_INDEX))
    also = "; allow_pickle=True reads its pickle" if pickled else ""
    raise RellmError(f"{folder} has no {WEIGHTS}", allowed=f"weights as safetensors{also}")


def stored_file(path: Path) -> dict[str, Stored]:
    """The same of one file.

    Raises:
        RellmError: it is missing, truncated, or a pickle that holds anything but tensors.
    """
    if not path.is_file():
        raise RellmError(f"{path} is missing", todo="Copy or download the whole folder again")
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def read_weights(folder: Path, prefixes: Sequence[str] = ("",), *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Tensors of a model folder (one file or shards) whose names begin with one of `prefixes`.

    Args:
        allow_pickle: also read `pytorch_model*.bin`, with torch's restricted unpickler.

    Raises:
        RellmError: see `stored_tensors`; or a tensor holds NaN or infinite values.
    """
    held = stored_tensors(folder, allow_pickle=allow_pickle)
    return _finite({k: each.read() for k, each in held.items() if k.startswith(tuple(prefixes))}, folder)


def lora_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The PEFT weights of a checkpoint, and the name of their file.

    Raises:
        RellmError: the file is missing or truncated, or a tensor holds NaN or infinite values.
    """
    path = lora_file(folder)
    return _finite({name: each.read() for name, each in stored_file(path).items()}, path), str(path)


def lora_file(folder: Path) -> Path:
    """Where the PEFT weights of a checkpoint are."""
    moved = folder / LORA_FOLDER / LORA_WEIGHTS
    return moved if moved.is_file() else folder / LORA_WEIGHTS


def refuse_non_finite(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """A model with such weights answers nothing but NaN.

    Raises:
        RellmError: a tensor holds NaN or infinite values; names `where` and the tensor.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise RellmError(
                f"{where}: the tensor {name} holds NaN or infinite values",
                todo="Use an earlier checkpoint; a training that diverged leaves such weights",
            )


def _finite(tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    refuse_non_finite(tensors.items(), where)
    return tensors


# --- files -----------------------------------------------------------------------------------------------------------


def _open_shards(index: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for shard, names in _read_shards(index).items():
        held = stored_file(index.parent / shard)
        missing = next((name for name in names if name not in held), None)
        if missing:
            raise RellmError(f"{index.parent / shard} lacks the tensor {missing}, which {index.name} places in it")
        found.update(held)
    return found


def _read_shards(index: Path) -> dict[str, list[str]]:
    """Shard file -> names of its tensors, as an index file has it."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        placed = sorted((str(file), str(name)) for name, file in files.items())
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise RellmError(f"{index} is not an index of weights: {error!r}") from error
    outside = next((file for file, _ in placed if Path(file).name != file or file in ("", "..") or "\0" in file), None)
    if outside is not None:
        raise RellmError(f"{index} names a file outside of its folder: {outside!r}")
    shards: dict[str, list[str]] = {}
    for file, name in placed:
        shards.setdefault(file, []).append(name)
    return shards


def in_int8(tensors: Mapping[str, Tensor], least: int | None = None) -> dict[str, Tensor]:
    """Large matrices and kernels of a file as int8 with a step a row, all else as it is: half of float16.

    Row r of a tensor [R, ...] is `round(row / step)`, `step = max |row| / 127` [R, float32]; the error is half a step
    at most, about 0.8 % of a row of normally distributed weights. `stored_file` reads such a file as float16.

    Args:
        least: numbers of a tensor that is stored so; None = `LARGE`.
    """
    found: dict[str, Tensor] = {}
    least = LARGE if least is None else least
    for name, tensor in tensors.items():
        if tensor.ndim < 2 or tensor.numel() < least or not tensor.is_floating_point():
            found[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        steps = rows.abs().amax(1).clamp(min=torch.finfo(torch.float16).tiny) / 127
        found[name] = (rows / steps[:, None]).round().to(torch.int8).view(tensor.shape)
        found[name + STEPS] = steps
    return found


def _open_safetensors(path: Path) -> dict[str, Stored]:
    """The tensors of a file; those that `in_int8` made are float16."""

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            try:
                with safe_open(path, framework="pt") as file:
                    tensor: Tensor = file.get_tensor(name)
                    if name not in steps:
                        return tensor
                    rows = tensor.flatten(1) * file.get_tensor(name + STEPS)[:, None]
                    return rows.view(tensor.shape).half()
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
    steps = {n for n, (shape, kind) in kinds.items() if kind == torch.int8 and len(shape) > 1 and n + STEPS in kinds}
    for name in steps:
        shape, _ = kinds[name]
        if kinds.pop(name + STEPS) != (shape[:1], torch.float32):
            raise RellmError(f"{path}: {name + STEPS} is not one float32 for each row of {name} {shape}", todo=_AGAIN)
        kinds[name] = shape, torch.float16
    return {name: Stored(path, shape, dtype, reader(name)) for name, (shape, dtype) in kinds.items()}


def _open_pickle(path: Path) -> dict[str, Stored]:
    loaded = _unpickle(path)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise RellmError(f"{path} holds something else than tensors by name", allowed="the state dict of a model")
    return {
        str(name): Stored(path, tuple(value.shape), value.dtype, lambda value=value: value)  # type: ignore[misc]
        for name, value in loaded.items()
    }


def _unpickle(path: Path) -> object:
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
    except Exception as error:  # the restricted unpickler raises almost anything on broken bytes
        raise RellmError(f"{path} is not a whole file of weights: {_first_line(error)}", todo=_AGAIN) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- into a model ----------------------------------------------------------------------------------------------------


def check_same(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object) -> None:
    """Both have the same names and shapes.

    Raises:
        RellmError: they differ; names `where` and the first tensor.
    """
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing:
        raise RellmError(f"{where} lacks the tensor {missing[0]}{_more(missing)}")
    if extra:
        raise RellmError(f"{where} holds the tensor {extra[0]}{_more(extra)}, which this model has not")
    for key, value in own.items():
        if value.shape != given[key].shape:
            raise RellmError(f"{where}: {key} has shape {list(given[key].shape)}, the model needs {list(value.shape)}")


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if names[1:] else ""


def load_into(module: nn.Module, weights: Mapping[str, Tensor], where: object, *, optional: Sequence[str] = ()) -> None:
    """Loads weights into a module, in place; all of them and no others, but for `optional` names.

    Raises:
        RellmError: names or shapes differ; names `where` and the tensor.
    """
    own = {key: value for key, value in module.state_dict().items() if key not in optional or key in weights}
    check_same(own, weights, where)
    module.load_state_dict(dict(weights), strict=False)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def grouped_reasons(left_out: Mapping[str, str]) -> list[str]:
    """Tensors that were left out, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"left out: {names[0]}{_more(names)} ({reason})" for reason, names in reasons.items()]
