"""The synthesisers behind the speakers: each turns a sentence into a wave at its own rate.

Piper and Kokoro run on onnxruntime with one thread and read espeak-ng's phonemes; Flite is a program of the system.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.parts import resolve_part
from re_llm.mini import prosody
from re_llm.mini.voices import Espeak, Synthesizer
from re_llm.mini.voices import voices as espeak_voices
from re_llm.small.speakers import Speaker

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ACCENT = "en-us"
LONGEST = 500  # phonemes that Kokoro has styles for
FEATURE = "Rendering speech"


class Engine(Protocol):
    """What every synthesiser does."""

    def say(self, text: str, speaker: Speaker, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A wave (float [samples]) and its sample rate; `rate` is a factor on the speaking rate."""
        ...


def _file(part: str, pattern: str) -> Path:
    """The one file of a part that is named like this.

    Raises:
        RellmError: the part or the file is not here.
    """
    folder = resolve_part(part)
    found = next(iter(sorted(folder.glob(pattern))), None)
    if found is None:
        raise RellmError(f"{folder} holds no {pattern}", todo=f"Delete it, then run: re-llm parts get {part}")
    return found


def _session(path: Path) -> InferenceSession:
    with MissingExtra.unless("onnxruntime", "small-build", FEATURE):
        from onnxruntime import InferenceSession, SessionOptions
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Piper:
    """A Piper voice: VITS with espeak-ng's phonemes."""

    def __init__(self) -> None:
        model = _file("voice", "*.onnx")
        self._session = _session(model)
        about = json.loads(model.with_name(model.name + ".json").read_text(encoding="utf-8"))
        self._ids, self._rate = about["phoneme_id_map"], int(about["audio"]["sample_rate"])
        self._noise, self._timing = about["inference"]["noise_scale"], about["inference"]["noise_w"]
        self._voice = about["espeak"]["voice"]
        self._espeak = Espeak()

    def say(self, text: str, speaker: Speaker, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        ids = list(self._ids["^"])
        for symbol in self._espeak.phonemes(text, self._voice):
            if symbol in self._ids:
                ids += self._ids["_"] + self._ids[symbol]
        ids += self._ids["_"] + self._ids["$"]
        feed = {
            "input": np.array([ids], dtype=np.int64),
            "input_lengths": np.array([len(ids)], dtype=np.int64),
            "scales": np.array([self._noise, 1 / rate, self._timing], dtype=np.float32),
        }
        return self._session.run(None, feed)[0].ravel(), self._rate


class Kokoro:
    """Kokoro-82M: styles are vectors, so a mixture of styles is one more voice."""

    RATE = 24_000

    def __init__(self) -> None:
        self._session = _session(_file("kokoro", "*.onnx"))
        self._ids = json.loads(_file("kokoro", "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(_file("kokoro", "*.npz")) as styles:
            self._styles = {name: styles[name] for name in styles}
        self._espeak = Espeak()

    def say(self, text: str, speaker: Speaker, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        symbols = self._espeak.phonemes(text, ACCENT)
        ids = [self._ids[symbol] for symbol in symbols if symbol in self._ids][:LONGEST]
        named = (part.split(":") for part in speaker.base.split(","))
        style = sum(float(weight) * self._styles[name][len(ids) - 1] for name, weight in named)
        feed = {
            "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
            "style": np.asarray(style, dtype=np.float32).reshape(1, -1),
            "speed": np.array([rate], dtype=np.float32),
        }
        return self._session.run(None, feed)[0].ravel(), self.RATE


class Flite:
    """CMU Flite's statistical voices."""

    def __init__(self) -> None:
        found = shutil.which("flite")
        if not found:
            raise RellmError(
                "the program flite is not installed",
                todo="Install it (Debian: apt install flite), or leave its voices out with --without flite",
            )
        self._program = found

    def say(self, text: str, speaker: Speaker, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        import soundfile

        setting = f"duration_stretch={1 / rate:.3f}"
        command = [self._program, "-voice", speaker.base, "--setf", setting, "-t", text, "-o", "/dev/stdout"]
        done = subprocess.run(command, capture_output=True)
        if done.returncode != 0:
            raise RellmError(f"flite could not say {text!r}: {done.stderr.decode(errors='replace').strip()}")
        return soundfile.read(io.BytesIO(done.stdout), dtype="float32")


class Robots:
    """The miniature's espeak-ng voices, with its prosody for variety; the speaking rate is their own."""

    def __init__(self) -> None:
        self._synthesizer = Synthesizer()
        self._voices = {voice.name: voice for pool in ("train", "test") for voice in espeak_voices(pool)}

    def say(self, text: str, speaker: Speaker, rate: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        emotion = prosody.EMOTIONS[int(rng.integers(len(prosody.EMOTIONS)))]
        strength = float(rng.uniform(0.0, 0.7))
        wave, _ = self._synthesizer.speak(text, self._voices[speaker.base], emotion, rng, strength=strength)
        return wave, 16_000


MAKERS: dict[str, Callable[[], Engine]] = {"piper": Piper, "kokoro": Kokoro, "flite": Flite, "espeak": Robots}
