"""Recordings as callers hold them (files, arrays with or without a rate, rows of a data set) as 16 kHz mono samples.

Whole numbers are scaled by their type, other rates resampled, channels averaged. What is ambiguous is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np

from re_llm.audio.waveform import MAX_SECONDS, RATE, RATES, Samples, load, resample
from re_llm.core.errors import RellmError

if TYPE_CHECKING:
    import torch

Encoded: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]"
Array: TypeAlias = "np.ndarray | torch.Tensor | Sequence[float]"
Audio: TypeAlias = "Encoded | Array | tuple[Array, int] | tuple[int, Array] | Mapping[str, object]"

ALLOWED = (
    "a path, bytes or a binary file; samples at 16 kHz (NumPy array, tensor, list); (samples, rate); "
    "a dict with array and sampling_rate, or with bytes or path"
)
MAX_CHANNELS = 16
MAX_PEAK = 4.0  # of floating-point samples; larger ones are whole numbers that nobody scaled


def describe(item: Audio) -> str:
    """What a message calls a recording: its path where it has one."""
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if isinstance(item, Mapping) and isinstance(item.get("path"), str) and item["path"]:
        return str(item["path"])
    if isinstance(item, bytes | bytearray | memoryview):
        return "the audio given as bytes"
    name = getattr(item, "name", None)
    return name if isinstance(name, str) and name else "the audio array"


def read(item: Audio) -> Samples:
    """Samples [T], float32, 16 kHz mono, of a recording of any kind (see `Audio`); an array alone is 16 kHz.

    Args:
        item: a two-dimensional array is [T, channels] or [channels, T]; the shorter side counts the channels.

    Raises:
        RellmError: see `re_llm.audio.waveform.load`; an array that is neither mono nor of at most 16 channels, whose
            rate is none, whose type is no sample type, whose values are not finite or beyond ±4, or that is too long.
    """
    name = describe(item)
    if isinstance(item, str) and not item:
        raise RellmError("an empty path names no recording")
    if isinstance(item, str | os.PathLike | bytes):
        return load(item)
    if isinstance(item, bytearray | memoryview):
        return load(bytes(item))
    if isinstance(item, Mapping):
        return _read_row(item)
    if callable(method := getattr(item, "read", None)):
        try:
            data = method()
        except (OSError, ValueError) as error:  # closed, or for writing
            raise RellmError(f"{name} cannot be read: {str(error).rstrip('.')}") from None
        if not isinstance(data, bytes):
            raise RellmError(f"{name} was opened as text", todo='Open it with mode "rb"')
        return load(data)
    if callable(method := getattr(item, "get_all_samples", None)):  # torchcodec's decoder, as datasets gives it
        decoded = method()
        return _samples(decoded.data, decoded.sample_rate, name)
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        return _samples(second, first, name) if _is_number(first) else _samples(first, second, name)
    return _samples(item, RATE, name)


def _read_row(row: Mapping[str, object]) -> Samples:
    """Of a column of `datasets` (`array`, `sampling_rate`; `bytes`, `path`), or of a pipeline's input (`raw`)."""
    name = describe(row)
    for key in ("array", "raw"):
        if row.get(key) is not None:
            return _samples(row[key], row.get("sampling_rate"), name)
    source = next((row[key] for key in ("bytes", "path") if row.get(key)), None)
    if not isinstance(source, str | os.PathLike | bytes):
        raise RellmError(f"a dict with {', '.join(map(str, row)) or 'no key'} is no recording", allowed=ALLOWED)
    return load(source)


def _is_number(value: object) -> bool:
    return isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())


def _samples(array: object, rate: object, name: str) -> Samples:
    if not _is_number(rate) or not RATES[0] <= int(rate) <= RATES[1]:  # type: ignore[call-overload]
        raise RellmError(
            f"{name} has the sampling rate {rate!r}", allowed=f"{RATES[0]} to {RATES[1]} Hz, a whole number"
        )
    wave = _mono(_scaled(_as_numpy(array, name), name), name)
    hertz = int(rate)  # type: ignore[call-overload]
    if len(wave) > MAX_SECONDS * hertz:
        raise RellmError(
            f"{name} is too long: {len(wave) / hertz:.1f} s", allowed=f"up to {MAX_SECONDS:g} s", todo="Cut it"
        )
    return resample(wave, hertz, RATE) if len(wave) else wave


def _as_numpy(array: object, name: str) -> np.ndarray:
    if callable(detach := getattr(array, "detach", None)):  # a tensor, on any device
        tensor = detach().cpu()
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    try:
        found = np.asarray(array)
    except ValueError:  # nested lists of different lengths
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "fiu" or not found.ndim:
        raise RellmError(
            f"{name} is of type {type(array).__name__} ({found.dtype}), which is no sound", allowed=ALLOWED
        )
    return found


def _scaled(array: np.ndarray, name: str) -> Samples:
    """Samples about -1..1; whole numbers by the range of their type, as sound files hold them."""
    if array.dtype in (np.int16, np.int32):
        return np.asarray(array / -float(np.iinfo(array.dtype).min), dtype=np.float32)
    if array.dtype == np.uint8:
        return np.asarray((array.astype(np.float32) - 128) / 128)
    if array.dtype.kind != "f":
        raise RellmError(
            f"{name} holds {array.dtype} samples, whose full scale is unknown",
            allowed="int16, int32, uint8, floating point",
        )
    if not np.isfinite(array).all():
        raise RellmError(f"{name} holds NaN or infinite samples")
    peak = float(np.abs(array).max(initial=0.0))
    if peak > MAX_PEAK:
        raise RellmError(
            f"{name} holds floating-point samples up to {peak:g}",
            allowed="about -1 to 1",
            todo="Divide by 32768 if they were 16-bit numbers",
        )
    return array.astype(np.float32)


def _mono(array: np.ndarray, name: str) -> Samples:
    """The mean of the channels."""
    if array.ndim == 1:
        return array
    if array.ndim != 2 or min(array.shape) > MAX_CHANNELS:
        raise RellmError(
            f"{name} has the shape {array.shape}", allowed=f"one dimension, or two with at most {MAX_CHANNELS} channels"
        )
    return np.asarray(array.mean(axis=int(np.argmin(array.shape))), dtype=np.float32)
