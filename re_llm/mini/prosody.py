"""How an emotion sounds in the miniature world: overlapping draws of prosody, and what raters make of them.

Six quantities are drawn from a normal distribution per emotion, in units of the spread within an emotion, and
turned into physical ones by `UNITS`. Because the distributions are known, so is the best any listener could do
(`posterior`), and the simulated raters use just that: they judge the prosody that came out, not the intention.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

EMOTIONS = ("neutral", "happy", "angry", "sad", "surprise")
CUES = ("pitch", "range", "rate", "loudness", "tilt", "contour")

# Distances between emotions are multiplied by this; chosen with `re_llm.mini.calibration`.
SEPARATION = 2.2
MEANS: dict[str, tuple[float, ...]] = {
    #           pitch range  rate  loud  tilt contour
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "happy": (1.2, 1.2, 1.1, 0.8, 0.5, 0.4),
    "angry": (0.3, 0.3, 0.7, 2.1, 1.7, -1.1),
    "sad": (-1.0, -1.2, -1.3, -1.4, -1.1, -0.3),
    "surprise": (1.8, 1.4, -0.8, 0.4, 0.2, 1.9),
}
# Semitones, log of the range factor, log of the rate factor, dB, dB above 1 kHz, semitones at the end.
UNITS = np.array([1.5, 0.32, 0.080, 2.3, 2.5, 1.5])
# Mean tremor (semitones) and mean pause between words (10 ms) per emotion; both are half-normal or Poisson draws.
TREMOR = {"neutral": 0.06, "happy": 0.08, "angry": 0.10, "sad": 0.22, "surprise": 0.08}
PAUSE = {"neutral": 0.4, "happy": 0.3, "angry": 0.3, "sad": 1.0, "surprise": 0.5}

# Valence as raters perceive each emotion, 0..1; arousal and dominance are linear in the cues.
VALENCE = {"neutral": 0.50, "happy": 0.82, "angry": 0.18, "sad": 0.24, "surprise": 0.62}
AROUSAL_WEIGHTS = np.array([0.030, 0.025, 0.030, 0.050, 0.030, 0.010])
DOMINANCE_WEIGHTS = np.array([-0.012, 0.006, 0.020, 0.052, 0.045, -0.035])
WORDS_FRACTION = 0.4  # of valence, where the words are emotional
RATER_SPREAD = 0.05


@dataclass(frozen=True)
class Prosody:
    """One utterance's deviation from the speaker's own base."""

    pitch: float
    """Shift of the mean pitch, semitones."""
    range: float
    """Natural logarithm of the factor on the pitch range."""
    rate: float
    """Natural logarithm of the factor on the speaking rate."""
    loudness: float
    """dB."""
    tilt: float
    """dB added above about 1 kHz."""
    contour: float
    """Pitch at the end of the utterance against no change, semitones."""
    tremor: float
    """Amplitude of a 5.5 Hz pitch tremor, semitones."""
    pause: int
    """Extra gap between words, units of 10 ms."""

    def cues(self) -> np.ndarray:
        """The six normal cues in units of their spread within an emotion, float64 [6]."""
        return np.array([getattr(self, name) for name in CUES]) / UNITS

    def as_dict(self) -> dict[str, float]:
        """Rounded for a JSON line."""
        return {name: round(float(value), 4) for name, value in asdict(self).items()}


def draw(emotion: str, rng: np.random.Generator, *, strength: float = 1.0) -> Prosody:
    """Prosody of one utterance spoken with `emotion`; `strength` 0 is neutral, 1 the emotion in full."""
    centre = SEPARATION * strength * np.array(MEANS[emotion])
    cues = (centre + rng.standard_normal(len(CUES))) * UNITS
    tremor = abs(rng.standard_normal()) * (TREMOR["neutral"] + strength * (TREMOR[emotion] - TREMOR["neutral"]))
    pause = int(rng.poisson(PAUSE["neutral"] + strength * (PAUSE[emotion] - PAUSE["neutral"])))
    named = dict(zip(CUES, cues.tolist(), strict=True))
    return Prosody(**named, tremor=float(tremor), pause=min(pause, 4))


def posterior(prosody: Prosody) -> dict[str, float]:
    """Probability of each emotion given the six cues and equal priors: the best a listener could know."""
    cues = prosody.cues()
    score = np.array([-0.5 * np.sum((cues - SEPARATION * np.array(MEANS[e])) ** 2) for e in EMOTIONS])
    weight = np.exp(score - score.max())
    return dict(zip(EMOTIONS, (weight / weight.sum()).tolist(), strict=True))


def vad(prosody: Prosody, words_emotion: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Valence, arousal and dominance in 0..1, as the mean of several raters would give them.

    Valence mixes the emotion perceived in the voice with that of the words; arousal and dominance follow the voice.
    """
    valence = sum(p * VALENCE[emotion] for emotion, p in posterior(prosody).items())
    if words_emotion != "neutral":
        valence = (1 - WORDS_FRACTION) * valence + WORDS_FRACTION * VALENCE[words_emotion]
    cues = prosody.cues()
    arousal = 0.45 + float(AROUSAL_WEIGHTS @ cues)
    dominance = 0.48 + float(DOMINANCE_WEIGHTS @ cues)
    noisy = np.array([valence, arousal, dominance]) + RATER_SPREAD * rng.standard_normal(3)
    low_high = np.clip(noisy, 0.02, 0.98)
    return float(low_high[0]), float(low_high[1]), float(low_high[2])
