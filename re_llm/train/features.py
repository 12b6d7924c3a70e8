"""States of the frozen encoders, computed once per recording and kept on disk.

With frozen encoders every epoch, every stage over the same encoders and every ablation reads the same states. A store
belongs to one encoder and is found by its content: `speech-HASH/` by the hash of all its weights and of what its input
is made with, a row in it by the hash of the recording and of its segment. Nothing else can be taken for it, and nothing
that has been computed is computed again after a kill.

Only real frames are stored. B batch, T frames, D width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from re_llm.cluster.engines import HERE, Where
from re_llm.cluster.work import Cluster
from re_llm.core import files
from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.outputs import EncodedAudio
from re_llm.model.processing import ReLlmProcessor
from re_llm.model.shared_emotion import SharedEmotionEncoder
from re_llm.recipe.emotion import AugmentOptions
from re_llm.train.copies import Copies
from re_llm.train.encode import Encoded, EncodeWork, Part, encode_part
from re_llm.train.examples import ROLES, Example, Examples
from re_llm.train.identity import SegmentIds
from re_llm.train.processes import Processes
from re_llm.train.store import StateStore

READ_AHEAD = 256  # utterances decoded and sorted by length at a time: bounds the memory
VERSION = 1  # rises when the same encoder begins to give other states for the same recording
FRAMES_PER_SECOND = 50
NO_COPIES = Copies(AugmentOptions(copies=0))


def fingerprint(encoder: torch.nn.Module | Mapping[str, torch.Tensor], settings: object) -> str:
    """Hash of all weights of an encoder, or of these by name, their dtypes, and the settings of its input."""
    digest = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True, default=str).encode())
    weights = encoder.state_dict() if isinstance(encoder, torch.nn.Module) else encoder
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def fingerprints(model: ReLlmForConditionalGeneration, processor: ReLlmProcessor) -> dict[str, str]:
    """Fingerprints of the encoders that a model has: `speech`, and `emotion` unless its fusion is none."""
    window = model.config.speech_window
    heard = [window, processor.feature_extractor.to_dict()]
    if processor.speech_level is not None:
        heard.append(processor.speech_level)
    found = {"speech": fingerprint(model.speech_encoder, heard)}
    if model.emotion_encoder is not None:
        how = [model.config.fusion, processor.emotion_input, window if model.config.fusion == "frames" else None]
        if isinstance(model.emotion_encoder, SharedEmotionEncoder):  # it reads the speech encoder's layers
            how.append(found["speech"])
        found["emotion"] = fingerprint(model.emotion_encoder, how)
    return found


@dataclass(frozen=True)
class Features:
    """Encoder states of a list of utterances, read by key.

    Attributes:
        ids: of the utterances' segments, by key.
        copies: disturbed ones that there are of each.
        pooled: the emotion encoder gives one row for the utterance, and not one for each frame.
    """

    ids: SegmentIds
    speech: StateStore
    emotion: StateStore | None = None
    pooled: bool = True
    copies: Copies = NO_COPIES

    def lengths(self, examples: Examples) -> np.ndarray:
        """Number of encoder frames of each utterance. [N]"""
        return self.speech.lengths(self.ids.of(examples))

    def batch(
        self, keys: Sequence[str], felt: Sequence[str] | None = None, heard: Sequence[int] | None = None
    ) -> EncodedAudio:
        """States of these utterances, padded with zeros to the longest: [B, T, D].

        Args:
            felt: utterances whose pooled emotion stands in for theirs.
            heard: which copy of each; None = they themselves.
        """
        heard = heard or [0] * len(keys)
        states = [self.speech.get(each) for each in self._heard(keys, heard)]
        emotion = None
        if self.emotion is not None:
            found = [self.emotion.get(each) for each in self._heard(felt or keys, heard)]
            emotion = _padded(found)[:, 0] if self.pooled else _padded(found)
        lengths = torch.tensor([len(each) for each in states])
        return EncodedAudio(speech_states=_padded(states), speech_lengths=lengths, emotion_states=emotion)

    def _heard(self, keys: Sequence[str], numbers: Sequence[int]) -> list[str]:
        return [self.copies.id(self.ids[key], number) for key, number in zip(keys, numbers, strict=True)]


def _padded(parts: Sequence[np.ndarray]) -> torch.Tensor:
    out = np.zeros((len(parts), max(len(p) for p in parts), parts[0].shape[1]), dtype=np.float32)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(out)


def build_features(
    folder: Path,
    examples: Sequence[Example],
    ids: SegmentIds,
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    *,
    batch_size: int = 16,
    copies: Copies = NO_COPIES,
    progress: bool = True,
    where: Where = HERE,
    device: str = "auto",
    processes: Processes | None = None,
) -> Features:
    """Encodes every recording that the stores in `folder` do not hold, batched by length.

    Args:
        ids: of the examples' segments, by key (`re_llm.train.identity.segment_ids`).
        copies: disturbed ones that are encoded as well.
        where: machines that encode. On a cluster the model's encoders are sent to them, each part of `READ_AHEAD`
            utterances is encoded by one of them, and the files are the same as without.
        device: of the encoders on a cluster; in this process they run where the model is.
        processes: share the work; without a cluster each of them encodes its parts.

    Raises:
        RellmError: a recording cannot be read (names it), or the disk is full, or will be.
    """
    stores = {
        name: StateStore(folder / f"{name}-{found[:16]}") for name, found in fingerprints(model, processor).items()
    }
    features = Features(
        ids, stores["speech"], stores.get("emotion"), pooled=model.config.fusion != "frames", copies=copies
    )
    ids.make_index()
    everyone = processes or Processes(0, 1, model.device)
    parts = _Parts(Examples.of(examples), ids, copies)
    missing = everyone.from_first(lambda: parts.missing(stores))
    if not missing:
        return features
    _refuse_small_disk(folder, parts, missing, model)
    mine = missing[everyone.index :: everyone.count]
    chosen = mine if where == HERE else missing if everyone.first else []
    if chosen:
        total = sum(len(places) for _, places in chosen)
        try:
            with where.connect() as cluster, progress_bar("encode", total, show=progress) as advance:
                for encoded in _encoded(map(parts.of, chosen), model, processor, batch_size, cluster, device):
                    _add(encoded, stores)
                    advance(len(encoded))
        except OSError as error:
            raise files.disk_error(folder, error) from error
    everyone.wait()
    for store in stores.values():
        store.refresh()
    return features


def _add(encoded: Sequence[Encoded], stores: Mapping[str, StateStore]) -> None:
    stores["speech"].add({each.id: each.states for each in encoded})
    if "emotion" in stores:
        stores["emotion"].add({each.id: each.emotion for each in encoded if each.emotion is not None})


PartPlaces: TypeAlias = tuple[int, np.ndarray]  # which copy, and places of examples


class _Parts:
    """The different segments of examples, in parts of `READ_AHEAD`."""

    def __init__(self, examples: Examples, ids: SegmentIds, copies: Copies):
        self.examples, self._ids, self._copies = examples, ids, copies
        self._different = ids.different(examples)

    def of(self, part: PartPlaces) -> Part:
        """What a part encodes."""
        copy, places = part
        examples = [self.examples[place] for place in places.tolist()]
        return Part(examples, [self._ids[each.key] for each in examples], self._copies, copy)

    def missing(self, stores: Mapping[str, StateStore]) -> list[PartPlaces]:
        """Parts of what lacks something that training reads: of a recording whose emotion is exchanged, no emotion.

        Parts are stored whole, so what lacks after a kill falls into the same parts, whose batches round as they would
        have.
        """
        found: list[PartPlaces] = []
        for copy in self._copies.numbers():
            ids = [self._copies.id(segment, copy) for segment in self._ids.of(self.examples)] if copy else None
            there = {name: store.lengths(ids or self._ids.of(self.examples)) >= 0 for name, store in stores.items()}
            held = there["speech"]
            if "emotion" in there:
                held &= there["emotion"] | (self.examples.roles == ROLES.index("exchanged"))
            lacking = self._different[~held[self._different]]
            found += [(copy, lacking[i : i + READ_AHEAD]) for i in range(0, len(lacking), READ_AHEAD)]
        return found

    def seconds(self, parts: Sequence[PartPlaces]) -> list[float]:
        """Of the recordings of some parts; 0 where it is not known."""
        return [s for _, places in parts for s in np.nan_to_num(self.examples.durations[places]).tolist()]


def _refuse_small_disk(
    folder: Path, parts: _Parts, missing: Sequence[PartPlaces], model: ReLlmForConditionalGeneration
) -> None:
    """Raises a RellmError before hours of encoding where the states will not fit."""
    width = model.config.speech_config.d_model
    if model.emotion_encoder is not None and model.config.fusion == "frames":
        width += model.config.emotion_config.hidden_size
    seconds = parts.seconds(missing)
    needed = sum(round(each * FRAMES_PER_SECOND) for each in seconds) * width * 2
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise RellmError(
            f"the encoder states of {len(seconds)} recordings take {needed / 1e9:.3g} GB, and {folder} has "
            f"{free / 1e9:.3g} GB free",
            todo="Give --features on a larger disk, or set the stage's `features` to none",
        )


def _encoded(
    parts: Iterable[Part],
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    batch_size: int,
    cluster: Cluster | None,
    device: str,
) -> Iterator[list[Encoded]]:
    """States of each part."""
    if cluster is None:
        return (encode_part(part, model, processor, batch_size) for part in parts)
    return cluster.map(EncodeWork.of(model, processor, batch_size, device), parts)
