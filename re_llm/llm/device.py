"""Which device, dtype and attention a model is loaded with: one choice for inference, training and the doctor."""

from __future__ import annotations

import importlib.util

import torch

from re_llm.core.errors import RellmError

HALF_FROM = 512  # channels; `python benchmarks/laptop.py` measures both sides of it
ATTENTIONS = ("auto", "eager", "sdpa", "flash_attention_2")
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


def half_on_cpu() -> torch.dtype:
    """bfloat16 where this processor multiplies it in hardware (AMX, AVX512-BF16), float32 elsewhere."""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def can_pack(weight: torch.Tensor) -> bool:
    """Whether torch can pack a weight here: bfloat16 on a CPU for which oneDNN has such products."""
    if weight.device.type != "cpu" or weight.dtype is not torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pick_dtype(name: str, device: torch.device, *, width: int = 0) -> torch.dtype:
    """`auto` is bfloat16 on an accelerator; on a CPU float32, or `half_on_cpu` for a model that is wide enough to gain.

    Args:
        width: channels of the LLM; those of less than `HALF_FROM` are no faster in bfloat16.

    Raises:
        RellmError: an unknown name.
    """
    if name == "auto":
        if device.type != "cpu":
            return torch.bfloat16
        return half_on_cpu() if width >= HALF_FROM else torch.float32
    if name not in DTYPES:
        raise RellmError(f"unknown dtype {name!r}", allowed=", ".join(("auto", *DTYPES)))
    return DTYPES[name]


def pick_attention(name: str, device: torch.device, *, training: bool = False) -> str | None:
    """Name of an attention implementation in transformers; None = its default, `sdpa` for the usual LLMs.

    `auto` is the default, but for a training on a CPU: there the backward pass of `eager` is faster.

    Raises:
        RellmError: an unknown name, or FlashAttention without a GPU or its package.
    """
    if name not in ATTENTIONS:
        raise RellmError(f"unknown attention {name!r}", allowed=", ".join(ATTENTIONS))
    if name == "auto":
        return "eager" if training and device.type == "cpu" else None
    if name == "flash_attention_2":
        if device.type != "cuda":
            raise RellmError(f"flash_attention_2 does not run on {device.type}", allowed="auto, eager, sdpa")
        if importlib.util.find_spec("flash_attn") is None:
            raise RellmError(
                "flash_attention_2 needs the package flash-attn", todo="pip install flash-attn, or use sdpa"
            )
    return name
