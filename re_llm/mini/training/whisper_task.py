"""What the miniature's Whisper is trained by: transcripts for the decoder, two CTC losses for the encoder.

Shapes: B batch, F log-mel frames (100/s), T encoder frames (50/s), L text tokens, D width, V vocabulary.

Only the encoder is read by the adapter, and a good decoder hides a weak encoder. Two CTC heads on the encoder's
output, for characters and for the decoder's tokens, are therefore trained from the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import WhisperProcessor
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from re_llm.audio.waveform import RATE
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.evaluate.word_errors import plain
from re_llm.llm.rows import pad_rows
from re_llm.mini.training import speech_data
from re_llm.mini.training.speech_data import MelStore
from re_llm.mini.training.whisper_model import FULL_FRAMES, WhisperSize, build_model, decode, gather, trimmed_encoder
from re_llm.model.losses import IGNORE_INDEX

CHARACTERS = " abcdefghijklmnopqrstuvwxyz'0123456789"  # 0 is the CTC blank, so the first is 1


@dataclass(frozen=True)
class WhisperSteps:
    """What the training steps are made of."""

    batch: int = 32
    char_ctc: float = 0.5
    """Weight of the character CTC loss on the encoder; the decoder's cross-entropy has 1."""
    token_ctc: float = 0.3
    """Weight of the token CTC loss on the encoder."""
    short_steps: int = 500
    """Steps over which the longest clip in use grows from the shortest quarter to all clips."""
    pad_fraction: float = 0.2
    """Fraction of batches with up to `pad_frames` of silence after each utterance."""
    pad_frames: int = 150
    full_every: int = 8
    """Every so many steps `full_batch` utterances padded to 30 s are added."""
    full_batch: int = 2
    full_weight: float = 0.15
    """Weight of their loss beside the batch's."""
    warp_fraction: float = 0.7
    """Fraction of the rows whose frequencies are stretched, as a longer or shorter vocal tract would."""
    warp: float = 0.12
    """How much at most. Unseen voices are what the model gets wrong."""

    def __post_init__(self) -> None:
        if not 0 <= self.pad_fraction <= 1:
            raise RellmError(f"pad_fraction is {self.pad_fraction}", allowed="0 to 1")
        if not 0 <= self.warp < 0.5:
            raise RellmError(f"warp is {self.warp}", allowed="0 to 0.5")


