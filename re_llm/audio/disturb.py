"""What happens to speech on its way to a microphone and through a telephone: rooms, noise, level, band, codecs.

Waves are float32 [samples] at 16 kHz. Every draw comes from the given generator, so a disturbance can be repeated.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from re_llm.audio import pyav
from re_llm.audio.waveform import RATE, Samples, resample

TELEPHONE_HZ = (300.0, 3400.0)
NARROW_RATE = 8000  # Hz
ROOM_AMPLITUDE = (0.25, 0.5)  # amplitude of the room against the direct sound
POLES = (0.0, 0.97)  # between white and brown noise: fans, streets, tape hiss
COMPRESSION = (0.85, 0.97)  # of libsndfile: Opus from about 45 to 15 kbit/s
OPUS_BIT_RATES = (10_000, 32_000)  # bit/s: voice messages, calls on a poor line
OPUS_COMPLEXITY = 5  # two thirds of the time of 10, and the same spectrum
CODECS = (("OGG", "OPUS"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "ULAW"))


@dataclass(frozen=True)
class Disturbance:
    """How often each thing happens (0..1), and how strongly."""

    dry: float = 0.25
    """How often nothing happens at all."""
    room: float = 0.35
    reverberation: tuple[float, float] = (0.12, 0.7)
    """Time to decay by 60 dB, seconds."""
    noise: float = 0.5
    snr: tuple[float, float] = (6.0, 35.0)
    """dB against the whole recording."""
    narrow: float = 0.12
    telephone: float = 0.08
    codec: float = 0.15
    opus: float = 0.0
    """Opus of 10 to 32 kbit/s, two of three in its mode for voice, as browsers and telephones send it (extra `av`)."""
    gain: float = 0.6
    gain_db: tuple[float, float] = (-15.0, 10.0)


def disturb(wave: np.ndarray, rng: np.random.Generator, how: Disturbance = Disturbance()) -> tuple[Samples, list[str]]:
    """The wave as another recording of it might be, and what was done, in the order it was done."""
    done: list[str] = []
    if rng.random() < how.dry:
        return wave.astype(np.float32), done
    if rng.random() < how.room:
        wave = reverberate(wave, rng.uniform(*how.reverberation), rng)
        done.append("room")
    if rng.random() < how.noise:
        noise = coloured_noise(len(wave), rng)
        wave = wave + noise * np.sqrt(np.mean(wave**2)) * 10 ** (-rng.uniform(*how.snr) / 20)
        done.append("noise")
    band = rng.random()
    if band < how.narrow + how.telephone:
        wave = telephone(wave) if band < how.telephone else narrow(wave)
        done.append("telephone" if band < how.telephone else "narrow")
    if rng.random() < how.gain:
        wave = wave * 10 ** (rng.uniform(*how.gain_db) / 20)
        done.append("gain")
    wave = np.clip(wave, -1, 1)
    if rng.random() < how.codec:
        container, name = CODECS[int(rng.integers(len(CODECS)))]
        wave = coded(wave, container, name, float(rng.uniform(*COMPRESSION)))
        done.append(name.lower())
    elif how.opus and rng.random() < how.opus / (1 - how.codec):
        wave = through_opus(wave, int(rng.uniform(*OPUS_BIT_RATES)), voice=bool(rng.random() < 2 / 3))
        done.append("opus")
    return np.clip(wave, -1, 1).astype(np.float32), done


def reverberate(wave: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """The wave in a room whose sound decays by 60 dB in `seconds`; as long as before."""
    from scipy.signal import oaconvolve

    time = np.arange(int(seconds * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * np.exp(-6.9 * time / seconds)
    tail *= rng.uniform(*ROOM_AMPLITUDE) / np.linalg.norm(tail)
    tail[0] = 1.0
    return np.asarray(oaconvolve(wave, tail)[: len(wave)])


def coloured_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a drawn colour with an RMS of 1, float64 [samples]."""
    from scipy.signal import lfilter

    pole = rng.uniform(*POLES)
    noise = lfilter([1.0], [1, -pole], rng.standard_normal(samples))
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def narrow(wave: np.ndarray) -> np.ndarray:
    """What is left below 4 kHz."""
    low = resample(wave.astype(np.float32), RATE, NARROW_RATE)
    return _as_long(resample(low, NARROW_RATE, RATE), len(wave))


def telephone(wave: np.ndarray) -> np.ndarray:
    """What an analogue telephone lets through."""
    from scipy.signal import butter, sosfilt

    return np.asarray(sosfilt(butter(4, TELEPHONE_HZ, "bandpass", fs=RATE, output="sos"), wave))


def coded(wave: np.ndarray, container: str, codec: str, compression: float) -> np.ndarray:
    """The wave written and read with a lossy codec of libsndfile, one of `CODECS`.

    Args:
        compression: 0..1, where the codec has a choice; at 1 libsndfile refuses some.
    """
    import soundfile

    rate = NARROW_RATE if codec == "ULAW" else RATE
    level = None if codec == "ULAW" else compression
    file = io.BytesIO()
    soundfile.write(
        file, resample(wave.astype(np.float32), RATE, rate), rate, codec, format=container, compression_level=level
    )
    file.seek(0)
    back, native = soundfile.read(file, dtype="float32")
    return _as_long(resample(back, native, RATE), len(wave))


def through_opus(wave: np.ndarray, bit_rate: int, *, voice: bool = True) -> np.ndarray:
    """The wave written and read as Opus of so many bit/s; see `pyav.opus`."""
    coded = pyav.opus(wave.astype(np.float32), RATE, bit_rate, voice=voice, complexity=OPUS_COMPLEXITY)
    return _as_long(pyav.decode(io.BytesIO(coded), "Opus", RATE, 0, len(wave)), len(wave))


def _as_long(wave: np.ndarray, samples: int) -> np.ndarray:
    """Cut or padded with zeros to `samples`: codecs and resampling may move the end."""
    return np.pad(wave[:samples], (0, max(0, samples - len(wave))))
