"""How hard the voice world is: `python -m re_llm.mini.calibration` prints unweighted accuracies (UA).

Three listeners judge the same five emotions: the best one possible given the true prosody (`bayes`), and a linear
and a small neural classifier that measure 16 features on recordings of voices they have never heard, with the level
and without it, as behind a microphone of unknown gain. The overlap of
the emotions (`prosody.SEPARATION`) was chosen so that the network lands at .80 to .85 without the level.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from re_llm.core.workers import process_pool
from re_llm.mini.prosody import EMOTIONS, draw, posterior
from re_llm.mini.voices import SAMPLE_RATE, Synthesizer, generator, voices

FRAME, HOP = 640, 320  # 40 ms and 20 ms at 16 kHz
LEVEL = (7, 8)  # of the features of `measure`: mean and 95th percentile of the energy
SENTENCES = (
    "My brother told me about the parcel this morning.",
    "We are going to meet the new teacher after lunch on Friday.",
    "She left the keys of the garage on the kitchen table.",
    "The train to the city was standing at the second platform.",
    "I talked to our neighbour about the fence behind the house.",
    "They will send the letter to the office before the weekend.",
    "He said that the meeting about the garden starts at eight.",
    "There is something I want to tell you about the old camera.",
)


def measure(wave: np.ndarray, text: str) -> np.ndarray:
    """Sixteen features of a recording: pitch, energy, spectrum, timing; float64 [16], not normalised by speaker."""
    frames = sliding_window_view(wave.astype(np.float64), FRAME)[::HOP]
    energy = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10)
    pitch, voicing = _pitch(frames)
    speech = energy > np.percentile(energy, 90) - 22
    voiced = speech & (voicing > 0.5)
    if voiced.sum() < 8:
        voiced = voicing >= np.sort(voicing)[-8]
    semitones = 12 * np.log2(pitch[voiced])
    spectrum = np.mean(np.abs(np.fft.rfft(frames[voiced] * np.hanning(FRAME), axis=1)) ** 2, axis=0)
    hz = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    bands = [10 * np.log10(spectrum[(hz >= a) & (hz < b)].sum()) for a, b in ((80, 1000), (1000, 3000), (3000, 8000))]
    seconds = np.flatnonzero(speech)
    seconds = (seconds[-1] - seconds[0] + 1) * HOP / SAMPLE_RATE
    low, middle, high = np.percentile(semitones, [10, 50, 90])
    end = semitones[-12:]
    features = [
        *(low, middle, high, high - low, semitones.std(), end.mean() - middle, end[-4:].mean() - middle),
        *(energy[speech].mean(), np.percentile(energy, 95), energy[speech].std()),
        *(bands[0] - bands[1], bands[1] - bands[2], float(hz @ spectrum / spectrum.sum())),
        *(len(text) / seconds, voiced.sum() / speech.sum(), speech.mean()),
    ]
    return np.array(features)


def _pitch(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Autocorrelation pitch between 65 and 500 Hz: (Hz [T], strength 0..1 [T])."""
    window = np.hanning(FRAME)
    size = 2 * FRAME
    flat = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)[:FRAME]
    auto = np.fft.irfft(np.abs(np.fft.rfft((frames - frames.mean(1, keepdims=True)) * window, size)) ** 2)[:, :FRAME]
    auto = auto / (auto[:, :1] + 1e-12) / (flat / flat[0] + 1e-3)
    shortest, longest = SAMPLE_RATE // 500, SAMPLE_RATE // 65
    # A small bias against long periods keeps the first peak ahead of its multiples.
    lags = np.arange(shortest, longest)
    best = lags[np.argmax(auto[:, shortest:longest] - 0.0008 * lags, axis=1)]
    return SAMPLE_RATE / best, np.take_along_axis(auto, best[:, None], axis=1)[:, 0]


def _utterances(pool: str, count: int, condition: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 16] and emotion indices [count] of utterances in all voices of a pool."""
    synthesizer, everyone = Synthesizer(), voices(pool)
    rows, labels = [], []
    for index in range(count):
        rng = generator(seed, f"calibration/{pool}/{index}")
        text = SENTENCES[int(rng.integers(len(SENTENCES)))]
        label = int(rng.integers(len(EMOTIONS)))
        voice = everyone[index % len(everyone)]
        wave, _ = synthesizer.speak(text, voice, EMOTIONS[label], rng, condition=condition)
        rows.append(measure(wave, text))
        labels.append(label)
    return np.stack(rows), np.array(labels)


def bayes(count: int = 20_000, seed: int = 0) -> float:
    """UA of the best possible listener, who knows the six cues and the speaker's base exactly."""
    rng = np.random.default_rng(seed)
    right = []
    for index in range(count):
        emotion = EMOTIONS[index % len(EMOTIONS)]
        guess = posterior(draw(emotion, rng))
        right.append(max(guess, key=guess.__getitem__) == emotion)
    return float(np.mean(right))


def calibrate(*, train: int = 3000, test: int = 1000, condition: str = "room", seed: int = 0) -> dict[str, object]:
    """Measure the three listeners; about two minutes on two cores with the default numbers.

    Returns:
        `bayes`, `linear` and `network` (UA, 0..1), the last two also without the level, the network's confusion matrix
        [reference][guess], and the counts.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with process_pool(2) as pool:
        half = pool.submit(_utterances, "train", train, condition, seed)
        x_test, y_test = pool.submit(_utterances, "test", test, condition, seed).result()
        x_train, y_train = half.result()
    result: dict[str, object] = {"condition": condition, "train": train, "test": test, "bayes": round(bayes(), 3)}
    network = MLPClassifier((48, 24), alpha=0.3, max_iter=300, early_stopping=True, random_state=seed)
    levelless = [i for i in range(x_train.shape[1]) if i not in LEVEL]
    for name, model in (("linear", LogisticRegression(max_iter=2000)), ("network", network)):
        for suffix, used in (("", slice(None)), (" without level", levelless)):
            guess = make_pipeline(StandardScaler(), model).fit(x_train[:, used], y_train).predict(x_test[:, used])
            result[name + suffix] = round(float(balanced_accuracy_score(y_test, guess)), 3)
            if name == "network" and not suffix:
                result["confusion"] = confusion_matrix(y_test, guess).tolist()
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: one JSON object on standard output."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--condition", default="room")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(json.dumps(calibrate(**vars(options))))


if __name__ == "__main__":
    main()
