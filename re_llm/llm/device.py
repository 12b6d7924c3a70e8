"""Which device and which dtype a model is loaded on: one choice for inference, training, scoring and the doctor."""

from __future__ import annotations

import torch

from re_llm.core.errors import RellmError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA, then Apple's MPS, then the CPU.

    Raises:
        RellmError: the named device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RellmError(f"device {name!r} cannot be used: {reason}", allowed="auto, cpu, cuda, cuda:N, mps") from None
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on an accelerator, float32 on the CPU (short replies gain nothing from bfloat16 there).

    Raises:
        RellmError: an unknown name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise RellmError(f"unknown dtype {name!r}", allowed=", ".join(("auto", *DTYPES)))
    return DTYPES[name]
