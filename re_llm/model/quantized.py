"""The LLM in 8 or 4 bit, through transformers and bitsandbytes; encoders, adapter, heads and LoRA stay as they are.

For answering, and for training what stands around a frozen LLM (QLoRA, Dettmers et al. 2023). A quantised LLM is never
saved: a checkpoint names the one that it was made from.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig

from re_llm.core.errors import MissingExtra, RellmError

KINDS = ("8bit", "4bit")


def quantization(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How the LLM's linear layers are kept: LLM.int8(), or 4-bit NormalFloat with doubly quantised scales.

    The output layer is left out by transformers: its errors would fall on every token.

    Args:
        kind: `8bit` or `4bit`.
        dtype: in which 4-bit layers compute.

    Raises:
        RellmError: another kind.
        MissingExtra: bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise RellmError(f"quantize is {kind!r}", allowed=", ".join(KINDS))
    if find_spec("bitsandbytes") is None:
        raise MissingExtra("bitsandbytes", "quantize", f"quantize {kind}")
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
