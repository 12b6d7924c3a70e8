"""Carries out plans one after another; test_processes.py starts it with torchrun, in several processes.

train_together.py FILE    a pickled list of `Job`
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from torch.distributed.fsdp import fully_shard

from re_llm.train import setup
from re_llm.train.plan import Plan
from re_llm.train.run import train


@dataclass(frozen=True)
class Job:
    """A training. `stop`: the step at which it is interrupted. `sharded`: the model is shared out, as FSDP2 does."""

    plan: Plan
    out: Path
    features: Path | None = None
    stop: int | None = None
    sharded: bool = False


@contextmanager
def stopped_at(step: int | None) -> Iterator[None]:
    """Inside, a training ends at a step as if it were interrupted there."""

    class Stops(setup.ReLlmTrainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == step:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    with mock.patch.object(setup, "ReLlmTrainer", Stops), suppress(KeyboardInterrupt):
        yield


class Sharded(setup.ReLlmTrainer):
    """The layers of the LLM, and the rest together, shared out over the processes; accelerate does so on GPUs alone."""

    def __init__(self, objective, *args, **kwargs):
        names = objective._no_split_modules
        for layer in [m for m in objective.modules() if type(m).__name__ in names]:
            fully_shard(layer)
        fully_shard(objective)
        super().__init__(objective, *args, **kwargs)
        objective.sharded = True
        self.is_distributed_loading_by_transformers = True  # so it puts nothing around the model


def main() -> None:
    for job in pickle.loads(Path(sys.argv[1]).read_bytes()):
        kind = mock.patch.object(setup, "ReLlmTrainer", Sharded) if job.sharded else stopped_at(job.stop)
        with kind:
            train(job.plan, job.out, progress=False, device="cpu", features=job.features)


if __name__ == "__main__":
    main()
