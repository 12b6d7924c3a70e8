"""States of the frozen encoders, computed once per utterance and kept on disk.

With frozen encoders every epoch, every stage over the same encoders and every ablation reads the same states. Only real
frames are stored, in float16, one after another: `states.bin` [frames of all utterances, width] with offsets.
B batch, T frames, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from re_llm.cluster.engines import HERE, Where
from re_llm.cluster.work import Cluster, batched
from re_llm.core.progress import progress_bar
from re_llm.core.records import disk_error
from re_llm.model.outputs import EncodedAudio
from re_llm.train.data import Example
from re_llm.train.encode import Encoded, EncodeWork, encode_examples

READ_AHEAD = 256  # utterances decoded and sorted by length at a time: bounds the memory


def fingerprint(encoder: Any, settings: Any) -> str | None:
    """Hash of an encoder's weights and settings: states of other weights are never mistaken for these."""
    if encoder is None:
        return None
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        flat = tensor.detach().float().flatten()
        # A stride keeps this to a second at paper size; any real change of weights touches these entries.
        digest.update(name.encode() + flat[:: max(1, flat.numel() // 4096)].cpu().numpy().tobytes())
    return digest.hexdigest()


def fingerprints(model: Any) -> dict[str, str | None]:
    """Fingerprints of both encoders; None where the model has none."""
    frames = model.config.fusion == "frames"
    return {
        "speech": fingerprint(model.speech_encoder, model.config.speech_window),
        "emotion": fingerprint(model.emotion_encoder, "frames" if frames else "pooled"),
    }


class FeatureStore:
    """Encoder states of a list of utterances, read by key.

    Args:
        folder: holds `states.bin`, `emotion.npy` or `emotion.bin`, `index.json`.
    """

    def __init__(self, folder: Path):
        index = json.loads((folder / "index.json").read_text())
        self.position = {key: i for i, key in enumerate(index["keys"])}
        self.offsets = np.asarray(index["offsets"], dtype=np.int64)
        total, width = int(self.offsets[-1]), int(index["width"])
        self.states = np.memmap(folder / "states.bin", dtype=np.float16, mode="r", shape=(total, width))
        self.emotion: np.ndarray | None = None
        if index["emotion"] == "pooled":
            self.emotion = np.load(folder / "emotion.npy", allow_pickle=False)
        elif index["emotion"] == "frames":
            shape = (total, int(index["emotion_width"]))
            self.emotion = np.memmap(folder / "emotion.bin", dtype=np.float16, mode="r", shape=shape)
        self.emotion_kind: str = index["emotion"]

    def length(self, key: str) -> int:
        """Number of encoder frames of an utterance."""
        i = self.position[key]
        return int(self.offsets[i + 1] - self.offsets[i])

    def batch(self, keys: Sequence[str], *, with_emotion: bool = True) -> EncodedAudio:
        """States of these utterances, padded with zeros to the longest: [B, T, D]."""
        rows = [self.position[key] for key in keys]
        spans = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in rows]
        states = _padded([self.states[s] for s in spans])
        emotion = None
        if with_emotion and self.emotion is not None:
            if self.emotion_kind == "pooled":
                emotion = torch.from_numpy(self.emotion[rows].astype(np.float32))
            else:
                emotion = _padded([self.emotion[s] for s in spans])
        lengths = torch.tensor([s.stop - s.start for s in spans])
        return EncodedAudio(speech_states=states, speech_lengths=lengths, emotion_states=emotion)


def _padded(parts: Sequence[np.ndarray]) -> torch.Tensor:
    out = np.zeros((len(parts), max(len(p) for p in parts), parts[0].shape[1]), dtype=np.float32)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return torch.from_numpy(out)


def is_complete(folder: Path, wanted: dict[str, str | None], keys: Sequence[str]) -> bool:
    """Whether `folder` holds the states of all these keys, made by these encoders (it may hold more)."""
    index = folder / "index.json"
    if not index.is_file():
        return False
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
        made_by, held = dict(found["fingerprints"]), set(found["keys"])
    except (OSError, ValueError, KeyError, TypeError):  # somebody else's index in the folder beside
        return False
    return held.issuperset(keys) and all(value is None or made_by.get(name) == value for name, value in wanted.items())


class _Writer:
    """Appends the states of batches to the files of a store, and writes its index when all are there."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").unlink(missing_ok=True)
        self.states = (folder / "states.bin").open("wb")
        self.frames = (folder / "emotion.bin").open("wb")
        self.keys: list[str] = []
        self.lengths: list[int] = []
        self.pooled: list[np.ndarray] = []
        self.width = self.frames_width = 0

    def add(self, batch: Sequence[Encoded]) -> None:
        for each in batch:
            self.width = each.states.shape[-1]
            self.states.write(each.states.tobytes())
            if each.emotion is not None and each.emotion.ndim == 2:
                self.frames_width = each.emotion.shape[-1]
                self.frames.write(each.emotion.tobytes())
            elif each.emotion is not None:
                self.pooled.append(each.emotion)
            self.keys.append(each.key)
            self.lengths.append(len(each.states))

    def close(self) -> None:
        self.states.close()
        self.frames.close()

    def finish(self, made_by: dict[str, str | None]) -> None:
        self.close()
        if self.pooled:
            np.save(self.folder / "emotion.npy", np.stack(self.pooled))
        index = {
            "fingerprints": made_by,
            "keys": self.keys,
            "offsets": [0, *np.cumsum(self.lengths).tolist()],
            "width": self.width,
            "emotion": "pooled" if self.pooled else "frames" if self.frames_width else "none",
            "emotion_width": self.frames_width,
        }
        temporary = self.folder / "index.json.tmp"
        temporary.write_text(json.dumps(index), encoding="utf-8")
        temporary.replace(self.folder / "index.json")


def build_store(
    folder: Path,
    examples: Sequence[Example],
    model: Any,
    processor: Any,
    *,
    batch_size: int = 16,
    progress: bool = True,
    where: Where = HERE,
    device: str = "auto",
) -> FeatureStore:
    """Encodes every utterance once, batched by length; skips the work when `folder` or one beside it is complete.

    Args:
        where: machines that encode. On a cluster the model's encoders are sent to them, each part of `READ_AHEAD`
            utterances is encoded by one of them, and the files are the same as without.
        device: of the encoders on a cluster; in this process they run where the model is.

    Raises:
        RellmError: a recording cannot be read (names it), or the disk is full.
    """
    made_by = fingerprints(model)
    keys = [e.key for e in examples]
    # Another stage may have encoded these utterances already, among others.
    for candidate in (folder, *sorted(folder.parent.glob("*"))):
        if is_complete(candidate, made_by, keys):
            return FeatureStore(candidate)
    try:
        with (
            where.connect() as cluster,
            closing(_Writer(folder)) as writer,
            progress_bar("encode", len(examples), show=progress) as advance,
        ):
            for batch in _batches(examples, model, processor, batch_size, cluster, device):
                writer.add(batch)
                advance(len(batch))
            writer.finish(made_by)
    except OSError as error:
        raise disk_error(folder, error) from error
    return FeatureStore(folder)


def _batches(
    examples: Sequence[Example], model: Any, processor: Any, batch_size: int, cluster: Cluster | None, device: str
) -> Iterator[list[Encoded]]:
    parts = batched(examples, READ_AHEAD)
    if cluster is None:
        yield from chain.from_iterable(encode_examples(part, model, processor, batch_size) for part in parts)
    else:
        yield from chain.from_iterable(cluster.map(EncodeWork.of(model, processor, batch_size, device), parts))
