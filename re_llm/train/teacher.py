"""What the teacher of response_kl predicts, kept on disk: the likeliest tokens at each response token.

FOLDER/teacher-HASH/ is a `StateStore` by the key of a row (`re_llm.train.collate`); a row of it holds the k
log-probabilities of a position, and the k ids in the bits of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from re_llm.core import files
from re_llm.model.modeling import ReLlmForConditionalGeneration
from re_llm.model.partial_lora import split_weights
from re_llm.model.predictions import TopTokens
from re_llm.recipe.stages import StageOptions
from re_llm.train.features import fingerprint
from re_llm.train.store import StateStore


class TeacherStore:
    """The teacher's likeliest tokens, by row.

    Attributes:
        folder: where they are kept.
        k: how many of a position, at most the vocabulary.
    """

    def __init__(self, folder: Path, k: int):
        self.folder, self.k, self._store = folder, k, StateStore(folder)

    @classmethod
    def of(cls, folder: Path, stage: StageOptions, model: ReLlmForConditionalGeneration) -> TeacherStore | None:
        """The store of a stage and its LLM in the folder of the encoder states; None where none is wanted."""
        if stage.teacher_top_k is None:
            return None
        decides = [stage.teacher_top_k, stage.temperature, stage.kl_at, stage.precision]
        found = fingerprint(split_weights(model.language_model.state_dict())[0], decides)
        return cls(folder / f"teacher-{found[:16]}", stage.teacher_top_k)

    def get(self, keys: Sequence[str], device: torch.device) -> TopTokens | None:
        """Of the positions of these rows, one row after the other; None when one is not kept yet."""
        if not all(key in self._store for key in keys):
            return None
        rows = np.concatenate([self._store.get(key) for key in keys])
        log_p, ids = np.split(rows, 2, axis=1)
        ids = np.ascontiguousarray(ids).view(np.int32).astype(np.int64)
        return TopTokens(torch.from_numpy(ids).to(device), torch.from_numpy(log_p.copy()).to(device))

    def add(self, keys: Sequence[str], counts: Sequence[int], tokens: TopTokens) -> None:
        """Keeps those of rows with `counts` positions each.

        Raises:
            RellmError: the disk is full.
        """
        ids = tokens.ids.cpu().numpy().astype(np.int32).view(np.float32)
        rows = np.concatenate([tokens.log_p.cpu().numpy(), ids], axis=1)
        parts = np.split(rows, np.cumsum(counts)[:-1])
        try:
            self._store.add(dict(zip(keys, parts, strict=True)))
        except OSError as error:
            raise files.disk_error(self.folder, error) from error
