"""A recording from this machine's microphone, through sounddevice, the extra `mic`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import numpy as np

from re_llm.audio.waveform import MAX_SECONDS, Samples
from re_llm.core.errors import Failed, MissingExtra, RellmError

FEATURE = "The microphone"


def require() -> ModuleType:
    """The package sounddevice.

    Raises:
        MissingExtra: it is not installed.
        RellmError: the library PortAudio, which it needs, is not on this machine.
    """
    try:
        with MissingExtra.unless("sounddevice", "mic", FEATURE):
            return import_module("sounddevice")
    except OSError as error:
        raise RellmError(f"the microphone needs the library PortAudio: {error}", todo="Install libportaudio2") from None


def record(stop: Callable[[], object]) -> tuple[Samples, int]:
    """Samples [T] from the default microphone until `stop` returns, and their rate in Hz, that of the device.

    Raises:
        MissingExtra, RellmError: see `require`.
        Failed: there is no microphone, it cannot be used, or it gave nothing.
        RellmError: it went on for longer than a recording may.
    """
    device = require()
    blocks: list[np.ndarray] = []

    def take(block: np.ndarray, *_: object) -> None:
        blocks.append(block[:, 0].copy())

    try:
        rate = round(float(device.query_devices(kind="input")["default_samplerate"]))
        with device.InputStream(samplerate=rate, channels=1, dtype="float32", callback=take):
            stop()
    except (device.PortAudioError, ValueError) as error:
        raise Failed(
            f"the microphone cannot be used: {error}", todo="Check that one is connected and allowed"
        ) from None
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not len(samples):
        raise Failed("the microphone gave no sound", todo="Check that it is not used by another program")
    if len(samples) > MAX_SECONDS * rate:
        raise RellmError(f"the recording is {len(samples) / rate:.0f} s long", allowed=f"up to {MAX_SECONDS:g} s")
    return samples, rate
