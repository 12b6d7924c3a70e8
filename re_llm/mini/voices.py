"""Speech for the miniature world: espeak-ng through its wheel, many voices, emotion as prosody, rooms and noise.

`Synthesizer.speak` is a pure function of its arguments: the library keeps hidden state from one utterance to the
next, so it is loaded afresh for each (about 3 ms), and the order of rendering does not matter.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr
from scipy.signal import lfilter

from re_llm.audio.disturb import coloured_noise, reverberate
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.mini.prosody import Prosody, draw

SAMPLE_RATE = 16_000
BASE_LEVEL_DB = -30.0  # RMS of an average voice, neutral, against full scale: leaves room for anger
REFERENCE_TEXT = "My brother told me about the parcel this morning."
TREMOR_HZ = 5.5
CONTOUR_SECONDS = 0.8  # how much of the end the final contour takes
PITCH_STEPS = 6.2  # espeak's pitch parameter per semitone, measured around its default 50
QUESTION_FROM = 2.0  # final contour (semitones) from which espeak's own question melody is added
BASE_BRIGHTNESS_DB, EQUALIZED = -5.0, 0.8  # the microphone's correction of voices that are dull or sharp by themselves
BASE_RANGE = 45  # espeak's pitch range parameter, 0..99

ACCENTS = ("en-us", "en-gb-x-rp", "en-us-nyc", "en-us", "en-gb-scotland", "en-us")
# Variants and their median pitch (Hz, measured at espeak's defaults), which is moved towards a common one per gender.
# Test voices use variants that no training voice has, so "unseen" is more than another pitch.
VARIANTS: dict[tuple[str, str], dict[str, int]] = {
    ("f", "train"): {
        "f1": 181, "f2": 197, "f4": 181, "Andrea": 245, "Alicia": 251, "aunty": 172,
        "shelby": 184, "steph": 185, "linda": 230, "belinda": 232, "steph2": 185,
    },
    ("m", "train"): {
        "m1": 96, "m2": 102, "m3": 107, "m4": 97, "m6": 102, "Alex": 105, "Andy": 97,
        "Gene": 96, "adam": 104, "ed": 127, "john": 104, "norbert": 104, "pablo": 115,
    },
    ("f", "test"): {"f3": 216, "f5": 208, "Annie": 245, "anika": 272},
    ("m", "test"): {"m5": 103, "m7": 109, "max": 105, "edward": 104, "Gene2": 116, "miguel": 113},
}  # fmt: skip
PITCH_HZ = {"f": 202.0, "m": 105.0}
POOLS = ("train", "test")
COUNTS = {"train": 24, "test": 16}  # voices per gender


@dataclass(frozen=True)
class Voice:
    """One speaker: an espeak voice and variant, moved a little in every respect that tells people apart."""

    name: str
    gender: str
    """`f` or `m`."""
    pool: str
    """`train` or `test`."""
    espeak: str
    """espeak's voice name, for example `en-us+f2`."""
    pitch: float
    """Base pitch against the variant's own, semitones."""
    words_per_minute: float
    formant: float
    """Factor on all formants (length of the vocal tract)."""
    tilt: float
    """Brightness, dB above about 1 kHz."""
    level: float
    """Habitual loudness, dB against `BASE_LEVEL_DB`."""


@dataclass(frozen=True)
class Condition:
    """Where a recording was made."""

    snr: tuple[float, float]
    """Range of the signal-to-noise ratio against the voice's neutral level, dB."""
    reverberation: tuple[float, float]
    """Range of the reverberation time, seconds; (0, 0) is none."""


CONDITIONS = {
    "studio": Condition(snr=(28.0, 34.0), reverberation=(0.0, 0.0)),
    "room": Condition(snr=(22.0, 30.0), reverberation=(0.10, 0.25)),
    "field": Condition(snr=(15.0, 26.0), reverberation=(0.12, 0.40)),
}


