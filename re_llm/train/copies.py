"""Disturbed copies of the recordings that a stage trains on (`augment` of a stage)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from re_llm.audio.waveform import Samples
from re_llm.recipe.emotion import AugmentOptions
from re_llm.recipe.stages import StageOptions
from re_llm.train.emotion.augment import augmented


@dataclass(frozen=True)
class Copies:
    """How the copies of recordings are made: 0 is the recording itself, 1 and more are disturbed.

    A copy depends on the recording's segment, its number and the options, so that it is the same in every epoch,
    process and run, and is encoded once.
    """

    options: AugmentOptions

    @classmethod
    def of(cls, stage: StageOptions) -> Copies:
        """Of a stage; none where it has no `augment`."""
        return cls(stage.augment or AugmentOptions(copies=0))

    @cached_property
    def _told(self) -> str:
        return self.options.model_dump_json(exclude={"copies"})

    def numbers(self) -> range:
        """Of the recording and its copies."""
        return range(self.options.copies + 1)

    def id(self, segment: str, number: int) -> str:
        """Id of a copy of the segment with this id: 32 hexadecimal digits."""
        if number == 0:
            return segment
        return hashlib.blake2b(f"{segment} {number} {self._told}".encode(), digest_size=16).hexdigest()

    def wave(self, samples: Samples, segment: str, number: int) -> Samples:
        """A copy of samples [N] at 16 kHz."""
        if number == 0:
            return samples
        return augmented(samples, self.options, np.random.default_rng(int(self.id(segment, number), 16)))
