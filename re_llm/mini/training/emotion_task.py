"""What the miniature's emotion encoder is trained by.

Shapes: B batch, N samples (16 kHz), T frames (50/s), C channels of the convolutions, D width.

Arousal, dominance and valence by concordance, and two heads that exist in training only and are not saved. One
tells the five emotions from the embedding, so that the embedding keeps them apart and not only the three dimensions.
The other reads a coarse log-mel spectrum and the pitch off the convolutions' output; it spares them from finding
out for themselves, from a few thousand labels, that pitch and loudness matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import torch
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from re_llm.audio.disturb import Disturbance, disturb
from re_llm.audio.waveform import RATE
from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.core.workers import process_pool
from re_llm.mini.training import speech_data
from re_llm.mini.training.emotion_model import BANDS, DIMENSIONS, STRIDES, EmotionNet, pad_waves
from re_llm.model.losses import IGNORE_INDEX
from re_llm.model.recordings import normalized

HOP = int(np.prod(STRIDES))  # samples a frame
PITCH_LOW, PITCH_HIGH = 60, 400  # Hz, range of the pitch that the acoustic head learns


@dataclass(frozen=True)
class EmotionSteps:
    """What the training steps are made of."""

    batch: int = 32
    crop: float = 3.5
    """Longest piece of an utterance in a batch, seconds; longer ones are cut at a random place."""
    disturbance: Disturbance = field(default_factory=partial(Disturbance, dry=0.35, room=0.2, opus=0.45, gain=0.0))
    """Rooms, noise, bands and codecs, drawn for each utterance of a batch. The level is normalised away."""
    silence: float = 0.3
    """How often there is digital silence at both ends, as in front of a file that was padded or a microphone that was
    switched on late."""
    silence_seconds: tuple[float, float] = (0.0, 0.4)
    """At each end; a person's recording keeps no more (`re_llm.audio.speech`)."""
    class_weight: float = 0.5
    """Weight of the five-class cross-entropy; the concordance loss has 1."""
    acoustic_weight: float = 0.5
    """Weight of the frame-wise spectrum and pitch at the start; it falls to a fifth of it."""
    acoustic_rows: int = 12
    """Utterances of a batch that spectrum and pitch are computed for; they cost as much as a layer."""


