"""Reading recordings: any usual file, any rate, any number of channels, to one float32 channel at one rate.

A recording is named by a path, by `archive.zip:offset:length` (also `.tar`; `:deflate` behind it for a compressed
member), or given as the bytes of an encoded file. Only the wanted segment is decoded. Several channels become their
mean: a recording with one speaker per channel should be split before.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt

from re_llm.audio import pyav as audio_av
from re_llm.audio.source import MEMBER, Source, open_bytes
from re_llm.audio.truncation import truncation
from re_llm.core.errors import RellmError

RATE = 16_000  # Hz, what both encoders take
MIN_SECONDS = 0.05  # the encoders need at least one analysis window
MAX_SECONDS = 600.0
COUNTED_SECONDS = 86_400.0  # of a recording whose header holds no length
RATES = (1_000, 768_000)  # Hz; outside of it a header is broken or malicious
USUAL_RATE = 48_000  # Hz; a segment holds at most the samples of its longest length at this rate
BLOCK_VALUES = 1 << 20  # decoded at once, of all channels: a file may name a thousand of them
END_TOLERANCE = 0.1  # s by which an annotated segment may run over the end of its file (rounded times)
SILENCE_PEAK = 1e-4  # -80 dBFS
CLIP_LEVEL, CLIP_FRACTION = 0.999, 0.01

# In the order in which a recording that is there in several formats is chosen.
WITH_AV = (".m4a", ".mp4", ".aac", ".webm", ".mkv", ".avi", ".mov", ".wma", ".3gp")
SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", *WITH_AV)

Samples = npt.NDArray[np.float32]
R = TypeVar("R")


@dataclass(frozen=True)
class AudioInfo:
    """Header of a recording: `rate` in Hz, `frames` per channel."""

    rate: int
    frames: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def _unreadable(name: str, why: object) -> RellmError:
    return RellmError(
        f"{name} is not audio that can be read: {why}",
        allowed="wav, flac, ogg, opus, mp3; m4a, mp4, webm, avi with the extra `av`",
        todo="A compressed member of a zip ends in :deflate" if MEMBER.match(name) else None,
    )


def _valid(info: AudioInfo, name: str) -> AudioInfo:
    if not RATES[0] <= info.rate <= RATES[1] or info.channels < 1 or info.frames < 0:
        raise _unreadable(name, f"its header says {info.rate} Hz, {info.channels} channels, {info.frames} frames")
    return info


def _handle(file: IO[bytes]) -> IO[bytes] | int:
    """The descriptor of a plain file, which libsndfile reads faster than a Python object."""
    return file.fileno() if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO) else file


def info(source: Source, *, root: str | os.PathLike[str] | None = None) -> AudioInfo:
    """Rate, channels and length from the header, without decoding.

    Raises:
        RellmError: missing, empty or unreadable file.
        MissingExtra: an m4a or mp4 file, and PyAV is not installed.
    """
    with open_bytes(source, root) as (file, size, name):
        _refuse_truncated(file, size, name)
        return _first_that_reads(
            name,
            file,
            lambda: _native_info(file, name),
            lambda: _valid(AudioInfo(*audio_av.probe(file, name, COUNTED_SECONDS)), name),
        )


def _refuse_truncated(file: IO[bytes], size: int, name: str) -> None:
    # Around the buffer of a plain file, which libsndfile reads by its descriptor.
    plain = file.raw if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO) else file
    missing = truncation(plain, size)
    if missing is not None:
        raise RellmError(f"{name} breaks off: {missing}", todo="Copy the file again")
    plain.seek(0)


def _native_info(file: IO[bytes], name: str) -> AudioInfo:
    import soundfile

    with soundfile.SoundFile(_handle(file), closefd=False) as sound:
        return _valid(AudioInfo(sound.samplerate, sound.frames, sound.channels), name)


def _first_that_reads(name: str, file: IO[bytes], native: Callable[[], R], av: Callable[[], R]) -> R:
    """libsndfile first, then PyAV; PyAV at once for suffixes that only it reads."""
    if os.path.splitext(name)[1].lower() in WITH_AV:
        return av()
    try:
        return native()
    except RellmError:
        raise
    except Exception as error:  # broken files make libsndfile raise its own and Python's errors
        unreadable = _unreadable(name, getattr(error, "error_string", error))
        if not audio_av.installed():
            raise unreadable from error
    _rewind(file)
    try:
        return av()
    except RellmError:
        raise unreadable from None


def _rewind(file: IO[bytes]) -> None:
    if isinstance(descriptor := _handle(file), int):
        os.lseek(descriptor, 0, os.SEEK_SET)  # libsndfile has moved it without the file object
    file.seek(0)


def load(
    source: Source,
    *,
    start: float = 0.0,
    duration: float | None = None,
    rate: int = RATE,
    max_seconds: float = MAX_SECONDS,
    root: str | os.PathLike[str] | None = None,
) -> Samples:
    """Samples of a recording, shape [T], float32, about -1..1, at `rate`.

    Args:
        source: path, `archive.zip:offset:length`, or the bytes of an encoded file.
        start: where the segment begins, in seconds.
        duration: how long it is, in seconds; None takes the rest.
        rate: wanted sampling rate in Hz.
        max_seconds: longest segment that is accepted, in seconds; it bounds the memory.
        root: folder that a relative path is relative to (the folder of the manifest).

    Raises:
        RellmError: missing, empty or unreadable file, a segment outside of the file, shorter than 0.05 s or longer
            than `max_seconds`, a recording that breaks off, samples that are not finite.
        MissingExtra: an m4a or mp4 file, and PyAV is not installed.
    """
    if start < 0 or (duration is not None and duration <= 0):
        raise RellmError(f"start={start}, duration={duration} is not a segment", allowed="start >= 0, duration > 0")
    with open_bytes(source, root) as (file, size, name):
        _refuse_truncated(file, size, name)
        wanted = (file, name, start, duration, max_seconds)
        samples, native = _first_that_reads(name, file, lambda: _native_samples(*wanted), lambda: _av_samples(*wanted))
    _refuse_not_finite(samples, name)
    resampled = resample(samples, native, rate)
    _refuse_not_finite(resampled, name)  # huge values overflow
    return resampled


def _refuse_not_finite(samples: Samples, name: str) -> None:
    wrong = int((~np.isfinite(samples)).sum())
    if wrong:
        raise RellmError(f"{name} holds {wrong} samples that are not finite (NaN, inf)")


def resample(samples: Samples, rate_in: int, rate_out: int) -> Samples:
    """Samples [T] at another rate (soxr, high quality)."""
    if rate_in == rate_out:
        return samples
    import soxr

    resampled: Samples = soxr.resample(samples, rate_in, rate_out).astype(np.float32, copy=False)
    return resampled


def _segment(info: AudioInfo, name: str, start: float, duration: float | None, max_seconds: float) -> tuple[int, int]:
    """First frame and number of frames of the wanted segment, checked against the file and the limits."""
    first = round(start * info.rate)
    left = info.frames - first
    frames = left if duration is None else round(duration * info.rate)
    if first and left <= 0:
        raise RellmError(f"the segment starts at {start:g} s, but {name} is only {info.seconds:.2f} s long")
    if frames - left > END_TOLERANCE * info.rate:
        raise RellmError(f"the segment {start:g} s + {duration:g} s runs over the end of {name} ({info.seconds:.2f} s)")
    frames = min(frames, left)
    if frames < MIN_SECONDS * info.rate:
        raise RellmError(f"{name} is too short: {frames / info.rate:.3f} s", allowed=f"{MIN_SECONDS} s and longer")
    if frames > max_seconds * min(info.rate, USUAL_RATE):
        high = f" at {info.rate} Hz" if info.rate > USUAL_RATE else ""
        raise RellmError(
            f"{name} is too long: {frames / info.rate:.1f} s{high}",
            allowed=f"up to max_seconds = {max_seconds:g} s at {USUAL_RATE} Hz or less"
            if high
            else f"up to max_seconds = {max_seconds:g} s",
            todo="Cut the recording, name a segment by start and duration, or raise max_seconds",
        )
    return first, frames


def _native_samples(
    file: IO[bytes], name: str, start: float, duration: float | None, max_seconds: float
) -> tuple[Samples, int]:
    import soundfile

    with soundfile.SoundFile(_handle(file), closefd=False) as sound:
        header = _valid(AudioInfo(sound.samplerate, sound.frames, sound.channels), name)
        first, frames = _segment(header, name, start, duration, max_seconds)
        if first:
            sound.seek(first)
        samples = np.empty(frames, dtype=np.float32)
        done, step = 0, max(1, BLOCK_VALUES // header.channels)
        while done < frames:
            block = sound.read(min(step, frames - done), dtype="float32", always_2d=True)
            if not len(block):
                break
            samples[done : done + len(block)] = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
            done += len(block)
    if frames - done > END_TOLERANCE * header.rate:
        raise RellmError(f"{name} breaks off: {done} of {frames} frames could be decoded", todo="Copy the file again")
    return samples[:done], header.rate


def _av_samples(
    file: IO[bytes], name: str, start: float, duration: float | None, max_seconds: float
) -> tuple[Samples, int]:
    most = start + max(max_seconds, duration or 0.0) + 1.0  # anything longer is refused
    header = _valid(AudioInfo(*audio_av.probe(file, name, most)), name)
    first, frames = _segment(header, name, start, duration, max_seconds)
    _rewind(file)
    samples = audio_av.decode(file, name, header.rate, first, frames)
    if frames - len(samples) > END_TOLERANCE * header.rate:
        raise RellmError(f"{name} breaks off: {len(samples)} of {frames} frames could be decoded")
    return samples, header.rate


def problems(samples: Samples) -> list[str]:
    """Defects of samples [T]: empty, not finite, silent, clipped. No defect: an empty list."""
    if not len(samples):
        return ["empty"]
    if not np.isfinite(samples).all():
        return ["samples that are not finite"]
    found = []
    level = np.abs(samples)
    peak = float(level.max())
    if peak < SILENCE_PEAK or float(np.ptp(samples)) < SILENCE_PEAK:
        found.append("silent")
    # A loud tone touches full scale; a clipped one stays there.
    flat = (level[1:] >= CLIP_LEVEL) & (samples[1:] == samples[:-1])
    fraction = float(flat.mean()) if len(flat) else 0.0
    if fraction > CLIP_FRACTION:
        found.append(f"clipped ({fraction:.0%} of the samples at full scale)")
    return found


def refuse_silence(samples: Samples, name: str) -> Samples:
    """The samples [T], if they are not silent. A model answers silence, too, with an emotion that nobody expressed.

    Raises:
        RellmError: nothing in them rises above -80 dBFS, a constant offset left aside.
    """
    if len(samples) and float(np.ptp(samples)) < SILENCE_PEAK:
        raise RellmError(
            f"{name} is silent",
            allowed="recordings with a peak above -80 dBFS",
            todo="Check the microphone, or the file",
        )
    return samples


def refuse_long(samples: Samples, name: str, max_seconds: float) -> Samples:
    """The samples [T] at `RATE`, if they last at most `max_seconds`.

    Raises:
        RellmError: they last longer than the context of the LLM allows.
    """
    if len(samples) > max_seconds * RATE:
        raise RellmError(
            f"{name} is too long for this LLM: {len(samples) / RATE:.1f} s",
            allowed=f"up to {max_seconds:g} s beside the prompt and the answer",
            todo="Cut the recording, or lower --max-new-tokens",
        )
    return samples


def sha256(source: Source, *, root: str | os.PathLike[str] | None = None) -> str:
    """Hash of the bytes of the file (or of the member), as hexadecimal text."""
    with open_bytes(source, root) as (file, _, _):
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def wav_bytes(samples: np.ndarray) -> bytes:
    """Samples [T] at 16 kHz as a 16-bit wav file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), RATE, subtype="PCM_16", format="WAV")
    return file.getvalue()
