"""The microphone, with a module in the place of sounddevice."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from re_llm.audio import microphone
from re_llm.core.errors import Failed, MissingExtra, RellmError

RATE = 48_000


class PortAudioError(Exception):
    pass


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A device of 48 kHz that gives what `sound` holds, block by block, as soon as it is opened."""
    made = ModuleType("sounddevice")

    class InputStream:
        def __init__(self, *, samplerate: int, channels: int, dtype: str, callback) -> None:
            assert (samplerate, channels, dtype) == (RATE, 1, "float32")
            self.callback = callback

        def __enter__(self) -> None:
            block = np.empty((480, 1), np.float32)  # the library uses its buffer again
            for first in range(0, len(made.sound), 480):
                block[:, 0] = made.sound[first : first + 480]
                self.callback(block, 480, None, None)

        def __exit__(self, *error: object) -> None:
            made.closed = True

    made.sound, made.closed, made.PortAudioError = np.zeros(0, np.float32), False, PortAudioError
    made.query_devices = lambda kind: {"default_samplerate": 48_000.0}
    made.InputStream = InputStream
    monkeypatch.setitem(sys.modules, "sounddevice", made)
    return made


def test_what_the_device_gives_is_recorded_at_its_rate(device: ModuleType) -> None:
    device.sound = np.sin(np.arange(RATE) / 20).astype(np.float32)
    samples, rate = microphone.record(lambda: None)
    assert rate == RATE and device.closed and np.array_equal(samples, device.sound)


def test_no_sound_no_device_and_too_much_are_told(device: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="no sound"):
        microphone.record(lambda: None)

    def gone(kind: str) -> None:
        raise PortAudioError("Error querying device -1")

    monkeypatch.setattr(microphone, "MAX_SECONDS", 0.5)
    device.sound = np.zeros(RATE, np.float32)
    with pytest.raises(RellmError, match="1 s long"):
        microphone.record(lambda: None)
    device.query_devices = gone
    with pytest.raises(Failed, match="device -1"):
        microphone.record(lambda: None)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtra, match=r"re-llm\[mic\]"):
        microphone.require()

    def no_library(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(microphone, "import_module", no_library)
    with pytest.raises(RellmError, match="libportaudio2"):
        microphone.require()
