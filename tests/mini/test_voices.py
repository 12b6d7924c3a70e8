"""The voice world: same in every order, disjoint voices, emotions that can be heard."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="needs the extra 'mini'")

from re_llm.core.errors import RellmError
from re_llm.mini import calibration
from re_llm.mini.prosody import CUES, EMOTIONS, UNITS, Prosody, draw, posterior, vad
from re_llm.mini.voices import PITCH_STEPS, SAMPLE_RATE, Espeak, Synthesizer, _bend, generator, voices

TEXT = "We are going to meet the new teacher after lunch on Friday."


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def test_speech_is_the_same_in_any_order(synthesizer):
    first, second = voices("train")[0], voices("test")[3]
    wave, prosody = synthesizer.speak(TEXT, first, "happy", generator(0, "a"), condition="field")
    synthesizer.speak("Something else.", second, "sad", generator(0, "b"))
    again, prosody_again = Synthesizer().speak(TEXT, first, "happy", generator(0, "a"), condition="field")
    assert np.array_equal(wave, again) and prosody == prosody_again
    other, _ = synthesizer.speak(TEXT, first, "happy", generator(1, "a"), condition="field")
    assert len(other) != len(wave) or not np.array_equal(other, wave)


def test_speech_is_16_khz_mono_and_of_plausible_length_and_level(synthesizer):
    wave, _ = synthesizer.speak(TEXT, voices("train")[1], "neutral", generator(0, "n"))
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert 2.0 < len(wave) / SAMPLE_RATE < 6.0
    assert -45 < 20 * np.log10(wave.std()) < -18
    assert np.abs(wave).max() <= 1.0


def test_voices_are_distinct_balanced_and_pools_share_no_variant():
    train, test = voices("train"), voices("test")
    assert len(train) >= 40 and len(train) + len(test) >= 64
    assert len({voice.name for voice in train + test}) == len(train + test)
    assert len({(v.espeak, v.pitch, v.formant) for v in train + test}) == len(train + test)
    for pool in (train, test):
        assert 2 * sum(voice.gender == "f" for voice in pool) == len(pool)
    variants = [{voice.espeak.split("+")[1] for voice in pool} for pool in (train, test)]
    assert not variants[0] & variants[1]


def test_an_unknown_voice_and_empty_text_are_named():
    with pytest.raises(RellmError, match="xx-nowhere"):
        Espeak().say(TEXT, "xx-nowhere", {})
    with pytest.raises(RellmError, match="no sound"):
        Espeak().say("", "en-us", {})


def test_measured_recordings_follow_the_prosody_drawn(synthesizer):
    measured = {}
    for emotion in ("angry", "sad", "surprise", "neutral"):
        rows = []
        for index in range(8):
            wave, _ = synthesizer.speak(TEXT, voices("train")[index], emotion, generator(0, f"{emotion}{index}"))
            rows.append(calibration.measure(wave, TEXT))
        measured[emotion] = np.mean(rows, axis=0)
    names = {"median": 1, "end": 6, "loudness": 7, "dullness": 10, "rate": 13}
    heard = {emotion: {name: row[place] for name, place in names.items()} for emotion, row in measured.items()}
    assert heard["angry"]["loudness"] > heard["neutral"]["loudness"] + 4 > heard["sad"]["loudness"] + 4
    assert heard["angry"]["dullness"] < heard["neutral"]["dullness"] < heard["sad"]["dullness"]
    assert heard["sad"]["rate"] < heard["neutral"]["rate"] < heard["angry"]["rate"]
    assert heard["surprise"]["median"] > heard["neutral"]["median"] + 2
    assert heard["surprise"]["end"] > heard["neutral"]["end"] + 1


@pytest.mark.parametrize("semitones", [-3.0, 4.0])
def test_bend_moves_the_pitch_of_the_end_alone(semitones):
    rate = 22_050
    tone = np.sin(2 * np.pi * 200 * np.arange(3 * rate) / rate)
    bent = _bend(tone, rate, semitones, 0.0, 0.0)

    def hertz(piece: np.ndarray) -> float:
        return float(np.argmax(np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 16 * rate))) / 16)

    assert hertz(bent[: 2 * rate]) == pytest.approx(200, abs=1)
    assert hertz(bent[-1000:]) == pytest.approx(200 * 2 ** (semitones / 12), rel=0.03)
    assert (len(bent) < len(tone)) == (semitones > 0)


def test_espeak_pitch_steps_are_semitones():
    espeak = Espeak()
    medians = []
    for pitch in (50, 50 + round(3 * PITCH_STEPS)):
        wave, rate = espeak.say(TEXT, "en-us+f2", {espeak.PITCH: pitch})
        frames = np.lib.stride_tricks.sliding_window_view(wave / 32768, calibration.FRAME)[:: calibration.HOP]
        pitch_hz, voicing = calibration._pitch(frames)
        medians.append(12 * np.log2(np.median(pitch_hz[voicing > 0.6]) * rate / SAMPLE_RATE))
    assert medians[1] - medians[0] == pytest.approx(3, abs=0.8)


def test_emotions_overlap_but_can_be_told_apart():
    assert 0.97 < calibration.bayes(4000) < 0.999


def test_strength_zero_is_neutral_on_average():
    rng = np.random.default_rng(0)
    cues = np.mean([draw("angry", rng, strength=0.0).cues() for _ in range(2000)], axis=0)
    assert np.abs(cues).max() < 0.1


def test_cues_are_the_first_fields_in_units_of_their_spread():
    prosody = Prosody(*UNITS.tolist(), tremor=0.0, pause=0)
    assert list(prosody.as_dict())[: len(CUES)] == list(CUES)
    assert np.allclose(prosody.cues(), 1)


def test_vad_means_are_sensible():
    rng = np.random.default_rng(0)
    mean = {e: np.mean([vad(draw(e, rng), "neutral", rng) for _ in range(500)], axis=0) for e in EMOTIONS}
    valence, arousal, dominance = ({e: mean[e][k] for e in EMOTIONS} for k in range(3))
    assert valence["happy"] > valence["neutral"] > max(valence["sad"], valence["angry"])
    assert min(arousal["happy"], arousal["angry"]) > arousal["neutral"] > arousal["sad"]
    assert dominance["angry"] == max(dominance.values()) and dominance["sad"] < dominance["neutral"]
    prosody = draw("neutral", rng)
    with_words = np.mean([vad(prosody, "happy", rng)[0] for _ in range(50)])
    assert with_words > np.mean([vad(prosody, "neutral", rng)[0] for _ in range(50)]) + 0.05
    assert sum(posterior(prosody).values()) == pytest.approx(1)
