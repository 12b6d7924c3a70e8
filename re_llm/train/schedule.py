"""Learning rate over the optimiser steps, and the steps of its warm-up."""

from __future__ import annotations

import math


def warmup_decay(step: int, *, warmup: int, total: int) -> float:
    """Factor of the learning rate at an optimiser step, counted from 0: that of DeepSpeed's WarmupDecayLR.

    It rises with the logarithm of the step from 0 to 1 during `warmup` steps, and falls in a line to 0 at `total`.
    """
    if step < warmup:
        return math.log(step + 1) / math.log(max(warmup, 2))
    return max(0.0, (total - step) / max(1, total - warmup))


def warmup_steps(wanted: int, total: int) -> int:
    """Steps of the warm-up: those wanted, but at most half of the run."""
    return min(wanted, total // 2)


def warmup_cut(wanted: int, total: int) -> str | None:
    """What a run of `total` steps says when it is too short for its warm-up."""
    steps = warmup_steps(wanted, total)
    return f"{steps} of {wanted} steps, half of the run" if steps < wanted else None
