"""Containers that libsndfile does not read (m4a, mp4, webm, avi, aac), and Opus as telephones send it: extra `av`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from re_llm.core.errors import MissingExtra, RellmError

# Without the formats that refer to other files or addresses (playlists).
FORMATS = "aac,asf,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,ogg,wav,w64"
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "pipe"}

Samples = npt.NDArray[np.float32]


def installed() -> bool:
    """Whether PyAV can be imported."""
    try:
        return find_spec("av") is not None
    except ValueError:  # something else was imported under that name
        return False


def _av(name: str) -> Any:
    with MissingExtra.unless("av", "av", f"Reading {name}"):
        import av
    return av


@contextmanager
def _stream(file: IO[bytes], name: str) -> Iterator[tuple[Any, Any]]:
    """(container, its first sound track).

    Raises:
        RellmError: it is none, or holds no sound.
        MissingExtra: PyAV is not installed.
    """
    av = _av(name)
    try:
        with av.open(file, options=dict(OPTIONS), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise RellmError(f"{name} is not audio that can be read: it has no sound track")
            if container.streams.audio[0].codec_context is None:
                raise RellmError(f"{name} is not audio that can be read: its codec is unknown")
            yield container, container.streams.audio[0]
    except RellmError:
        raise
    except Exception as error:  # broken files make PyAV raise its own and Python's errors
        raise RellmError(f"{name} is not audio that can be read: {error or type(error).__name__}") from error


def probe(file: IO[bytes], name: str, most: float) -> tuple[int, int, int]:
    """(rate in Hz, frames per channel, channels) of a recording.

    A recording of a browser has no length in its header: its frames are decoded and counted.

    Args:
        most: seconds after which counting ends; a few megabytes can hold days of silence.
    """
    with _stream(file, name) as (container, stream):
        rate, channels = stream.rate or 0, stream.channels
        if stream.duration is not None:
            return rate, round(float(stream.duration * stream.time_base) * rate), channels
        if container.duration is not None:
            return rate, round(container.duration / 1e6 * rate), channels
        frames = 0
        for frame in container.decode(stream):
            frames += frame.samples
            if frames > most * rate:
                break
        return rate, frames, channels


def decode(file: IO[bytes], name: str, rate: int, first: int, frames: int) -> Samples:
    """Samples [frames] from frame `first` on, the mean of the channels; fewer where the recording breaks off.

    Decoded from the beginning, since a seek in a compressed stream lands on a packet, not on a sample.
    """
    with _stream(file, name) as (container, stream):
        resampler = _av(name).AudioResampler(format="fltp", rate=rate)
        pieces: list[Samples] = []
        at = 0
        for decoded in container.decode(stream):
            for frame in resampler.resample(decoded):
                block = frame.to_ndarray().mean(axis=0, dtype=np.float32)
                pieces.append(block[max(first - at, 0) : max(first + frames - at, 0)])
                at += len(block)
            if at >= first + frames:
                break
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.float32)


def opus(wave: Samples, rate: int, bit_rate: int, *, voice: bool = True, complexity: int = 10) -> bytes:
    """Samples [N] as an Ogg Opus file.

    Args:
        rate: of the samples, Hz; one of those that Opus has (8000, 12000, 16000, 24000, 48000).
        bit_rate: bit/s.
        voice: the mode for speech, which browsers and telephones choose; else that for any sound, as libsndfile writes.
        complexity: 0..10, the encoder's effort.

    Raises:
        MissingExtra: PyAV is not installed.
    """
    with MissingExtra.unless("av", "av", "Writing Opus"):
        import av
    file = io.BytesIO()
    options = {"application": "voip" if voice else "audio", "compression_level": str(complexity)}
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=rate, layout="mono", options=options)
        stream.bit_rate = bit_rate
        samples = np.clip(wave, -1, 1).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