@cache
def _mel_bands() -> torch.Tensor:
    """Triangular filters [201, BANDS] on the bins of a 400-point transform."""
    filters = mel_filter_bank(201, BANDS, 50.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


def acoustics(waves: torch.Tensor, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the acoustic head learns, from waves [B, N]: targets [B, frames, ACOUSTICS] and where the pitch counts.

    The spectrum is a scaled log power (the waves are normalised); the pitch is the highest peak of the
    autocorrelation, in octaves around 160 Hz, and counts where its height (the voicing) exceeds 0.5.
    """
    pieces = functional.pad(waves, (0, 1024)).unfold(1, 640, HOP)[:, :frames]
    spectrum = torch.fft.rfft(pieces[..., 120:520] * torch.hann_window(400), n=400).abs().square()
    bands = (spectrum @ _mel_bands() + 1e-8).log10() * 0.5 - 0.5
    centred = (pieces - pieces.mean(-1, keepdim=True)) * torch.hann_window(640)
    power = torch.fft.rfft(centred, n=1280).abs().square()
    correlation = torch.fft.irfft(power)[..., : RATE // PITCH_LOW + 1]
    # The window's own correlation falls with the lag; divided out, a long period is not at a disadvantage.
    window = torch.fft.irfft(torch.fft.rfft(torch.hann_window(640), n=1280).abs().square())
    shape = window[: correlation.shape[-1]] / window[0]
    relative = correlation / (correlation[..., :1] + 1e-7) / shape
    first = RATE // PITCH_HIGH
    # Twice the period fits as well as the period: a little preference for the shorter one avoids octave errors.
    preference = 0.05 * torch.log2(torch.arange(first, correlation.shape[-1]).float())
    lag = (relative[..., first:] - preference).argmax(-1) + first
    height = relative.gather(-1, lag[..., None])[..., 0]
    octaves = torch.log2(RATE / lag.float() / 160.0)
    voicing = height.clamp(0, 1)
    return torch.cat([bands, octaves[..., None], voicing[..., None]], -1), voicing > 0.5


def concordance(predicted: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Lin's concordance correlation coefficient per column of [B, 3]: 1 is perfect, 0 no better than the mean."""
    p, r = predicted - predicted.mean(0), reference - reference.mean(0)
    covariance = (p * r).mean(0)
    apart = (predicted.mean(0) - reference.mean(0)).square()
    return 2 * covariance / (p.square().mean(0) + r.square().mean(0) + apart + 1e-8)


class EmotionTask:
    """Net and data; `terms` makes the losses of one step."""

    def __init__(self, net: EmotionNet, options: EmotionSteps, rows: Sequence[Utterance], steps: int):
        self.net, self.options, self.rows, self.steps = net, options, rows, steps
        self.pieces = Pieces(options, rows)
        self.ahead: Executor | None = None
        self._next: tuple[int, Future[list[np.ndarray]]] | None = None
        self.targets = targets(rows)
        self.classes = torch.tensor([class_index(row) for row in rows])
        counts = torch.bincount(self.classes[self.classes >= 0], minlength=len(PROMPT_EMOTIONS)).clamp(min=1)
        self.class_weights = counts.float().mean() / counts  # a rare class counts as much as a frequent one

    def terms(self, step: int, seed: int) -> dict[str, torch.Tensor]:
        options = self.options
        chosen, pieces = self._pieces(step, seed)
        waves, samples = pad_waves(pieces)
        with torch.autocast("cpu", torch.bfloat16):
            predicted, embedding, features, frames = self.net(waves, samples)
            classes, acoustic = self.net.classes(embedding), self.net.acoustics(features)
        reference = self.targets[chosen]
        predicted = predicted.float()
        ccc = 1 - concordance(predicted, reference).mean()
        mse = functional.mse_loss(predicted, reference)
        ce = functional.cross_entropy(
            classes.float(), self.classes[chosen], self.class_weights, ignore_index=IGNORE_INDEX
        )
        rows = slice(options.acoustic_rows)
        acoustic = acoustic_loss(acoustic[rows].float(), waves[rows], frames[rows])
        weight = options.acoustic_weight * (1 - 0.8 * step / self.steps)
        loss = ccc + mse + options.class_weight * ce + weight * acoustic
        return {"loss": loss, "ccc_loss": ccc, "ce": ce, "acoustic": acoustic}

    def _pieces(self, step: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Which utterances a step hears, and what of them."""
        chosen, _ = self.pieces.chosen(step, seed)
        if self.ahead is None:
            return chosen, self.pieces(step, seed)
        place, found = self._next or (-1, None)
        if found is None or place != step:
            found = self.ahead.submit(_held_pieces, step, seed)
        self._next = step + 1, self.ahead.submit(_held_pieces, step + 1, seed)
        return chosen, found.result()

    @contextmanager
    def making_ahead(self) -> Iterator[None]:
        """Another process makes the pieces of the next step during this one."""
        with process_pool(1, partial(_hold, self.pieces)) as self.ahead:
            yield
        self.ahead = self._next = None


class Pieces:
    """The disturbed, normalised pieces of a step; they depend on (seed, step) alone.

    Attributes:
        samples: of each utterance.
    """

    def __init__(self, options: EmotionSteps, rows: Sequence[Utterance]):
        self.options, self.rows = options, rows
        self.samples = speech_data.sample_counts(rows)
        self.order = np.argsort(self.samples, kind="stable")

    def chosen(self, step: int, seed: int) -> tuple[np.ndarray, np.random.Generator]:
        """Indices of the utterances of a step, and what the rest is drawn from."""
        rng = np.random.default_rng([seed, step])
        return speech_data.like_lengths(self.order, self.options.batch, rng, window=1024), rng

    def __call__(self, step: int, seed: int) -> list[np.ndarray]:
        chosen, rng = self.chosen(step, seed)
        return [self._piece(int(i), rng) for i in chosen]

    def _piece(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """Of utterance `index`, float32 [at most `crop` seconds]."""
        wave = speech_data.read_wave(self.rows[index])
        wave, _ = disturb(wave, rng, self.options.disturbance)
        if rng.random() < self.options.silence:
            wave = np.pad(wave, (rng.uniform(*self.options.silence_seconds, size=2) * RATE).astype(int))
        wave = normalized(wave)
        size = int(self.options.crop * RATE)
        begin = int(rng.integers(0, max(1, len(wave) - size)))
        return wave[begin : begin + size]


_HELD: list[Pieces] = []  # in the process that makes them ahead: sent once, and not in every step


def _hold(pieces: Pieces) -> None:
    _HELD[:] = [pieces]


def _held_pieces(step: int, seed: int) -> list[np.ndarray]:
    return _HELD[0](step, seed)


def acoustic_loss(predicted: torch.Tensor, waves: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the acoustic head [B, T, ACOUSTICS] on real frames, pitch on voiced ones."""
    wanted, voiced = acoustics(waves, predicted.shape[1])
    error = (predicted - wanted).square()
    pitch, rest = error[..., BANDS], torch.cat([error[..., :BANDS], error[..., BANDS + 1 :]], -1)
    counted = (frames & voiced).float()
    spectral = rest.mean(-1)[frames].mean()
    return spectral + (pitch * counted).sum() / counted.sum().clamp(min=1)


def targets(rows: Sequence[Utterance]) -> torch.Tensor:
    """Arousal, dominance, valence of the utterances, 0..1, float32 [rows, 3].

    Raises:
        RellmError: an utterance has no rating.
    """
    for row in rows:
        if row.dimensions() is None:
            raise RellmError(f"{row.key} has no ratings of {', '.join(DIMENSIONS)}")
    return torch.tensor([[getattr(row, name) for name in DIMENSIONS] for row in rows], dtype=torch.float32)


def class_index(row: Utterance) -> int:
    """Index into `PROMPT_EMOTIONS`, or IGNORE_INDEX for an utterance of no such class."""
    return PROMPT_EMOTIONS.index(row.emotion) if row.emotion in PROMPT_EMOTIONS else IGNORE_INDEX
