"""Recordings of every format that is read, made in memory."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile


def tone(seconds: float = 0.5, rate: int = 16_000, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    """A sine [T, channels]."""
    wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave] * channels, axis=1)


def written(kind: str, wave: np.ndarray, rate: int = 16_000, subtype: str | None = None) -> bytes:
    """A recording [T, channels] in a format of libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def encoded(
    kind: str, codec: str, wave: np.ndarray, rate: int, *, seekable: bool = True, title: str | None = None
) -> bytes:
    """A recording [T] in a container that libsndfile does not write."""
    av = pytest.importorskip("av", reason="the extra `av` is not installed")
    buffer = io.BytesIO()
    if not seekable:
        buffer.seekable = lambda: False  # the length cannot be written into the beginning afterwards
        buffer.seek = None
    with av.open(buffer, "w", format=kind) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for at in range(0, len(wave), 960):
            block = wave[None, at : at + 960].astype(np.float32)
            planar = stream.codec_context.format.name == "fltp"
            block = block if planar else (block * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="fltp" if planar else "s16", layout="mono")
            frame.rate, frame.pts = rate, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def with_list_chunk(wav: bytes, text: bytes) -> bytes:
    """The WAV with a title in an INFO chunk before its samples."""
    padded = text + b"\0" * (2 - len(text) % 2)
    info = b"INFOINAM" + struct.pack("<I", len(padded)) + padded
    chunk = b"LIST" + struct.pack("<I", len(info)) + info
    return wav[:4] + struct.pack("<I", struct.unpack("<I", wav[4:8])[0] + len(chunk)) + wav[8:12] + chunk + wav[12:]


def originals() -> dict[str, list[bytes]]:
    """Sound recordings of a third of a second, by suffix: what the fuzzers damage."""
    wave = tone(0.3, 16_000)
    loud = tone(0.3, 48_000)[:, 0]
    wav = written("WAV", wave)
    return {
        ".wav": [
            wav,
            written("WAV", wave, subtype="FLOAT"),
            written("WAV", tone(0.3, 16_000, 2), subtype="PCM_24"),
            written("WAVEX", wave),
            written("WAV", wave, subtype="MS_ADPCM"),
            with_list_chunk(wav, "Déjà vu".encode("latin-1")),
            written("RF64", wave),
        ],
        ".flac": [written("FLAC", wave), written("FLAC", tone(0.3, 48_000, 2), 48_000, "PCM_24")],
        ".ogg": [written("OGG", wave, subtype="VORBIS"), written("OGG", wave, subtype="OPUS")],
        ".mp3": [written("MP3", wave)],
        ".m4a": [encoded("ipod", "aac", loud, 48_000, title="ä" * 9), encoded("mp4", "aac", loud, 48_000)],
        ".webm": [
            encoded("webm", "libopus", loud, 48_000, title="ä" * 9),
            encoded("webm", "libopus", loud, 48_000, seekable=False),
            encoded("matroska", "pcm_s16le", loud, 48_000, title="ä" * 9),
        ],
    }