@cache
def voices(pool: str) -> tuple[Voice, ...]:
    """All voices of a pool (`train`: 48, `test`: 32), women and men in turn; always the same ones."""
    made = []
    for index in range(2 * COUNTS[pool]):
        gender = "fm"[index % 2]
        rng = np.random.default_rng([POOLS.index(pool), index])
        variants = VARIANTS[gender, pool]
        variant = list(variants)[(index // 2) % len(variants)]
        accent = ACCENTS[(index // 2) % len(ACCENTS)]
        made.append(
            Voice(
                name=f"{pool}{index:02d}{gender}",
                gender=gender,
                pool=pool,
                espeak=f"{accent}+{variant}",
                pitch=float(12 * np.log2(PITCH_HZ[gender] / variants[variant]) + rng.uniform(-1.2, 1.2)),
                words_per_minute=float(rng.uniform(165, 182)),
                formant=float(rng.uniform(0.94, 1.07)),
                tilt=float(rng.uniform(-1.5, 1.5)),
                level=float(rng.uniform(-1.5, 1.5)),
            )
        )
    return tuple(made)


class Espeak:
    """espeak-ng's C interface, as much of it as is needed here."""

    RATE, VOLUME, PITCH, RANGE, WORD_GAP = 1, 2, 3, 4, 7
    _CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    _SYNCHRONOUS, _UTF8, _IPA = 2, 1, 2

    def __init__(self) -> None:
        with MissingExtra.unless("espeakng-loader", "mini", "Building the miniature world"):
            import espeakng_loader
        self._path, self._data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        self._pieces: list[np.ndarray] = []
        self._callback = self._CALLBACK(self._receive)

    def _receive(self, wave: ctypes._Pointer, count: int, _events: int | None) -> int:
        if wave and count > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    @contextmanager
    def _loaded(self, voice: str) -> Iterator[tuple[ctypes.CDLL, int]]:
        """The library with a voice, and the sample rate.

        Raises:
            RellmError: this build of espeak-ng does not know the voice.
        """
        library = ctypes.CDLL(self._path)
        try:
            rate = library.espeak_Initialize(self._SYNCHRONOUS, 0, str(self._data).encode(), 0)
            if rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise RellmError(f"espeak-ng could not load the voice {voice!r}", todo="Reinstall espeakng-loader")
            yield library, int(rate)
            library.espeak_Terminate()
        finally:  # with the library goes the state that it keeps between utterances
            free = "FreeLibrary" if sys.platform == "win32" else "dlclose"
            getattr(_ctypes, free)(library._handle)

    def say(self, text: str, voice: str, parameters: dict[int, int]) -> tuple[np.ndarray, int]:
        """Render `text`: (int16 [samples], sample rate).

        Raises:
            RellmError: this build of espeak-ng does not know the voice, or returned no sound.
        """
        self._pieces.clear()
        with self._loaded(voice) as (library, rate):
            library.espeak_SetSynthCallback(self._callback)
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # of breath noise; Initialize seeds it by the clock
            for parameter, value in parameters.items():
                library.espeak_SetParameter(parameter, value, 0)
            data = text.encode()
            none = ctypes.c_void_p(None)
            size = ctypes.c_size_t(len(data) + 1)
            library.espeak_Synth(data, size, ctypes.c_uint(0), 0, ctypes.c_uint(0), self._UTF8, none, none)
        if not any(piece.any() for piece in self._pieces):
            raise RellmError(f"espeak-ng made no sound of {text!r}", todo="Give it words to speak")
        return np.concatenate(self._pieces), rate

    def phonemes(self, text: str, voice: str) -> str:
        """International phonetic alphabet; punctuation stays where it was.

        Raises:
            RellmError: this build of espeak-ng does not know the voice.
        """
        with self._loaded(voice) as (library, _):
            translate = library.espeak_TextToPhonemes
            translate.restype = ctypes.c_char_p
            said = []
            for piece in re.findall(r"[^,.;:!?]+|[,.;:!?]+", text):
                if piece[0] in ",.;:!?":
                    said.append(piece[0] + " ")
                    continue
                rest = ctypes.c_char_p(piece.encode())
                while rest.value:  # one clause a call
                    said.append((translate(ctypes.byref(rest), self._UTF8, self._IPA) or b"").decode())
        return "".join(said).strip()


class Synthesizer:
    """Speaks a text in a voice with an emotion."""

    def __init__(self) -> None:
        self._espeak = Espeak()
        self._profiles: dict[str, tuple[float, float]] = {}

    def speak(
        self,
        text: str,
        voice: Voice,
        emotion: str,
        rng: np.random.Generator,
        *,
        strength: float = 1.0,
        condition: str = "studio",
    ) -> tuple[np.ndarray, Prosody]:
        """Render one utterance.

        Args:
            emotion: one of `prosody.EMOTIONS`.
            strength: how fully the emotion is expressed; 0 is neutral.
            condition: a key of `CONDITIONS`.

        Returns:
            The wave (float32 [samples], 16 kHz, -1..1, level as spoken) and the prosody that was drawn.
        """
        prosody = draw(emotion, rng, strength=strength)
        level, brightness = self._profile(voice)
        gain = 10 ** ((BASE_LEVEL_DB + voice.level + prosody.loudness - level) / 20)
        tilt = voice.tilt + prosody.tilt + EQUALIZED * (BASE_BRIGHTNESS_DB - brightness)
        wave = self._dry(text, voice, prosody, phase=float(rng.uniform(0, 2 * np.pi)))
        wave = gain * _shelf(wave, tilt)
        return _record(wave, voice, CONDITIONS[condition], rng), prosody

    def _dry(self, text: str, voice: Voice, prosody: Prosody, *, phase: float) -> np.ndarray:
        """The voice alone at 16 kHz, float64 [samples], at the level espeak gives it."""
        espeak = Espeak
        semitones = voice.pitch + prosody.pitch - 12 * np.log2(voice.formant)
        parameters = {
            espeak.RATE: round(voice.words_per_minute * np.exp(prosody.rate) / voice.formant),
            espeak.VOLUME: 70,
            espeak.PITCH: int(np.clip(round(50 + PITCH_STEPS * semitones), 0, 99)),
            espeak.RANGE: int(np.clip(round(BASE_RANGE * np.exp(prosody.range)), 0, 99)),
            espeak.WORD_GAP: prosody.pause,
        }
        if prosody.contour > QUESTION_FROM:
            text = text.rstrip(".!? ") + "?"
        samples, rate = self._espeak.say(text, voice.espeak, parameters)
        wave = _bend(samples / 32768, rate, prosody.contour, prosody.tremor, phase)
        # Played faster, every formant moves up; pitch and rate above were set to make up for it.
        return soxr.resample(wave, rate * voice.formant, SAMPLE_RATE)

    def _profile(self, voice: Voice) -> tuple[float, float]:
        """RMS level (dB) and brightness (dB above against below 1 kHz) of the voice as espeak renders it.

        The variants differ by up to 15 dB in both, which would drown the emotion.
        """
        if voice.name not in self._profiles:
            plain = Prosody(pitch=0, range=0, rate=0, loudness=0, tilt=0, contour=0, tremor=0, pause=0)
            wave = self._dry(REFERENCE_TEXT, voice, plain, phase=0.0)
            low = np.mean(_low(wave) ** 2)
            high = np.mean((wave - _low(wave)) ** 2)
            self._profiles[voice.name] = (float(10 * np.log10(np.mean(wave**2))), float(10 * np.log10(high / low)))
        return self._profiles[voice.name]


def _bend(wave: np.ndarray, rate: int, contour: float, tremor: float, phase: float) -> np.ndarray:
    """Bend the pitch at the end by `contour` semitones and let it tremble, by reading at a varying speed."""
    time = np.arange(len(wave)) / rate
    towards_end = np.clip(1 - (time[-1] - time) / CONTOUR_SECONDS, 0, 1)
    semitones = contour * towards_end + tremor * np.sin(2 * np.pi * TREMOR_HZ * time + phase)
    moments = np.cumsum(2 ** (-semitones / 12))  # when each input sample is heard, in output samples
    index = np.arange(len(wave))
    return np.interp(np.interp(np.arange(int(moments[-1])), moments, index), index, wave)


def _low(wave: np.ndarray, corner_hz: float = 1000.0) -> np.ndarray:
    """First-order low pass."""
    pole = np.exp(-2 * np.pi * corner_hz / SAMPLE_RATE)
    return lfilter([1 - pole], [1, -pole], wave)


def _shelf(wave: np.ndarray, gain_db: float) -> np.ndarray:
    """First-order high shelf at 1 kHz: brighter (vocal effort) or duller."""
    low = _low(wave)
    return low + 10 ** (gain_db / 20) * (wave - low)


def _record(wave: np.ndarray, voice: Voice, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Put the voice into a room with some noise and silence around it; float32, limited to -1..1."""
    wave = np.pad(wave, (int(rng.uniform(0.08, 0.25) * SAMPLE_RATE), int(rng.uniform(0.15, 0.35) * SAMPLE_RATE)))
    seconds = rng.uniform(*condition.reverberation)
    if seconds > 0:
        wave = reverberate(wave, seconds, rng)
    noise = coloured_noise(len(wave), rng)
    level = BASE_LEVEL_DB + voice.level - rng.uniform(*condition.snr)
    wave = wave + noise * 10 ** (level / 20)
    return np.clip(wave, -1, 1).astype(np.float32)


def generator(seed: int, key: str) -> np.random.Generator:
    """The random generator of the utterance `key`: the same in whatever order utterances are made."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))
