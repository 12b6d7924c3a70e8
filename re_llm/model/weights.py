"""Reading weights: safetensors only, by name, with errors that say which file and which tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging

from re_llm.core.errors import RellmError
from re_llm.model.stored import PICKLED, PICKLED_INDEX, WEIGHTS, WEIGHTS_INDEX, read_shards, stored_tensors

LORA_WEIGHTS, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
LORA_FOLDER = "lora"  # on the hub; see `push`


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' table of missing tensors: they are checked here, and it would only repeat that."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read_weights(folder: Path, prefixes: Sequence[str] = ("",), *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Tensors of a model folder (one file or shards) whose names begin with one of `prefixes`.

    Args:
        allow_pickle: also read `pytorch_model*.bin`, with torch's restricted unpickler.

    Raises:
        RellmError: no weights, a missing shard, a truncated file, a pickle that holds anything but tensors.
    """
    if (folder / WEIGHTS).is_file():
        return read_file(folder / WEIGHTS, prefixes)
    if (folder / WEIGHTS_INDEX).is_file():
        weights: dict[str, Tensor] = {}
        for shard, names in read_shards(folder / WEIGHTS_INDEX).items():
            if any(name.startswith(tuple(prefixes)) for name in names):
                weights.update(read_file(folder / shard, prefixes))
        return weights
    pickled = (folder / PICKLED).is_file() or (folder / PICKLED_INDEX).is_file()
    if pickled and allow_pickle:
        held = stored_tensors(folder)
        return {key: value.read() for key, value in held.items() if key.startswith(tuple(prefixes))}
    raise RellmError(
        f"{folder} has no {WEIGHTS}",
        allowed="weights as safetensors" + ("; allow_pickle=True reads its pickle" if pickled else ""),
    )


def read_file(path: Path, prefixes: Sequence[str] = ("",)) -> dict[str, Tensor]:
    """Tensors of one safetensors file whose names begin with one of `prefixes`.

    Raises:
        RellmError: the file is missing or truncated.
    """
    if not path.is_file():
        raise RellmError(f"{path} is missing", todo="Copy or download the whole folder again")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if key.startswith(tuple(prefixes))}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RellmError(
            f"{path} is not a whole safetensors file: {error}", todo="Copy or download it again"
        ) from error


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


def lora_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """The PEFT weights of a checkpoint, and the name of their file.

    Raises:
        RellmError: the file is missing or truncated.
    """
    path = lora_file(folder)
    return read_file(path), str(path)


def lora_file(folder: Path) -> Path:
    """Where the PEFT weights of a checkpoint are."""
    moved = folder / LORA_FOLDER / LORA_WEIGHTS
    return moved if moved.is_file() else folder / LORA_WEIGHTS
