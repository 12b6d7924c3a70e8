"""States of a frozen Whisper encoder for emotion training: every recording and its disturbed copies, encoded once.

`states.bin` holds float16 windows [W, K, 2, Ds] (re_llm.model.shared_emotion.Windows) of one recording after another,
`index.jsonl` a line for each. A recording is known by its content, so a store serves any manifests, folds and seeds,
and one that was killed goes on where it ended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from re_llm.audio import waveform
from re_llm.audio.content import segment_hash
from re_llm.core.files import disk_error, lock
from re_llm.core.progress import progress_bar
from re_llm.llm.rows import batches_by_length
from re_llm.model.shared_emotion import Windows
from re_llm.model.speech_layers import SpeechLayers
from re_llm.recipe.emotion import AugmentOptions, SharedOptions
from re_llm.train.emotion.augment import augmented
from re_llm.train.emotion.conditions import CONDITIONS, under
from re_llm.train.emotion.rows import Labelled
from re_llm.train.features import fingerprint

CHUNK = 64  # waves in memory at a time, sorted by length
BATCH = 8
Copy = int | str  # 0 is the recording, 1 and more are disturbed copies, a name is one of CONDITIONS
Encoded = tuple[str, Copy, np.ndarray, int]  # recording, copy, windows, states that they hold


def recording_id(row: Labelled) -> str:
    """What tells a recording from every other one: its content, and the segment in it."""
    return segment_hash(row.audio, row.start, row.duration)


@dataclass(frozen=True)
class Encoding:
    """How states are made: what decides them beside the recording."""

    options: SharedOptions
    augment: AugmentOptions
    hearing: SpeechLayers

    def digest(self) -> str:
        """Name of a store of such states."""
        encoder = fingerprint(self.hearing.encoder, [*self.options.layers, self.options.pool])
        settings = {
            "encoder": encoder,
            "window": self.options.speech_window,
            "augment": self.augment.model_dump(mode="json", exclude={"copies"}),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def wave(self, row: Labelled, name: str, copy: Copy) -> waveform.Samples:
        """A recording (copy 0), one of its disturbed copies, or the recording under a condition."""
        wave = waveform.load(row.audio, start=row.start, duration=row.duration)
        if copy == 0:
            return wave
        number = copy if isinstance(copy, int) else 1000 + list(CONDITIONS).index(copy)
        rng = np.random.default_rng([int(name[:8], 16), number])
        return under(copy, wave, rng) if isinstance(copy, str) else augmented(wave, self.augment, rng)

    def windows(self, waves: Sequence[waveform.Samples]) -> list[tuple[np.ndarray, int]]:
        """[W, K, 2, Ds] float16 of every recording of a batch, and the states that they hold."""
        states, lengths = self.hearing(waves, self.options.layers)
        found = Windows.of(states, lengths, self.options.pool)
        held = (found.counts > 0).sum(1).tolist()
        made = [found.statistics[i, :n].half().cpu().numpy() for i, n in enumerate(held)]
        return list(zip(made, lengths.tolist(), strict=True))


@dataclass(frozen=True)
class Place:
    """Where the windows of a recording are, how many, and how many states they hold."""

    first: int
    windows: int
    states: int


class StateStore:
    """Windows of recordings and their copies, by content.

    Args:
        folder: holds one folder for each encoding.
        width: Ds.
    """

    def __init__(self, folder: Path, encoding: Encoding, width: int):
        self.encoding = encoding
        self.folder = folder / encoding.digest()
        self.shape = (len(encoding.options.layers), 2, width)
        self.places: dict[tuple[str, Copy], Place] = {}  # by recording and copy
        self.names: dict[str, str] = {}  # key of an utterance -> recording
        with lock(self.folder, folder=True, wait=True):
            self._resume()
        self._map()

    @property
    def _bytes(self) -> int:
        """Of a window."""
        return 2 * int(np.prod(self.shape))

    def _resume(self) -> None:
        """Reads the index up to what is whole, and cuts both files there."""
        index, states = self.folder / "index.jsonl", self.folder / "states.bin"
        held = states.stat().st_size // self._bytes if states.is_file() else 0
        good, end = 0, 0
        if index.is_file():
            with index.open("rb") as lines:
                for line in lines:
                    try:
                        name, copy, *numbers = json.loads(line)
                        place = Place(*numbers)
                    except (ValueError, TypeError):
                        break
                    if not line.endswith(b"\n") or place.first + place.windows > held:
                        break
                    self.places[name, copy] = place
                    good, end = good + len(line), place.first + place.windows
            os.truncate(index, good)
        if states.is_file():
            os.truncate(states, end * self._bytes)

    def _map(self) -> None:
        total = sum(place.windows for place in self.places.values())
        path = self.folder / "states.bin"
        self._held = np.memmap(path, np.float16, "r", shape=(total, *self.shape)) if total else np.empty(0)

    def fill(self, rows: Sequence[Labelled], copies: Sequence[Copy], *, progress: bool = True) -> None:
        """Encodes what is not there yet; another process that does the same is waited for.

        Raises:
            RellmError: a recording cannot be read (names it), or the disk is full.
        """
        for row in rows:
            if row.key not in self.names:
                self.names[row.key] = recording_id(row)
        unique = {self.names[row.key]: row for row in rows}
        wanted = [(name, copy, row) for copy in copies for name, row in unique.items()]
        if all(each[:2] in self.places for each in wanted):
            return
        try:
            with lock(self.folder, folder=True, wait=True):
                self._resume()
                self._write(wanted, progress)
        except OSError as error:
            raise disk_error(self.folder, error) from error
        self._map()

    def _write(self, wanted: Sequence[tuple[str, Copy, Labelled]], progress: bool) -> None:
        todo = [each for each in wanted if each[:2] not in self.places]
        with (
            (self.folder / "states.bin").open("ab") as states,
            (self.folder / "index.jsonl").open("ab") as index,
            progress_bar("encode", len(wanted), done=len(wanted) - len(todo), show=progress) as advance,
        ):
            for first in range(0, len(todo), CHUNK):
                for batch in self._encoded(todo[first : first + CHUNK]):
                    self._append(batch, states, index)
                    advance(len(batch))

    def _encoded(self, todo: Sequence[tuple[str, Copy, Labelled]]) -> Iterator[list[Encoded]]:
        waves = [self.encoding.wave(row, name, copy) for name, copy, row in todo]
        for batch in batches_by_length([len(wave) for wave in waves], BATCH):
            found = self.encoding.windows([waves[i] for i in batch])
            yield [(*todo[i][:2], *made) for i, made in zip(batch, found, strict=True)]

    def _append(self, batch: Sequence[Encoded], states: IO[bytes], index: IO[bytes]) -> None:
        first = states.tell() // self._bytes
        lines = []
        for name, copy, windows, held in batch:
            states.write(windows.tobytes())
            place = self.places[name, copy] = Place(first, len(windows), held)
            lines.append(json.dumps([name, copy, *vars(place).values()]) + "\n")
            first += len(windows)
        states.flush()  # the windows first: a line without them would be believed
        index.write("".join(lines).encode())
        index.flush()

    def batch(self, keys: Sequence[str], copies: Sequence[Copy]) -> Windows:
        """Windows of utterances, padded to the longest."""
        places = [self.places[self.names[key], copy] for key, copy in zip(keys, copies, strict=True)]
        longest, pool = max(place.windows for place in places), self.encoding.options.pool
        found = np.zeros((len(keys), longest, *self.shape), np.float16)
        for row, place in zip(found, places, strict=True):
            row[: place.windows] = self._held[place.first : place.first + place.windows]
        held = torch.tensor([place.states for place in places])[:, None] - pool * torch.arange(longest)
        return Windows(torch.from_numpy(found).float(), held.clamp(0, pool).float())

    def length(self, key: str, copy: Copy = 0) -> int:
        """Windows of a recording or one of its copies."""
        return self.places[self.names[key], copy].windows