class CtcHeads(nn.Module):
    """Characters at 50 frames/s and tokens at 12.5 frames/s from the encoder's states. Used in training only."""

    POOLED = 4  # frames a token score is made from: near the adapter's own rate, and little work

    def __init__(self, width: int, tokens: int):
        super().__init__()
        self.characters = nn.Linear(width, len(CHARACTERS) + 1)
        self.tokens = nn.Linear(width, tokens + 1)

    def losses(
        self, states: torch.Tensor, lengths: torch.Tensor, texts: Sequence[str], token_ids: Sequence[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean negative log-likelihood per character, and per token.

        An utterance with more symbols than frames adds nothing (it has no alignment).
        """
        chars = [character_ids(text) for text in texts]
        pooled = functional.avg_pool1d(states.transpose(1, 2), self.POOLED).transpose(1, 2)
        shifted = [[token + 1 for token in ids] for ids in token_ids]
        return _ctc(self.characters(states), lengths, chars), _ctc(self.tokens(pooled), lengths // self.POOLED, shifted)


def _ctc(logits: torch.Tensor, lengths: torch.Tensor, targets: Sequence[list[int]]) -> torch.Tensor:
    sizes = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([symbol for target in targets for symbol in target])
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    total = functional.ctc_loss(scores, flat, lengths, sizes, reduction="sum", zero_infinity=True)
    return total / sizes.sum()


def character_ids(text: str) -> list[int]:
    """CTC targets of a transcript: 1 + index into `CHARACTERS`; other characters are passed over."""
    return [CHARACTERS.index(c) + 1 for c in plain(text) if c in CHARACTERS]


def read_characters(best: Sequence[int]) -> str:
    """Text of a frame-wise best path: repeats merged, blanks dropped."""
    return "".join(CHARACTERS[symbol - 1] for symbol, _ in groupby(best) if symbol)


class WhisperTask(nn.Module):
    """Model, CTC heads and data; `terms` makes the losses of one step."""

    def __init__(
        self,
        processor: WhisperProcessor,
        size: WhisperSize,
        options: WhisperSteps,
        rows: Sequence[Utterance],
        mels: MelStore,
    ):
        super().__init__()
        self.processor, self.options, self.mels = processor, options, mels
        self.model = build_model(processor.tokenizer, size)
        # torch's fused attention is slow backwards on a CPU: twice the time of a whole step.
        self.model.set_attn_implementation("eager")
        self._encoder = trimmed_encoder(self.model)
        self.heads = CtcHeads(size.width, len(processor.tokenizer))
        self.texts = speech_data.texts(rows)
        self.tokens = [processor.tokenizer(text, add_special_tokens=False).input_ids for text in self.texts]
        self.prefix = list(processor.tokenizer.prefix_tokens)
        self.order = np.argsort(mels.lengths, kind="stable")

    def terms(self, step: int, seed: int) -> dict[str, torch.Tensor]:
        """Losses of a step on encoder, decoder and CTC heads."""
        rng = np.random.default_rng([seed, step])
        options = self.options
        fraction = min(1.0, 0.25 + 0.75 * step / max(1, options.short_steps))
        chosen = speech_data.like_lengths(self.order, options.batch, rng, fraction=fraction)
        silent = rng.random() < options.pad_fraction
        values = self._losses(chosen, rng.integers(0, options.pad_frames, len(chosen)) if silent else None, rng)
        if options.full_every and step % options.full_every == options.full_every - 1:
            few = rng.permutation(len(self.order))[: options.full_batch]
            padded = self._losses(few, FULL_FRAMES - self.mels.lengths[few], rng)
            values["full_ce"] = padded["ce"]
            values["loss"] = values["loss"] + options.full_weight * padded["loss"]
        return values

    def _losses(
        self, chosen: np.ndarray, silence: np.ndarray | None, rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        mels, frames = gather([self.mels[i] for i in chosen], silence)
        mels = warp_frequencies(mels, self.options.warp_fraction, self.options.warp, rng)
        mels = spec_augment(mels, self.mels.lengths[chosen], rng)
        tokens = [self.tokens[i] for i in chosen]
        inputs, labels = self._teacher_forcing(tokens)
        with torch.autocast("cpu", torch.bfloat16):
            states, lengths = self._encoder(mels, frames)
            char, token = self.heads.losses(states, lengths, [self.texts[i] for i in chosen], tokens)
            logits = decode(self.model, inputs, states, lengths)
            ce = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
        loss = ce + self.options.char_ctc * char + self.options.token_ctc * token
        return {"loss": loss, "ce": ce, "char_ctc": char, "token_ctc": token}

    def _teacher_forcing(self, tokens: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Decoder input and labels [B, L]; the prefix carries no loss, the end token does."""
        end = self.processor.tokenizer.eos_token_id
        passed = [IGNORE_INDEX] * (len(self.prefix) - 1)
        inputs, _ = pad_rows([self.prefix + ids for ids in tokens], end)
        labels, _ = pad_rows([[*passed, *ids, end] for ids in tokens], IGNORE_INDEX)
        return inputs, labels


@cache
def _mel_centres() -> np.ndarray:
    """Centre of each of Whisper's 80 mel bands, Hz."""
    highest = float(hertz_to_mel(RATE / 2, mel_scale="slaney"))
    return np.asarray(mel_to_hertz(np.linspace(0.0, highest, 82)[1:-1], mel_scale="slaney"))


def warp_frequencies(mels: torch.Tensor, fraction: float, most: float, rng: np.random.Generator) -> torch.Tensor:
    """Rows of [B, 80, F] with band m read at its frequency times a factor, 1 - `most` to 1 + `most`.

    Vocal tract length perturbation (Jaitly and Hinton, 2013), on the log-mels instead of the waveform.
    """
    bands, centres = np.arange(len(_mel_centres())), _mel_centres()
    factors = np.where(rng.random(len(mels)) < fraction, rng.uniform(1 - most, 1 + most, len(mels)), 1.0)
    at = np.stack([np.interp(centres * factor, centres, bands) for factor in factors])
    low = torch.from_numpy(np.minimum(at.astype(np.int64), len(bands) - 2))
    part = (torch.from_numpy(at).float() - low)[..., None]
    rows = torch.arange(len(mels))[:, None]
    return (1 - part) * mels[rows, low] + part * mels[rows, low + 1]


def spec_augment(mels: torch.Tensor, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Two bands of up to 10 mels and two stretches of up to 0.15 s of each row [B, 80, F] set to the row's mean."""
    for row, length in zip(mels, frames, strict=True):
        level = row[:, :length].mean()
        for _ in range(2):
            width, wide = int(rng.integers(0, 11)), int(rng.integers(0, 16))
            low, begin = int(rng.integers(0, 80 - width)), int(rng.integers(0, max(1, length - wide)))
            row[low : low + width] = level
            row[:, begin : begin + wide] = level
    return mels
