"""Several processes that train one model (torchrun, `accelerate launch`): who they are, and who does what.

The outcome does not depend on their number: a step of the optimiser reads `batch_size * accumulate` rows in any case.
Ranks, devices and barriers are accelerate's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from re_llm.core.errors import RellmError
from re_llm.core.workers import launched
from re_llm.llm.device import pick_device
from re_llm.recipe.stages import StageOptions

PATIENCE = timedelta(days=1)  # of a process that waits for another one, which may be encoding
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of one training, seen from one of them.

    Attributes:
        index: of this process; 0 writes. count: how many there are.
        device: of this process.
    """

    index: int
    count: int
    device: torch.device

    @classmethod
    def start(cls, device: str) -> Processes:
        """Joins the processes that the launcher has started; alone without one.

        Raises:
            RellmError: there is no such device, or one is named for several processes.
        """
        if launched() == 1:
            return cls(0, 1, pick_device(device))
        if device not in ("auto", "cpu", "cuda"):
            raise RellmError(
                f"--device {device} for several processes, which have one each", todo="Leave it out, or give cpu"
            )
        state = PartialState(cpu=pick_device(device).type == "cpu", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def first(self) -> bool:
        return self.index == 0

    def from_first(self, find: Callable[[], T]) -> T:
        """What the first process finds, in all of them."""
        found = [find() if self.first else None]
        if self.count > 1:
            broadcast_object_list(found)
        return found[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


@dataclass(frozen=True)
class Division:
    """What one process does of a step.

    Attributes:
        batch_size: rows of a pass. accumulate: passes before a step of the optimiser.
        parted: the processes have parts of the same batch, else each has batches of its own.
    """

    batch_size: int
    accumulate: int
    parted: bool

    @classmethod
    def of(cls, stage: StageOptions, count: int) -> Division:
        """Whole batches where there are enough of them, since they are as large as the memory allows.

        Raises:
            RellmError: neither `accumulate` nor `batch_size` can be divided by the number of processes.
        """
        if stage.accumulate % count == 0:
            return cls(stage.batch_size, stage.accumulate // count, parted=False)
        if stage.batch_size % count == 0:
            return cls(stage.batch_size // count, stage.accumulate, parted=True)
        raise RellmError(
            f"{count} processes cannot share {stage.accumulate} batches of {stage.batch_size} rows",
            todo="Set the stage's accumulate or batch_size to a multiple of the number of processes",
        )
